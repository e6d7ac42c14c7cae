"""What the page's tables and charts are filled with, computed from the study's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from millijoule.report import charts
from millijoule.report.paper import PAPER_BOARDS, PAPER_METHODS
from millijoule.report.ram import ram_of
from millijoule.report.timeline import CAUSES, causes_of, timeline_chart

__all__ = [
    "board_of",
    "charts_of",
    "cycles_statement",
    "energy_statements",
    "headline",
    "layer_groups",
    "main_method",
    "method_rows",
    "stall_rows",
    "table_3_rows",
    "timing_statements",
]

Result = Mapping[str, Any]
Row = dict[str, Any]


def board_of(result: Result, name: str) -> Row:
    """The facts of the board called `name`."""
    return next(dict(board) for board in result["boards"] if board["name"] == name)


def _title(result: Result, method: str) -> str:
    return next(str(row["title"]) for row in result["methods"] if row["name"] == method)


def _base(method: str) -> str:
    return method.split("_")[0]


def method_rows(result: Result) -> list[Row]:
    """Table 2: one row per method, with the paper's row beside it."""
    rows = []
    for method in result["methods"]:
        rows.append({**method, "paper": PAPER_METHODS.get(_base(method["name"]))})
    return rows


def table_3_rows(result: Result) -> list[Row]:
    """Table 3: one row per board and deployed method; the paper's figures belong to QAT."""
    rows = []
    for item in result["deployments"]:
        board = board_of(result, item["board"])
        rows.append(
            {
                **item,
                "title": _title(result, item["method"]),
                "board_title": board["title"],
                "clock_mhz": board["clock_hz"] / 1e6,
                "paper": PAPER_BOARDS.get(item["board"]) if _base(item["method"]) == "qat" else None,
            }
        )
    order = {board["name"]: index for index, board in enumerate(result["boards"])}
    methods = {method["name"]: index for index, method in enumerate(result["methods"])}
    return sorted(rows, key=lambda row: (-methods[row["method"]], order[row["board"]]))


MEMORY_WORDS = {
    "none": "without flash wait states and without cache misses: a real board is slower",
    "estimated": "with an estimate of flash wait states and cache misses",
    "modelled": "with flash wait states and caches, access by access",
}
"""What a deployment's `timing.memory` means."""


def memory_of(item: Mapping[str, Any]) -> str:
    """Whether the time of flash and caches is in a deployment's cycles: a key of `MEMORY_WORDS`."""
    timing = item.get("timing")
    return str(timing["memory"]) if timing else "none"


def cycles_statement(deployments: Sequence[Mapping[str, Any]]) -> str:
    """How the cycles of those that ran were made, in half a sentence: "follow the core's timing rules ..."."""
    kinds = sorted({memory_of(item) for item in deployments if item["status"] == "ran"}) or ["none"]
    if len(kinds) == 1:
        return f"follow the core's timing rules {MEMORY_WORDS[kinds[0]]}"
    parts = []
    for kind in kinds:
        names = [_key(item) for item in deployments if item["status"] == "ran" and memory_of(item) == kind]
        parts.append(f"{MEMORY_WORDS[kind]} ({', '.join(names)})")
    return "follow the core's timing rules " + "; ".join(parts)


def timing_statements(result: Result) -> list[str]:
    """One line per board: conditions, model and expected error; the assumptions of results from before these."""
    lines = []
    for item in result["deployments"]:
        timing = item.get("timing")
        if timing:
            conditions = "; ".join(timing["conditions"])
            lines.append(
                f"{board_of(result, item['board'])['title']}: {conditions}; model {timing['model']}; "
                f"expected error of the cycles: {timing['expected_error']}"
            )
        elif item["assumptions"]:
            lines.append(str(item["assumptions"]))
    return list(dict.fromkeys(lines))


