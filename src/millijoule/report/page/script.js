"use strict";
// Hover, focus or tap on a mark shows its data-tip; Escape or a tap elsewhere hides it.
(() => {
  const tip = document.getElementById("tip");
  // In the chart of the arena a tip begins with its layer, and the pointer chooses a moment of it:
  // "read written bytes", or "read written bytes pass" for one that is `wide` columns wide.
  const textOf = (mark, x) => {
    const layer = mark.closest("[data-moments]");
    if (!layer) return mark.dataset.tip;
    const lines = [layer.dataset.layer, mark.dataset.tip];
    if (x !== null) {
      const moments = layer.dataset.moments.split(";").flatMap((moment) => {
        const [read, written, bytes, ...pass] = moment.split(" ");
        return Array(pass.length ? Number(layer.dataset.wide) : 1).fill({ read, written, bytes, pass: pass.join(" ") });
      });
      const box = layer.firstElementChild.getBoundingClientRect();
      const at = Math.floor(((x - box.left) / box.width) * moments.length);
      const { read, written, bytes, pass } = moments[Math.min(Math.max(at, 0), moments.length - 1)];
      const [rows, results] = (layer.dataset.rows || "").split(" ");
      const when = pass || (rows ? `${read} of ${rows} rows read, ${written} of ${results} written` : "");
      lines.push(`${when ? when + ": " : ""}${Number(bytes).toLocaleString("en")} bytes in use`);
    }
    return lines.join("\n");
  };
  const show = (mark, x, y, pointed = true) => {
    tip.textContent = textOf(mark, pointed ? x : null);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, x + 12), document.documentElement.clientWidth - box.width - 8);
    const top = y - box.height - 12 < 8 ? y + 18 : y - box.height - 12;
    tip.style.left = `${left}px`;
    tip.style.top = `${top}px`;
  };
  const hide = () => { tip.hidden = true; };
  const markOf = (event) => (event.target instanceof Element ? event.target.closest("[data-tip]") : null);
  document.addEventListener("pointermove", (event) => {
    const mark = markOf(event);
    if (mark) show(mark, event.clientX, event.clientY); else if (event.pointerType === "mouse") hide();
  });
  document.addEventListener("pointerdown", (event) => {
    const mark = markOf(event);
    if (mark) show(mark, event.clientX, event.clientY); else hide();
  });
  document.addEventListener("focusin", (event) => {
    const mark = markOf(event);
    if (!mark) return;
    const box = mark.getBoundingClientRect();
    show(mark, box.left + box.width / 2, box.top, false);
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  document.addEventListener("scroll", hide, { passive: true });
})();
