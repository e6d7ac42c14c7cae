"""Planning options of several commands: the text of `--explain`, and `--tune`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from millijoule.cli._bars import progress_bars
from millijoule.errors import OptionError
from millijoule.graph import Graph

if TYPE_CHECKING:
    from millijoule.boards import Board
    from millijoule.deploy import Tuning

__all__ = ["explanation", "tuned", "tuning_text", "tuning_values"]


def tuned(graph: Graph, board: str | Board, kernels: str, objective: str, ram_budget: int | None) -> Tuning:
    """Searches the fastest options of every block, with a bar.

    Raises:
        OptionError: the objective is ram, which leaves nothing to choose, or the board is "host".
    """
    from millijoule.deploy import tune

    if objective == "ram":
        raise OptionError("--tune", "the objective ram decides the chunks", "Leave out one of the two")
    with progress_bars() as progress:
        return tune(graph, board, kernels=kernels, ram_budget=ram_budget, progress=progress)


def tuning_values(found: Tuning) -> dict[str, Any]:
    """What a search found, as JSON values."""
    from millijoule.compile.recorded import differences

    return {
        "cycles_before": found.cycles_before,
        "cycles_after": found.cycles_after,
        "tried": found.tried,
        "traced": found.traced,
        "winners": {key: differences(options) for key, options in found.winners.items()},
    }


def tuning_text(found: Tuning) -> str:
    """The same as lines."""
    values = tuning_values(found)
    lines = [
        f"tuned      {found.cycles_before:,} cycles with the defaults, {found.cycles_after:,} tuned "
        f"({100 * found.gain:.2f} % fewer); {found.tried} programs, {found.traced} timed now"
    ]
    for key, changed in values["winners"].items():
        lines.append(f"           {key}: {', '.join(f'{name} {value}' for name, value in changed.items())}")
    return "\n".join(lines)


def explanation(values: Mapping[str, Any]) -> str:
    """The facts of `compile.explain` as lines."""
    return "\n".join(_lines(values))


def _lines(values: Mapping[str, Any]) -> Iterator[str]:
    yield f"{values['name']} on {values['target']}, {values['kernels']} kernels, layer by layer"
    for layer in values["layers"]:
        peak = "  <- peak" if layer["name"] in values["peak"] else ""
        yield ""
        yield f"{layer['index']:>3}  {' + '.join(layer['operations'])}"
        yield f"     {layer['live_bytes']:,} bytes alive, {layer['macs']:,} MACs{peak}"
        kernels = ", ".join(item["name"] + (" (assembly)" if item["assembly"] else "") for item in layer["kernels"])
        yield f"     kernels   {kernels}"
        for number, block in enumerate(layer["blocks"]):
            name = f"block {number}" if len(layer["blocks"]) > 1 else "by rows"
            yield f"     {name:<9} {_block(block)}"
        if layer["fallback"]:
            yield f"     by itself {layer['fallback']}"
        for item in layer["overlaps"]:
            yield (
                f"     in place  the result may begin {item['distance']:,} bytes behind {item['input']}, begins "
                f"{item['offset']:,} behind it and shares {item['shared_bytes']:,} bytes with it"
            )
        if layer["memory"]:
            parts = (f"{item['name']} {item['bytes']:,}" for item in layer["memory"] if item["kind"] != "staged")
            yield f"     memory    {', '.join(parts)}"
        if layer["staged"]:
            staged = (f"{item['name']} {item['bytes']:,} ({item['way']})" for item in layer["staged"])
            yield f"     staged    {', '.join(staged)}"
    yield ""
    yield f"arena      {values['arena_bytes']:,} bytes; no plan of these layers can be smaller than " + (
        f"{values['lower_bound']:,} ({values['strategy']})"
    )
    if values["fast_bytes"]:
        yield f"fast       {values['fast_bytes']:,} bytes of it in the board's fastest memory"
    yield f"peak       {'; '.join(values['peak'])}"
    for item in values["lower"]:
        yield f"lower      {item['what']}: {item['arena_bytes']:,} bytes"
    if not values["lower"]:
        yield "lower      nothing that is tried here would"
    for item in values["removed"]:
        yield f"removed    {item['channels']} channels of {item['layer']} that carry no information"
    packed = [item["layer"] for item in values["four_bits"] if item["stored_bits"] == 4]
    if packed:
        yield f"4 bits     weights of {len(packed)} layers are packed in flash: {', '.join(packed)}"
    for item in values["four_bits"]:
        if item["reason"]:
            yield f"8 bits     for the 4-bit weights of {item['layer']}: {item['reason']}"


def _block(block: Mapping[str, Any]) -> str:
    """Rings and chunks of one block."""
    parts = [" + ".join(block["layers"])] if block["fed_by_rows"] or block["feeds_rows"] else []
    if block["whole_map_as_one_row"]:
        parts.append("its whole map as one row")
    if "widened" in block:
        parts.append(f"{block['widened']['rows']} widened rows ({block['widened']['bytes']:,} bytes)")
    if "chunk_pixels" in block:
        parts.append(f"{block['chunk_pixels']} pixels at a time")
    if "planes" in block:
        planes = block["planes"]
        parts.append(f"ring of {planes['rows']} rows of {planes['channels']} planes ({planes['bytes']:,} bytes)")
    if "filter_pixels" in block:
        parts.append(f"{block['filter_pixels']} filtered pixels at a time")
    if "made_again" in block:
        again = block["made_again"]
        channels, pixels = again["channels_at_a_time"], again["pixels_at_a_time"]
        size = f"{channels} channels" if channels else f"a patch under {pixels} pixels"
        parts.append(
            f"made again for every row of the result, {size} at a time, "
            f"from rows of the input that are kept ({again['kept_input_bytes']:,} bytes)"
        )
    if "mean" in block:
        parts.append(
            f"sums for the mean instead of the result, {block['mean']['channels_at_a_time']} channels at a time"
        )
    if "dense" in block:
        dense = block["dense"]
        parts.append(
            f"then {dense['kernel']} from {dense['means']:,} means, which lie over their sums, to "
            f"{dense['features']:,} features, its scratch memory over {dense['scratch_over']}"
        )
    if "kept" in block:
        parts.append(f"{block['kept']['rows']} input rows kept ({block['kept']['bytes']:,} bytes)")
    if block["groups_bytes"]:
        parts.append(f"groups of {block['groups_bytes']:,} bytes")
    if block["feeds_rows"]:
        parts.append("hands its rows to the next block")
    return ", ".join(parts)
