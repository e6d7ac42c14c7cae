"""millijoule data: photographs to a prepared set, and a look at what is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from millijoule.errors import OptionError

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Turn photographs into a prepared set: decoded once, split by content, checked for duplicates.",
)

SPLIT_NAMES = ("train", "validation", "test")


def _fractions(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.replace(",", "/").split("/"))
    except ValueError as error:
        raise OptionError(f"split {text!r}", "it is not three numbers", "Use for example 0.7/0.2/0.1") from error


class _Bars:
    """Shows progress calls (what, done, total) as rich bars on the error stream."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self.progress.add_task(what, total=total)
        self.progress.update(self._tasks[what], completed=done, total=total)


@app.command()
def prepare(
    kind: Annotated[str, typer.Argument(help="vmmrdb, folder, parquet or toy_vehicles.")],
    out: Annotated[Path, typer.Option(help="Folder for the prepared set; reused while nothing changes.")],
    root: Annotated[Path | None, typer.Option(help="Folder or parquet file with the photographs.")] = None,
    subset: Annotated[
        str | None, typer.Option(help="vmmrdb: msv or msv_sierra_2500. parquet: column=value, only such rows.")
    ] = None,
    resolution: Annotated[int, typer.Option(help="Pixels per side; photos are stretched to this square.")] = 224,
    split: Annotated[str, typer.Option(help="Fractions of train/validation/test.")] = "0.7/0.2/0.1",
    move_near_duplicates: Annotated[
        bool, typer.Option("--move-near-duplicates", help="Put photos that look the same into one split.")
    ] = False,
    image_column: Annotated[str, typer.Option(help="parquet: column with the picture files.")] = "image",
    label_column: Annotated[str, typer.Option(help="parquet: column with the class.")] = "label",
    split_column: Annotated[str | None, typer.Option(help="parquet: column with train, validation or test.")] = None,
    split_file: Annotated[
        Path | None, typer.Option(help='Splits made elsewhere: JSON {"test": [names], ...} or CSV lines name,split.')
    ] = None,
    class_name: Annotated[
        list[str] | None, typer.Option(help="parquet: class names in the order of integer labels; repeat.")
    ] = None,
    per_class: Annotated[int, typer.Option(help="toy_vehicles: pictures per class.")] = 300,
    seed: Annotated[int, typer.Option(help="toy_vehicles: another seed renders another set.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Decode every photograph once and split them by content.

    For example:

        millijoule data prepare folder --root my_photos --out prepared --resolution 96

        millijoule data prepare vmmrdb --root VMMRdb --subset msv --out prepared/msv

        millijoule data prepare parquet --root cars.parquet --out prepared/cars

        millijoule data prepare parquet --root cifar.parquet --split-column split --resolution 32 --out prepared/cifar

        millijoule data prepare toy_vehicles --out prepared/toy --resolution 96
    """
    from millijoule import data

    source = data.open_source(
        kind,
        root=root,
        subset=subset,
        image=image_column,
        label=label_column,
        classes=class_name or None,
        split=split_column,
        per_class=per_class,
        seed=seed,
    )
    bars = _Bars(Console(stderr=True))
    with bars.progress:
        prepared = data.prepare(
            source,
            out,
            resolution=resolution,
            split=_fractions(split),
            move_near_duplicates=move_near_duplicates,
            given=data.read_splits(split_file) if split_file is not None else None,
            progress=bars,
        )
    _print_summary(prepared, as_json)


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="A prepared set.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show classes, splits, skipped pictures and duplicates of a prepared set."""
    from millijoule import data

    _print_summary(data.open_prepared(folder), as_json)


@app.command()
def preview(
    folder: Annotated[Path, typer.Argument(help="A prepared set.")],
    out: Annotated[Path, typer.Option(help="The image to write, .png or .jpg.")] = Path("sheet.png"),
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    per_class: Annotated[int, typer.Option(help="Pictures per class.")] = 8,
    seed: Annotated[int, typer.Option(help="Another seed picks others.")] = 0,
) -> None:
    """Write a contact sheet: some pictures of every class, as the network gets them."""
    from millijoule import data

    data.write_contact_sheet(data.open_prepared(folder).split(split), out, per_class, seed)
    Console().print(f"Wrote {out}", highlight=False, soft_wrap=True)


def _summary(prepared: Any) -> dict[str, Any]:
    """The manifest without the list of its pictures."""
    value: dict[str, Any] = prepared.manifest.to_json()
    value["folder"] = str(prepared.folder)
    value["count"] = len(value.pop("pictures"))
    return value


def _print_summary(prepared: Any, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_summary(prepared), indent=2))
        return
    manifest, console = prepared.manifest, Console()
    counts = manifest.counts()
    table = Table(
        title=f"{manifest.source['kind']}, {manifest.resolution} x {manifest.resolution}", title_justify="left"
    )
    table.add_column("class", overflow="fold")
    for name in (*SPLIT_NAMES, "all"):
        table.add_column(name, justify="right")
    for kind in manifest.classes:
        row = [counts[name][kind] for name in SPLIT_NAMES]
        table.add_row(kind, *map(str, row), str(sum(row)))
    table.add_section()
    totals = [sum(counts[name].values()) for name in SPLIT_NAMES]
    table.add_row("all", *map(str, totals), str(sum(totals)))
    console.print(table)
    _print_given(console, manifest.source.get("splits"))
    _print_list(console, "skipped", [f"{item.name}: {item.reason}" for item in manifest.skipped])
    _print_list(console, "exact duplicates, kept together", [", ".join(group) for group in manifest.duplicates])
    _print_list(console, "exact duplicates with different labels", [", ".join(group) for group in manifest.conflicts])
    _print_list(
        console,
        "near-duplicates across splits",
        [
            f"{pair.first} ({pair.first_split}) and {pair.second} ({pair.second_split}), {pair.distance} bits"
            + (", mirrored" if pair.mirrored else "")
            + (f", moved to {pair.moved_to}" if pair.moved_to else "")
            for pair in manifest.near_duplicates
        ],
    )
    console.print(f"near-duplicates within one split: {manifest.near_duplicates_within}", highlight=False)
    for kind, found in manifest.source.get("classes", {}).items():
        for what in ("missing_years", "empty", "ambiguous"):
            if found[what]:
                text = f"{kind}: {what.replace('_', ' ')}: {', '.join(map(str, found[what]))}"
                console.print(text, highlight=False, markup=False)
    console.print(f"In {prepared.folder}", highlight=False, markup=False, soft_wrap=True)


def _print_given(console: Console, splits: dict[str, Any] | None) -> None:
    if splits is None:
        return
    drawn = ", validation drawn from its training pictures" if splits["validation_drawn_from_train"] else ""
    console.print(f"splits: from {splits['origin']}{drawn}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"pictures without a split, left out: {splits['left_out']}", highlight=False)
    console.print(f"equal pictures across splits: {splits['equal_pictures_across_splits']}", highlight=False)
    _print_list(console, "classes without training pictures", splits["classes_without_training_pictures"])


def _print_list(console: Console, title: str, lines: list[str], limit: int = 10) -> None:
    console.print(f"{title}: {len(lines)}", highlight=False)
    for line in lines[:limit]:
        printable = line.encode("utf-8", "replace").decode()
        console.print(f"  {printable}", highlight=False, markup=False, soft_wrap=True)
    if len(lines) > limit:
        console.print(f"  and {len(lines) - limit} more in manifest.json", highlight=False)
