"""`millijoule bench`: what the kernels cost on a whole network, beside this project's goals and the other engines."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
import typer

from millijoule.cli.profile import WEIGHTED
from millijoule.errors import DataError, OptionError
from millijoule.graph import ROUNDINGS, Graph, load_graph, verify

if TYPE_CHECKING:
    from millijoule.boards import Board
    from millijoule.compile import Layer
    from millijoule.deploy import Firmware
    from millijoule.emulate import Profile
    from millijoule.nets import NetworkSpec

app = typer.Typer(no_args_is_help=True, help="What the kernels cost on a whole network, beside goals and peers.")

BOARDS = ("stm32l4r9i", "stm32h7b3i")
"""What `--board all` stands for."""

KINDS = ("first convolution", "convolution", "depthwise", "pointwise", "fused", "dense", "add", "other")
"""Kinds of layers; "convolution" has a window and is not the first; "other" includes what `mj_run` does between."""

DEFAULTS = {"alpha": 0.5, "resolution": 224, "classes": 10, "rounding": "single"}
"""The MobileNetV2 that `REFERENCES` is about."""

CALIBRATION = 4
"""Pictures for the ranges of a network with random weights."""


@dataclass(frozen=True)
class Reference:
    """What the figures of one network on one board stand beside. Cycles, instructions and bytes; None: not known.

    `goals` are figure -> (must, aim); those of the cycles are for the rounding rule "single". `peers` are engine ->
    figure -> value, in the engine's own placement, cycles without wait states.
    """

    goals: Mapping[str, tuple[float, float]]
    peers: Mapping[str, Mapping[str, float]]


PEERS = (
    "peers: the same network built with gcc 12.2 -O3 and emulated; cycles without wait states and with older branch "
    "rules (2 to 5 % fewer than with today's), ours with flash and caches. CMSIS-NN: direct calls, bytes of arena "
    "without its scratch; TinyEngine: not bit-exact; TFLite Micro: with CMSIS-NN"
)
"""The source of the figures in `REFERENCES` (alpha 0.5, 224x224x3, 10 classes)."""

_MEMORY_GOALS = {"arena_bytes": (190_000.0, 170_000.0), "flash_bytes": (840_000.0, 790_000.0)}


def _peers(cmsis_nn: float, tiny_engine: float, tflite_micro: float) -> dict[str, dict[str, float]]:
    """The engines with their cycles on one core; their bytes are the same on both."""
    return {
        "CMSIS-NN": {"cycles": cmsis_nn, "arena_bytes": 752_640, "flash_bytes": 826_635},
        "TinyEngine": {"cycles": tiny_engine, "arena_bytes": 729_320, "flash_bytes": 788_784},
        "TFLite Micro": {"cycles": tflite_micro, "arena_bytes": 887_188, "flash_bytes": 1_089_776},
    }


_M4_INSTRUCTIONS = {"CMSIS-NN": 341.6e6, "TinyEngine": 266.3e6, "TFLite Micro": 347.5e6}

REFERENCES = {
    "stm32l4r9i": Reference(
        {"cycles": (158e6, 125e6), **_MEMORY_GOALS},
        {
            name: {**figures, "instructions": _M4_INSTRUCTIONS[name]}
            for name, figures in _peers(396.4e6, 333.4e6, 404.4e6).items()
        },
    ),
    "stm32h7b3i": Reference({"cycles": (93e6, 70e6), **_MEMORY_GOALS}, _peers(231.4e6, 184.1e6, 239.9e6)),
}


@app.callback()
def _bench() -> None:
    """What the kernels cost on a whole network, beside this project's goals and the other engines."""