def energy_statements(result: Result) -> list[str]:
    """Where the energy of the main method comes from, per board and supply; none in results of before."""
    main = main_method(result)
    lines = []
    for item in result["deployments"]:
        if item["method"] == main and item["status"] == "ran":
            title = board_of(result, item["board"])["title"]
            lines += [
                f"{title}, {_title(result, main)}: {e['statement']}" for e in item["energy"] if e.get("statement")
            ]
    return lines


def stall_rows(result: Result) -> list[Row]:
    """For each deployment whose timing tells causes: cycles lost per cause, as shares of all its cycles."""
    rows = []
    for item in table_3_rows(result):
        stalls = (item.get("timing") or {}).get("stalls")
        if item["status"] == "ran" and stalls is not None:
            causes = causes_of(stalls)
            rows.append(
                {
                    "board": item["board_title"],
                    "title": item["title"],
                    "lost": [causes.get(name, 0) / (item["cycles"] or 1) for name in CAUSES],
                }
            )
    return rows


def main_method(result: Result) -> str:
    """The method whose charts stand in front: QAT, or else the last one that ran on a board, or the last one."""
    ran = [item["method"] for item in result["deployments"] if item["status"] == "ran"]
    return "qat" if "qat" in ran else str(ran[-1] if ran else result["methods"][-1]["name"])


def headline(result: Result) -> list[Row]:
    """The figures at the top of the page: value, unit, what it is."""
    methods = {method["name"]: method for method in result["methods"]}
    best = methods.get("qat") or result["methods"][-1]
    cards = [
        {
            "value": f"{best['accuracy']:.1f}",
            "unit": "%",
            "what": f"accuracy of {best['title']} on {best['pictures']:,} test pictures "
            f"({best['interval'][0]:.1f} to {best['interval'][1]:.1f})",
        },
        {"value": f"{best['flash_bytes'] / 1024:,.0f}", "unit": "KiB", "what": f"model size of {best['title']}"},
    ]
    for item in result["deployments"]:
        if item["method"] != best["name"] or item["status"] != "ran":
            continue
        board = board_of(result, item["board"])
        energy = item["energy"][0]
        cards.append(
            {
                "value": f"{item['milliseconds']:,.1f}",
                "unit": "ms",
                "what": f"{board['title']}, {energy['millijoules']:.3g} mJ, "
                f"arena {item['arena_bytes'] / 1024:,.0f} KiB",
            }
        )
    return cards


