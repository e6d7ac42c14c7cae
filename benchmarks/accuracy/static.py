"""Float, dynamic and static quantisation of the reference network on its 1,392 validation and test photographs.

    python benchmarks/accuracy/static.py --data ../shared/data --cache ../prepared --limit 348 [ROW ...]
    python benchmarks/accuracy/static.py --data ... --cache ... --rounding single double mulhi -- static-mse-bias

Prints one row per configuration as soon as it is measured, in the columns of docs/results/static_baseline.md. With
several rounding rules, each static row is measured with each of them and followed by what differs from the first rule.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from baseline import baseline_graph, photographs
from figures import HEADER, evenly, figures

from millijoule import execute
from millijoule.graph import ROUNDINGS, WEIGHT_AXIS, Graph, arithmetic, simplify
from millijoule.graph.bounds import accumulator_bounds, stored_bounds
from millijoule.graph.conversion import integer_graph
from millijoule.quantize import OBSERVERS, dynamic, flash_bytes, static
from millijoule.quantize.bias_correction import correct_biases
from millijoule.quantize.compare import real_values
from millijoule.quantize.static import calibrate, ranges_from


def mulhi_error(model: Graph) -> str:
    """How far the rounded multipliers of rounding "mulhi" can move a result of this model, whatever the picture."""
    stored, reach, error, shifts = stored_bounds(model), [], [], 0
    for node in model.nodes:
        if node.op not in WEIGHT_AXIS:
            continue
        low, high = accumulator_bounds(model, node, stored)
        reach.append(np.maximum(np.abs(low), np.abs(high)))
        scales = np.asarray(model.quant(node.inputs[1]).scale, dtype=np.float64)
        real = model.quant(node.inputs[0]).scalar_scale * scales / model.quant(node.output).scalar_scale
        multiplier, shift = arithmetic.multipliers(np.broadcast_to(real, reach[-1].shape), "mulhi")
        error.append(reach[-1] * np.abs(multiplier * 2.0 ** (shift - 32.0) - real))
        shifts += np.count_nonzero(shift)
    sums, off = np.concatenate(reach), np.concatenate(error)
    large = sums >= 2**23
    return (
        f"{len(sums)} channels, {shifts} with a left shift; {large.sum()} can sum to 2^23 and more: results off by "
        f"up to {off[large].max(initial=0):.2g} of a step; the others by up to {off[~large].max():.2g}"
    )


REFINED = (
    "none",
    "bias",
    "full",
    "auto",
    "empirical",
    "empirical+round",
    "empirical+adjust+round",
    "empirical+clip+round",
    "equalize+empirical+round",
    "equalize+empirical+adjust+clip+round",
    "empirical+adjust+clip+round",
)
"""Refinements that are measured as `static` applies them, calibration included in the time."""


def timed(make: Callable[[], Graph]) -> Graph:
    """What `make` gives; prints how long it took."""
    began, used = time.perf_counter(), time.process_time()
    model = make()
    print(f"# {time.perf_counter() - began:.1f} s, {time.process_time() - used:.1f} s of one core", flush=True)
    return model


def main() -> None:
    """Measures the rows that are asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cars_body10.parquet and weights/")
    parser.add_argument("--cache", type=Path, required=True, help="where decoded photographs are kept (240 MB)")
    parser.add_argument("--limit", type=int, help="only so many photographs, evenly chosen")
    parser.add_argument("--rounding", choices=ROUNDINGS, nargs="+", default=["single"], help="rules of static rows")
    parser.add_argument("rows", nargs="*", help="row names; all when none is given")
    options = parser.parse_args()
    photos = photographs(options.data / "cars_body10.parquet", options.cache)
    graph = baseline_graph(options.data / "weights" / "baseline_mbv2_0.35_cars.safetensors")
    simplified = simplify(graph)
    chosen = evenly(len(photos.labels), options.limit)
    pictures, labels = np.ascontiguousarray(photos.pictures[chosen]), photos.labels[chosen]

    statistics = {}

    def static_row(observer: str, refine: str, per_channel: bool, rounding: str) -> Graph:
        if not statistics:
            began = time.perf_counter()
            statistics.update(calibrate(simplified, np.asarray(photos.calibration)))
            print(f"# calibration on {len(photos.calibration)} photographs: {time.perf_counter() - began:.1f} s")
        ranges = ranges_from(simplified, statistics, observer)
        converted = integer_graph(simplified, ranges, rounding=rounding, per_channel=per_channel)
        if refine == "none":
            return converted
        return correct_biases(simplified, converted, {name: seen.mean for name, seen in statistics.items()})

    rows: dict[str, Callable[[str], Graph]] = {
        "dynamic": lambda _rule: dynamic(graph),
        "dynamic-none": lambda _rule: dynamic(graph, refine="none"),
    }
    for per_channel in (True, False):
        for refine in ("bias", "none"):
            for observer in OBSERVERS:
                name = f"static-{observer}-{refine}" + ("" if per_channel else "-per_tensor")
                rows[name] = lambda rule, o=observer, r=refine, p=per_channel: static_row(o, r, p, rule)

    calibration = np.asarray(photos.calibration)
    for scope in ("", "-per_tensor"):
        for refine in REFINED:
            rows[f"static-refine-{refine}{scope}"] = lambda rule, r=refine, p=not scope: timed(
                lambda: static(graph, calibration, rounding=rule, refine=r, per_channel=p)
            )
        for refine in ("bias", "full"):
            rows[f"data_free-{refine}{scope}"] = lambda rule, r=refine, p=not scope: timed(
                lambda: static(graph, None, rounding=rule, refine=r, per_channel=p)
            )
    rows["dynamic-full-drawn"] = lambda _rule: timed(lambda: dynamic(graph, refine="full"))
    rows["dynamic-full"] = lambda _rule: timed(lambda: dynamic(graph, calibration, refine="full"))

    unknown = [name for name in options.rows if name not in rows]
    if unknown:
        parser.error(f"unknown rows {unknown}; there are: {', '.join(rows)}")
    reference = execute.run(simplified, pictures)[simplified.outputs[0]].astype(np.float64)
    right = reference.argmax(axis=1) == labels
    print(f"# {len(labels)} photographs; float: {right.sum()} right, {100 * right.mean():.2f} %", flush=True)
    print(HEADER.format(sizes="flash bytes"))
    for name in options.rows or rows:
        first: np.ndarray | None = None
        for rule in options.rounding if name.startswith(("static", "data_free")) else ["float sums"]:
            model = rows[name](rule)
            stored = execute.run(model, pictures)[model.outputs[0]].astype(np.float64)
            found = figures(reference, real_values(model, model.outputs[0], stored), labels)
            print(found.line(f"{name}, {rule}", f"{flash_bytes(model):,}"), flush=True)
            if rule == "mulhi":
                print(f"# mulhi: {mulhi_error(model)}")
            if first is None:
                first = stored
                continue
            apart = np.abs(stored - first)
            moved = int((stored.argmax(axis=1) != first.argmax(axis=1)).sum())
            print(
                f"# {rule} against {options.rounding[0]}: {100 * (apart > 0).mean():.2f} % of the logits differ, by "
                f"{apart[apart > 0].mean() if apart.any() else 0:.2f} steps on average, {apart.max():.0f} at most; "
                f"{moved} predictions differ",
                flush=True,
            )


if __name__ == "__main__":
    main()