@app.command()
def kernels(
    board: Annotated[str, typer.Option("--board", help="A name of `millijoule boards list`, a TOML file, or all.")] = (
        "all"
    ),
    net: Annotated[
        str | None, typer.Option(help="A name of `millijoule nets list`.", show_default="mobilenet_v2")
    ] = None,
    alpha: Annotated[float | None, typer.Option(help="Width multiplier of a MobileNet.")] = None,
    resolution: Annotated[int | None, typer.Option(help="Side of the picture in pixels.")] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes.")] = None,
    rounding: Annotated[
        str | None, typer.Option(help="Requantisation rule: single, double or mulhi.", show_default="single")
    ] = None,
    weight_bits: Annotated[
        int | None,
        typer.Option("--weight-bits", help="8, or 4 for all but depthwise convolutions.", show_default="8"),
    ] = None,
    model: Annotated[Path | None, typer.Option(help="A quantised .mj file instead of --net.")] = None,
    objective: Annotated[str, typer.Option(help="cycles, ram or energy: as for `millijoule deploy compile`.")] = (
        "cycles"
    ),
    ram_budget: Annotated[int | None, typer.Option("--ram-budget", help="Bytes that the arena may have.")] = None,
    tune: Annotated[
        bool, typer.Option("--tune", help="First search the fastest chunk sizes for each board; a dozen inferences.")
    ] = False,
    stream: Annotated[bool, typer.Option("--stream", help="The picture comes row by row and is stored nowhere.")] = (
        False
    ),
    layers: Annotated[bool, typer.Option("--layers", help="Show every layer with its kernels, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Time one inference, every instruction and address, and sum the cycles by kind of layer.

    The network is --net in int8 with random weights (the same every time), or --model; --alpha, --resolution and
    --classes default to what `millijoule nets show` shows. One inference includes the quantisation of the picture and
    the search for the largest logit. MobileNetV2 0.5 at 224 with 10 classes stands beside this project's goals and the
    figures of other engines.

    Example: millijoule bench kernels --board stm32l4r9i

    Example: millijoule bench kernels --board stm32h7b3i --alpha 0.35 --resolution 128 --json

    Example: millijoule bench kernels --net resnet8 --layers

    Example: millijoule bench kernels --weight-bits 4
    """
    from millijoule.boards import load_board
    from millijoule.cli._plan import tuned, tuning_values
    from millijoule.deploy import compile_model

    names = BOARDS if board.lower() == "all" else (board.lower() if board.lower() in BOARDS else board,)
    boards = [load_board(name) for name in names]
    given = {"net": net, "alpha": alpha, "resolution": resolution, "classes": classes, "rounding": rounding}
    given["weight_bits"] = weight_bits
    asked = {name: value for name, value in given.items() if value is not None}
    if model is not None:
        if asked:
            raise OptionError(
                f"--{next(iter(asked))}", "the model's file decides it", "Leave it out, or leave out --model"
            )
        graph = _quantised(model)
        network: dict[str, Any] = {"name": model.stem, "rounding": graph.rounding}
    else:
        from millijoule.nets import family, specify

        spec = specify(net or "mobilenet_v2", alpha=alpha, resolution=resolution, classes=classes)
        options = {name: getattr(spec, name) for name in family(spec.family).options}
        network = {"name": spec.family, **options, "rounding": rounding or "single"}
        graph = random_model(spec, network["rounding"])
        if weight_bits is not None and weight_bits != 8:
            graph = narrowed(graph, weight_bits)
            network["weight_bits"] = weight_bits
    picture = _pictures(graph.tensor(graph.inputs[0]).shape[1:], 1)[0]
    rows = []
    for name, item in zip(names, boards, strict=True):
        found = tuned(graph, item, "dsp", objective, ram_budget) if tune else None
        firmware = compile_model(
            graph,
            item,
            name=network["name"],
            objective=objective,
            ram_budget=ram_budget,
            stream=stream,
            winners=None if found is None else found.winners,
        )
        profile: Any = firmware.profile(picture, method="trace")
        rows.append(_result(item, firmware, profile, _reference(name, network)))
        if found is not None:
            rows[-1]["tuning"] = tuning_values(found)
        if layers:
            rows[-1]["layers"] = _layers(firmware, profile)
    values = {"network": network, "boards": rows}
    typer.echo(json.dumps(values, indent=2) if as_json else _text(values))


def random_model(spec: NetworkSpec, rounding: str) -> Graph:
    """A network in int8 with random weights, the same for the same arguments.

    Neither the instructions nor their cycles depend much on the values of the weights.

    Raises:
        OptionError: an unknown rounding.
        ToolchainError: torch is not installed.
    """
    if rounding not in ROUNDINGS:
        raise OptionError("rounding", f"{rounding!r} is unknown", f"Use one of: {', '.join(ROUNDINGS)}")
    import torch

    from millijoule.interchange import capture
    from millijoule.nets import build
    from millijoule.quantize import static

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = build(spec).eval()
    return static(capture(module, spec), _pictures(spec.input_shape, CALIBRATION), rounding=rounding)


def narrowed(graph: Graph, bits: int) -> Graph:
    """The integer network with weights of 4 bits in all convolutions and dense layers but the depthwise ones.

    Raises:
        OptionError: a number of bits that weights cannot have.
    """
    if bits != 4:
        raise OptionError("weight-bits", f"{bits} bits are not stored", "Use 8 or 4")
    tensors, constants = dict(graph.tensors), dict(graph.constants)
    for node in graph.nodes:
        if node.op not in ("conv2d", "dense"):
            continue
        for name, width in zip(node.inputs[1:], (4, 8), strict=False):  # the bias has the weights' scale
            quant, value = tensors[name].quant, constants[name]
            constants[name] = np.rint(value * (7 / 127)).astype(value.dtype)
            if quant is not None:
                scale = tuple(float(np.float32(step * 127 / 7)) for step in quant.scale)
                tensors[name] = replace(tensors[name], quant=replace(quant, scale=scale, bits=width))
    return verify(replace(graph, tensors=tensors, constants=constants))


def _pictures(shape: Sequence[int], count: int) -> npt.NDArray[np.uint8]:
    """Coloured tiles of 14 x 14 pixels: uint8 (count, height, width, channels)."""
    height, width, channels = shape
    size = (count, math.ceil(height / 14), math.ceil(width / 14), channels)
    tiles = np.random.default_rng(0).integers(0, 256, size).astype(np.uint8)
    return np.ascontiguousarray(tiles.repeat(14, axis=1).repeat(14, axis=2)[:, :height, :width])


def _quantised(model: Path) -> Graph:
    """The model. Raises FormatError for what is none, DataError for a float one."""
    graph = load_graph(model)
    if any(graph.tensor(node.inputs[1]).dtype in ("float32", "float16") for node in graph.nodes if node.op in WEIGHTED):
        raise DataError(
            str(model),
            "it is a float model, and the kernels are for quantised ones",
            "Quantise it first: millijoule quantize static",
        )
    return graph


def _reference(board: str, network: Mapping[str, Any]) -> dict[str, Any] | None:
    """What stands beside the figures of this network on this board: goals and peers, None for most."""
    reference = REFERENCES.get(board)
    wanted = {"name": "mobilenet_v2", **DEFAULTS}
    if reference is None or {**network, "rounding": wanted["rounding"]} != wanted:
        return None
    single = network["rounding"] == "single"
    goals = {figure: goal for figure, goal in reference.goals.items() if single or figure != "cycles"}
    return {"goals": goals, "peers": dict(reference.peers), "source": PEERS}


def _kinds(program_layers: Iterable[Layer]) -> dict[str, str]:
    """The kind of each layer, by its symbol."""
    found: dict[str, str] = {}
    first = True
    for layer in program_layers:
        kind = "other"
        if " + " in layer.operator:
            kind = "fused"
        elif layer.operator == "conv2d":
            window = layer.macs // (math.prod(layer.out_shape) * layer.in_shape[-1])
            kind = "first convolution" if first else ("pointwise" if window == 1 else "convolution")
        elif layer.operator in ("depthwise_conv2d", "dense", "add"):
            kind = layer.operator.removesuffix("_conv2d")
        first = first and "conv2d" not in layer.operator
        found[layer.symbol] = kind
    return found


def _result(board: Board, firmware: Firmware, profile: Profile, reference: Mapping[str, Any] | None) -> dict[str, Any]:
    """The figures of one board as plain values."""
    kinds = _kinds(firmware.program.layers)
    sums: dict[str, dict[str, Any]] = {
        name: {"name": name, "layers": 0, "macs": 0, "instructions": 0, "cycles": 0} for name in KINDS
    }
    for layer in [*profile.layers, profile.outside]:
        row = sums[kinds.get(layer.symbol, "other")]
        row["layers"] += layer.symbol in kinds
        for figure in ("macs", "instructions", "cycles"):
            row[figure] += getattr(layer, figure)
    for row in sums.values():
        counted = row["macs"] and row["name"] != "other"  # most of what is "other" does not multiply
        row["cycles_per_mac"] = row["cycles"] / row["macs"] if counted else None
        row["share"] = row["cycles"] / profile.cycles
    image: Any = firmware.image
    sections, flash = image.section_bytes, image.flash_bytes
    weights = sections.get(".mj_weights", 0)
    code = sections.get(".isr_vector", 0) + sections.get(".text", 0)
    macs = sum(layer.macs for layer in profile.layers)
    return {
        "board": board.name,
        "title": board.title,
        "cycles": profile.cycles,
        "instructions": profile.instructions,
        "milliseconds": profile.milliseconds,
        "macs": macs,
        "cycles_per_mac": profile.cycles / macs if macs else None,
        "arena_bytes": firmware.program.arena_bytes,
        "flash_bytes": flash,
        "flash": {"weights": weights, "code": code, "constants": flash - weights - code},
        "kinds": [row for row in sums.values() if row["layers"] or row["cycles"]],
        "conditions": dict(profile.conditions),
        "model": f"{profile.core} {profile.model_version}, {profile.method}",
        "expected_error": profile.expected_error,
        "reference": reference,
    }


def _layers(firmware: Firmware, profile: Profile) -> list[dict[str, Any]]:
    """The figures of every layer, and of what `mj_run` does between them."""
    used = {layer.symbol: list(layer.sources) for layer in firmware.program.layers}
    return [
        {
            "name": row.name,
            "kernels": used.get(row.symbol, []),
            "macs": row.macs,
            "instructions": row.instructions,
            "cycles": row.cycles,
            "cycles_per_mac": row.cycles / row.macs if row.macs else None,
            "share": row.cycles / profile.cycles,
        }
        for row in [*profile.layers, profile.outside]
    ]


def _layer_text(board: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of the layers; kernels last, since they may be many."""
    lines = [["board", "layer", "MACs", "cycles", "cycles/MAC", "share"]]
    for row in rows:
        share = f"{100 * row['share']:.1f} %"
        lines.append([board, row["name"], _number(row["macs"]), _number(row["cycles"]), _ratio(row), share])
    kernels = ["kernels", *(", ".join(name.removeprefix("mj_") for name in row["kernels"]) for row in rows)]
    return [f"{line}  {names}".rstrip() for line, names in zip(_aligned(lines), kernels, strict=True)]


def _text(values: Mapping[str, Any]) -> str:
    """One aligned table for all boards, and below it for what its figures hold."""
    network = values["network"]
    peers = list(
        dict.fromkeys(name for row in values["boards"] for name in (row["reference"] or {"peers": ()})["peers"])
    )
    goals = ["must", "aim"] if peers else []
    lines = [["board", "figure", "measured", "cycles/MAC", "share", *goals, *peers]]
    for row in values["boards"]:
        reference = row["reference"] or {"goals": {}, "peers": {}}
        for figure, label in LABELS.items():
            beside = [_number(value) for value in reference["goals"].get(figure, (None, None))] if goals else []
            beside += [_number(reference["peers"].get(name, {}).get(figure)) for name in peers]
            per_mac = _ratio(row) if figure == "cycles" else ""
            lines.append([row["board"], label, _number(row[figure]), per_mac, "", *beside])
        for kind in row["kinds"]:
            label = f"{kind['name']}, cycles"
            lines.append([row["board"], label, _number(kind["cycles"]), _ratio(kind), f"{100 * kind['share']:.1f} %"])
    text = [", ".join(f"{name} {value}" for name, value in network.items()), "", *_aligned(lines), ""]
    for row in values["boards"]:
        if "layers" in row:
            text += [*_layer_text(row["board"], row["layers"]), ""]
    for row in values["boards"]:
        if "tuning" in row:
            tuning = row["tuning"]
            text.append(
                f"{row['board']}: {tuning['cycles_before']:,} cycles with the defaults, {tuning['cycles_after']:,} "
                f"tuned; {tuning['tried']} programs, {tuning['traced']} timed now"
            )
    for row in values["boards"]:
        flash = ", ".join(f"{name} {value:,}" for name, value in row["flash"].items())
        text.append(f"{row['board']}: {'; '.join(row['conditions'].values())}; model {row['model']}")
        text.append(f"{row['board']}: expected error of the cycles: {row['expected_error']}")
        text.append(f"{row['board']}: flash bytes: {flash}; arena: activations, scratch and the picture")
    text += sorted({row["reference"]["source"] for row in values["boards"] if row["reference"]})
    return "\n".join(text)


LABELS = {
    "cycles": "cycles",
    "instructions": "instructions",
    "milliseconds": "milliseconds",
    "arena_bytes": "arena bytes",
    "flash_bytes": "flash bytes",
}
"""The figures of a whole inference, and what the table calls them."""


def _number(value: float | None) -> str:
    """A count with commas, a time with two decimals, nothing for None."""
    if value is None:
        return ""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"


def _ratio(row: Mapping[str, Any]) -> str:
    """Cycles per MAC, a dash where it says nothing."""
    return "-" if row["cycles_per_mac"] is None else f"{row['cycles_per_mac']:.3f}"


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells as text: the first two columns to the left, numbers to the right."""
    count = len(lines[0])
    full = [[*line, *[""] * (count - len(line))] for line in lines]
    widths = [max(len(line[column]) for line in full) for column in range(count)]
    return [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in full
    ]