def layer_groups(layers: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Cycles and MACs summed by kind of layer, in the order of `charts.GROUPS`."""
    total = sum(layer["cycles"] for layer in layers) or 1
    rows = []
    for group in charts.GROUPS:
        members = [layer for layer in layers if charts.group_of(layer) == group]
        if members:
            cycles, macs = sum(item["cycles"] for item in members), sum(item["macs"] for item in members)
            rows.append(
                {
                    "group": group,
                    "layers": len(members),
                    "cycles": cycles,
                    "share": cycles / total,
                    "macs": macs,
                    "per_mac": cycles / macs if macs else None,
                }
            )
    return rows


def charts_of(result: Result) -> dict[str, Any]:
    """Every chart of the page as SVG text."""
    methods = {method["name"]: method for method in result["methods"]}
    ran = [item for item in result["deployments"] if item["status"] == "ran"]
    return {
        "latency": _latency_chart(result, methods, ran) if ran else "",
        "confusion": [
            {
                "title": method["title"],
                "svg": charts.confusion_chart(
                    method["confusion"], result["data"]["classes"], f"confusion matrix, {method['title']}"
                ),
            }
            for method in result["methods"]
        ],
        "curves": _curves(result),
        "memory": {
            _key(item): charts.memory_chart(
                item["plan"], item["arena_bytes"], item["lower_bound_bytes"], f"memory plan, {_key(item)}"
            )
            for item in ran
            if item["plan"]
        },
        "ram": _ram_charts(result, ran),
        "timeline": {_key(item): _timeline(result, item) for item in ran if item["layers"]},
        "cycles": {
            _key(item): charts.cycles_chart(item["layers"], f"cycles per layer, {_key(item)}")
            for item in ran
            if item["layers"]
        },
    }


def _key(item: Mapping[str, Any]) -> str:
    return f"{item['method']} {item['board']}"


def _ram_charts(result: Result, ran: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The arena of each deployment; of other methods than the main one only what was not drawn before."""
    main = main_method(result)
    found: dict[str, Any] = {}
    drawn: list[Mapping[str, Any]] = []
    for item in sorted((item for item in ran if item.get("ram")), key=lambda item: item["method"] != main):
        like = next((other for other in drawn if _in_use(other) == _in_use(item)), None)
        if item["method"] != main and like is not None:
            found[_key(item)] = {"like": {"method": like["method"], "board": like["board"]}, "uses": []}
        else:
            found[_key(item)] = ram_of(item["ram"], f"the arena row by row, {_key(item)}")
            drawn.append(item)
    return found


def _in_use(item: Mapping[str, Any]) -> list[Any]:
    return [(layer["name"], layer["read"], layer["written"], layer["bytes"]) for layer in item["ram"]["layers"]]


def _timeline(result: Result, item: Mapping[str, Any]) -> str:
    """Layers over time; results from before layers knew their memory take it from the plan."""
    live = item["plan"]["live_bytes"] if item["plan"] else []
    live = live if len(live) == len(item["layers"]) else [0] * len(item["layers"])
    layers = [
        {**layer, "live_bytes": layer.get("live_bytes") or bytes_alive}
        for layer, bytes_alive in zip(item["layers"], live, strict=True)
    ]
    blocks: list[Row] = []
    for layer in layers:
        name = layer.get("block") or layer["name"]
        if blocks and blocks[-1]["name"] == name:
            blocks[-1]["cycles"] += layer["cycles"]
            blocks[-1]["members"].append(layer["name"])
        else:
            blocks.append({"name": name, "cycles": layer["cycles"], "members": [layer["name"]]})
    clock = board_of(result, item["board"])["clock_hz"]
    return timeline_chart(layers, blocks, clock, item["arena_bytes"], f"time of the layers, {_key(item)}")


def _latency_chart(result: Result, methods: Mapping[str, Any], ran: Sequence[Mapping[str, Any]]) -> str:
    boards = [board["name"] for board in result["boards"]]
    points = []
    for item in ran:
        method, board = methods[item["method"]], board_of(result, item["board"])
        short = board["title"].removeprefix("STM32")[:2]
        points.append(
            {
                "x": item["milliseconds"],
                "accuracy": method["accuracy"],
                "interval": method["interval"],
                "method": _base(method["name"]),
                "label": f"{method['title']} {short}",
                "shape": "square" if boards.index(item["board"]) else "circle",
                "tip": f"{method['title']} on {board['title']}: {method['accuracy']:.2f} %, "
                f"{item['milliseconds']:,.1f} ms, {item['energy'][0]['millijoules']:.3g} mJ",
            }
        )
    return charts.accuracy_chart(points, "latency, ms (modelled cycles / clock)", "accuracy against latency")


def _curves(result: Result) -> list[Row]:
    """For each training run: accuracy and loss over the epochs."""
    curves = []
    for name, run in result["training"].items():
        epochs = run["epochs"]
        if not epochs:
            continue
        accuracy, loss = [], []
        for key, label, dashed in (("accuracy", "training", True), ("validation_accuracy", "validation", False)):
            values = [None if epoch.get(key) is None else 100 * epoch[key] for epoch in epochs]
            accuracy.append({"name": _base(name), "label": label, "values": values, "dashed": dashed, "low": True})
        for key, label, dashed in (("loss", "training", True), ("validation_loss", "validation", False)):
            values = [epoch.get(key) for epoch in epochs]
            loss.append({"name": _base(name), "label": label, "values": values, "dashed": dashed})
        title = run["title"]
        curves.append(
            {
                "title": title,
                "accuracy": charts.curve_chart(accuracy, "accuracy, %", f"{title}: accuracy"),
                "loss": charts.curve_chart(loss, "cross-entropy, nats", f"{title}: loss"),
            }
        )
    return curves
