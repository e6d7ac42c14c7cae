"""Networks of 4 bits, and quantisation-aware training, on the reference network and its 1,392 evaluation photographs.

    python benchmarks/accuracy/qat.py --data ../shared/data --cache ../prepared --prepared base --runs runs ptq-4 ...

`base` is the prepared set of the reference's own split (`baseline.py` says how it is made); rows ptq-... need none.
One row per name, in the columns of docs/results/static_baseline.md, printed as soon as it is measured. A row that was
interrupted goes on from its last checkpoint; a finished one is read from `--runs`.

    ptq-4, ptq-4-depthwise-8, ptq-mixed-60     200 photographs, no labels; `-untuned` leaves fine-tuning out
    qat-8, qat-4, qat-4-depthwise-8, qat-mixed-60     fine-tuned from the reference network
    qat-8-labels     the same without the float network as teacher: the labels alone
    imitate-8, imitate-4, ...     the same networks taught by the float one alone, on photographs changed little
    float-longer, float-longer-frozen     the reference network trained as qat-8-labels, without any quantisation;
                                          statistics of batch normalisation moving, or frozen as in qat-8
    float-longer-measured     float-longer, its statistics then measured anew on plain photographs
    scratch-float, scratch-qat-8    from the ImageNet weights, the same recipe
    scratch-float-measured, scratch-qat-8-measured     the same, statistics of batch normalisation (and ranges) measured
                                          anew on plain photographs

Other networks, each with a folder `--runs` of its own (rows ...-mixed-60 are the reference's only):

    --weights RUN/best.safetensors        trained on `base`; or on a prepared set that is given as `--data`, whose
                                          validation and test pictures take the place of the 1,392
    --recipe TOML, --init, --init-alpha   what rows scratch-... train: [network] and [train] of `millijoule train`

Training never sees the evaluation photographs: some of the training photographs are held back (one in 25, scratch one
in ten), which tell the best epoch where there are several.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from figures import evenly
from held_back import HeldBack
from inputs import BASELINE, check_pictures, load_float, load_pictures

from millijoule import execute
from millijoule.data import Augmentation, batches, open_prepared
from millijoule.files import atomic_path
from millijoule.graph import WEIGHT_AXIS, Graph, load_graph, save_graph, simplify
from millijoule.interchange import capture
from millijoule.nets import NetworkSpec, mobilenet_v2, specify
from millijoule.quantize import flash_bytes, static
from millijoule.quantize.compare import paired_interval, real_values, sqnr
from millijoule.quantize.qat import TAUGHT, normalization_of
from millijoule.quantize.warm_start import warm_module
from millijoule.train import TrainOptions, evaluate, fit, initial_network, network_input
from millijoule.train._checkpoint import read_weights
from millijoule.train._statistics import measure_batch_norm

tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

MIXED_60 = ("f.2.c.0.0", "f.1.c.1.0", "f.2.c.2.0", "f.3.c.2.0", "f.4.c.0.0", "f.7.c.0.0")
"""Layers with 8 bits beside the depthwise ones, as `accuracy_mixed.py --share 60` found them."""

FINE_TUNING = TrainOptions(
    epochs=1, batch_size=16, learning_rate=1e-4, schedule="cosine", warmup_epochs=0.1, device="cpu", checkpoint_steps=40
)
"""One epoch of 81 steps: 1,296 photographs, 2.5 % of the 16 epochs of 3,249 that the reference network was trained."""

IMITATION = replace(
    FINE_TUNING,
    epochs=3,
    learning_rate=5e-5,
    ema_decay=0.99,
    distillation=1.0,
    temperature=2.0,
    augmentation=Augmentation(rotation=5, shift=0.05, shear=0, zoom=0.05),
)
"""No labels: what the float network answers, on photographs nearly as it will see them, three times all of them."""

SCRATCH = replace(
    FINE_TUNING,
    epochs=16,
    batch_size=32,
    learning_rate=1e-3,
    warmup_epochs=0.5,
    resolutions=((0.0, 160), (0.75, 224)),
)
"""The recipe of the reference network: 12 epochs at 160 pixels, 4 at 224."""


@dataclass(frozen=True)
class Recipe:
    """How a row is trained.

    Attributes:
        training: the loop's options.
        quantised: False trains in float.
        freeze: share of the epochs after which batch normalisation keeps its statistics; 0 from the first on, above 1
            never.
        observe: share of the epochs in which ranges follow the batches; they stay afterwards.
    """

    training: TrainOptions
    quantised: bool = True
    freeze: float = 0.5
    observe: float = 0.75


@dataclass
class Bench:
    """What every row needs."""

    options: argparse.Namespace
    graph: Graph
    calibration: npt.NDArray[np.uint8]
    pictures: npt.NDArray[np.uint8]
    chosen: npt.NDArray[np.int64]

    def progress(self, what: str) -> Callable[[str, int, int], None]:
        """A line of news every half a minute."""
        last = [time.monotonic()]

        def tell(news: str, done: int, total: int) -> None:
            if time.monotonic() - last[0] > 30.0:
                last[0] = time.monotonic()
                print(f"# {what}: {news}, {done} of {total}", flush=True)

        return tell

    def bits(self, kind: str) -> int | dict[str, int]:
        """Bits by layer of a row's name."""
        if kind in ("4", "8"):
            return int(kind)
        nodes = [node for node in self.graph.nodes if node.op in WEIGHT_AXIS]
        wide = {node.source for node in nodes if node.op == "depthwise_conv2d"}
        wide |= set(MIXED_60) if kind == "mixed-60" else set()
        return {node.source: 8 if node.source in wide else 4 for node in nodes}

    def kept(self, name: str, make: Callable[[Path], Graph]) -> Graph:
        """A row's model, made once."""
        folder = self.options.runs / name
        path = folder / "model.mj"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            began, used = time.perf_counter(), time.process_time()
            save_graph(make(folder), path)
            print(
                f"# {name}: {time.perf_counter() - began:.0f} s, {time.process_time() - used:.0f} s of one core",
                flush=True,
            )
        return load_graph(path)

    def ptq(self, name: str) -> Graph:
        """Calibration photographs only."""
        plain = name.endswith("-untuned")
        bits = self.bits(name.removesuffix("-untuned").removeprefix("ptq-"))
        steps = "adjust+clip+round" if plain else "adjust+clip+round+tune"

        def make(_folder: Path) -> Graph:
            return static(self.graph, self.calibration, refine=steps, weight_bits=bits, progress=self.progress(name))

        return self.kept(name, make)

    def held_back(self, every: int, keep: int | None = None) -> HeldBack:
        """The photographs to train on: the reference's, or those of the set that is measured on."""
        options = self.options
        return HeldBack(open_prepared(options.prepared), every, keep, reference=options.prepared != options.data)

    def trained(self, name: str, float_graph: Graph, recipe: Recipe, data: HeldBack, warm: Graph | None) -> Graph:
        """A network trained with fake quantisation, or in exactly the same way without it."""

        def begin() -> execute.FakeQuantModule:
            return warm_module(float_graph, warm) if warm is not None else execute.FakeQuantModule(float_graph)

        def make(folder: Path) -> Graph:
            module = begin()
            if recipe.training.resolutions:
                # says that smaller pictures may be used at first
                module.spec = mobilenet_v2(resolution=data.resolution, classes=len(data.classes))
            teacher = None
            if recipe.training.distillation:
                teacher = execute.float_module(float_graph).eval().requires_grad_(False)

            def on_epoch_start(module: Any, epoch: int) -> None:
                passed = epoch / recipe.training.epochs
                module.set_phase(
                    observe=recipe.quantised and warm is None and passed < recipe.observe,
                    quantize=recipe.quantised,
                    freeze_batch_norm=passed >= recipe.freeze,
                )

            result = fit(
                module,
                data,
                recipe.training,
                folder,
                teacher=teacher,
                normalization=normalization_of(float_graph),
                on_epoch_start=on_epoch_start,
                test=False,
                progress=self.progress(name),
            )
            steps = len(result.history) * (len(data.split("train")) // recipe.training.batch_size)
            print(
                f"# {name}: best epoch {result.best_epoch}, {100 * result.validation_accuracy:.2f} % of the held-back "
                f"training photographs, {steps} steps of {recipe.training.batch_size}",
                flush=True,
            )
            return module.to_integer() if recipe.quantised else module.to_float()

        made = self.kept(name, make)
        if self.options.check and recipe.quantised:
            module = begin().eval()
            read_weights(self.options.runs / name / "best.safetensors", module)
            print(f"# {name}: {self.differing(name, module, made)}", flush=True)
        return made

    def differing(self, name: str, module: execute.FakeQuantModule, made: Graph) -> str:
        """The trained module against its integer model on the evaluation photographs."""
        logits = predictions = 0
        normalization, found = normalization_of(self.graph), self.logits(name, made)
        for start in range(0, len(self.chosen), 32):
            batch = np.ascontiguousarray(self.pictures[self.chosen[start : start + 32]])
            with torch.inference_mode():
                trained = module(network_input(batch, normalization, torch.device("cpu"))).numpy()
            real = found[start : start + 32].astype(np.float32)
            logits += int((trained != real).any(axis=1).sum())
            predictions += int((trained.argmax(axis=1) != real.argmax(axis=1)).sum())
        count = len(self.chosen)
        return f"integer against fake-quantised model: {predictions} of {count} predictions differ, {logits} logits"

    def logits(self, name: str, model: Graph) -> npt.NDArray[np.float64]:
        """Logits of all evaluation photographs, or of `--limit` of them; the former are kept in the row's folder."""
        path = self.options.runs / name / "logits.npy"
        whole = len(self.chosen) == len(self.pictures)
        if whole and name and path.exists():
            return np.asarray(np.load(path))
        if model.tensor(model.outputs[0]).quant is None:
            model = simplify(model)
        pictures = np.ascontiguousarray(self.pictures[self.chosen])
        found = real_values(model, model.outputs[0], execute.run(model, pictures)[model.outputs[0]])
        if whole and name:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, found)
        return found


@dataclass(frozen=True)
class Scratch:
    """What rows scratch-... train.

    Attributes:
        spec: the network.
        training: the loop's options.
        init: its first weights; None for random ones.
        init_alpha: width of the network in that file, 0 for that of `spec`.
    """

    spec: NetworkSpec
    training: TrainOptions
    init: Path | None
    init_alpha: float = 0.0

    def graph(self, data: Any) -> Graph:
        """The network as it begins, its classifier random."""
        seed = self.training.seed
        network, _ = initial_network(self.spec, data, seed=seed, init=self.init, init_alpha=self.init_alpha)
        return capture(network, self.spec, classes=data.classes)


def scratch_of(options: argparse.Namespace) -> Scratch:
    """The reference's recipe, or that of `--recipe`."""
    if options.recipe is None:
        init = options.data / "weights" / "mobilenet_v2_0.35_224_imagenet_notop_keras.safetensors"
        return Scratch(mobilenet_v2(alpha=0.35, resolution=224, classes=10), SCRATCH, init)
    stored = tomllib.loads(options.recipe.read_text(encoding="utf-8"))
    prepared = open_prepared(options.prepared)
    network = {"resolution": prepared.resolution} | stored["network"]
    spec = specify(network.pop("family", "mobilenet_v2"), classes=len(prepared.classes), **network)
    return Scratch(spec, TrainOptions.from_dict(stored["train"]), options.init, options.init_alpha)


def rows_of(bench: Bench) -> dict[str, Callable[[], Graph]]:
    """What each row's name stands for."""
    options = bench.options
    rows: dict[str, Callable[[], Graph]] = {}
    for kind in ("4", "4-depthwise-8", "mixed-60"):
        for name in (f"ptq-{kind}", f"ptq-{kind}-untuned"):
            rows[name] = lambda n=name: bench.ptq(n)

    def eight() -> Graph:
        return bench.kept("static-8", lambda _: static(bench.graph, bench.calibration, refine="empirical+round"))

    def fine(name: str, warm: Callable[[], Graph] | None, recipe: Recipe) -> Graph:
        data = bench.held_back(25, options.pictures)
        return bench.trained(name, bench.graph, recipe, data, warm() if warm is not None else None)

    def scratch(name: str, quantised: bool) -> Graph:
        data, start = bench.held_back(10), scratch_of(options)
        # batch normalisation follows the batches while the rate is high and until the larger pictures are learned
        recipe = Recipe(start.training, quantised, freeze=0.875 if quantised else 2.0, observe=0.875)
        return bench.trained(name, start.graph(data), recipe, data, None)

    def measured(data: HeldBack, module: execute.FakeQuantModule) -> Graph:
        module.train()
        module.set_phase(observe=False, quantize=False, freeze_batch_norm=False)
        with torch.no_grad():
            for seed in (0, 1):  # the average moves by 3 % with each of about 180 batches
                for pictures, _ in batches(
                    data.split("train"), 32, augmentation=None, resolution=data.resolution, seed=seed
                ):
                    module(network_input(pictures, normalization_of(bench.graph), torch.device("cpu")))
        module.set_phase(observe=False, quantize=False, freeze_batch_norm=True)
        return module.eval().to_float()

    def measured_scratch() -> Graph:
        scratch("scratch-float", False)
        return measured(*scratch_module("scratch-float"))

    def measured_longer() -> Graph:
        rows["float-longer"]()
        module = execute.FakeQuantModule(bench.graph)
        read_weights(options.runs / "float-longer" / "best.safetensors", module)
        return measured(bench.held_back(25, options.pictures), module)

    def measured_int8() -> Graph:
        scratch("scratch-qat-8", True)
        data, module = scratch_module("scratch-qat-8")
        module.set_phase(observe=False, quantize=True, freeze_batch_norm=True)
        normalization, side, accuracies = normalization_of(bench.graph), data.resolution, []
        for pictures in (0, 1280):  # what `fit` does with batch_norm_pictures
            if pictures:
                measure_batch_norm(module, data.split("train"), pictures, normalization=normalization, resolution=side)
            found = evaluate(module, data.split("validation"), normalization=normalization, resolution=side)
            accuracies.append(f"{100 * found.accuracy:.2f} %")
        print(f"# of the photographs held back before and after measuring: {', '.join(accuracies)}", flush=True)
        return module.eval().to_integer()

    def scratch_module(name: str) -> tuple[HeldBack, execute.FakeQuantModule]:
        data = bench.held_back(10)
        module = execute.FakeQuantModule(scratch_of(options).graph(data))
        read_weights(options.runs / name / "best.safetensors", module)
        return data, module

    def imitate(name: str, kind: str) -> Graph:
        data = bench.held_back(25)
        warm = eight() if kind == "8" else bench.ptq(f"ptq-{kind}-untuned")
        return bench.trained(name, bench.graph, Recipe(IMITATION, freeze=0.0), data, warm)

    taught = replace(FINE_TUNING, distillation=TAUGHT["distillation"], temperature=TAUGHT["temperature"])
    four = replace(taught, epochs=options.epochs, learning_rate=5e-5, ema_decay=0.99)
    rows["static-8"] = eight
    rows["qat-8"] = lambda: fine("qat-8", eight, Recipe(taught, freeze=0.0))
    rows["qat-8-labels"] = lambda: fine("qat-8-labels", eight, Recipe(FINE_TUNING, freeze=0.0))
    rows["float-longer"] = lambda: fine("float-longer", None, Recipe(FINE_TUNING, quantised=False, freeze=2.0))
    rows["float-longer-frozen"] = lambda: fine(
        "float-longer-frozen", None, Recipe(FINE_TUNING, quantised=False, freeze=0.0)
    )
    rows["float-longer-measured"] = lambda: bench.kept("float-longer-measured", lambda _: measured_longer())
    for kind in ("4", "4-depthwise-8", "mixed-60"):
        rows[f"qat-{kind}"] = lambda k=kind: fine(
            f"qat-{k}", lambda: bench.ptq(f"ptq-{k}-untuned"), Recipe(four, freeze=0.0)
        )
    for kind in ("8", "4", "4-depthwise-8", "mixed-60"):
        rows[f"imitate-{kind}"] = lambda k=kind: imitate(f"imitate-{k}", k)
    rows["scratch-float-measured"] = lambda: bench.kept("scratch-float-measured", lambda _: measured_scratch())
    rows["scratch-qat-8-measured"] = lambda: bench.kept("scratch-qat-8-measured", lambda _: measured_int8())
    rows["scratch-float"] = lambda: scratch("scratch-float", False)
    rows["scratch-qat-8"] = lambda: scratch("scratch-qat-8", True)
    return rows


def main() -> None:
    """Measures the rows that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a prepared set, or the folder of cars_body10.parquet")
    parser.add_argument(
        "--cache", type=Path, required=True, help="where decoded evaluation photographs are kept (240 MB)"
    )
    parser.add_argument("--prepared", type=Path, help="prepared set of the reference's split, for training [--data]")
    parser.add_argument("--weights", type=Path, help="another network: best.safetensors of a training")
    parser.add_argument("--pictures", type=int, default=1296, help="to fine-tune on, once each [1296]")
    parser.add_argument("--recipe", type=Path, help="TOML of what rows scratch-... train [the reference's recipe]")
    parser.add_argument("--init", type=Path, help="first weights for --recipe [random]")
    parser.add_argument("--init-alpha", type=float, default=0.0, help="width of the network in --init [the same]")
    parser.add_argument("--runs", type=Path, required=True, help="where checkpoints and models are kept")
    parser.add_argument("--against", default="", help="a row whose model is the reference instead of the float network")
    parser.add_argument("--limit", type=int, help="only so many photographs, evenly chosen")
    parser.add_argument("--epochs", type=int, default=1, help="of the rows with 4 bits")
    parser.add_argument("--check", action="store_true", help="compare integer and fake-quantised models, too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("rows", nargs="*", help="row names")
    options = parser.parse_args()
    options.prepared = options.prepared or options.data
    torch.set_num_threads(options.threads)
    photos, classes = load_pictures(options.data, options.cache, 200)
    graph = load_float(options.weights or options.data / "weights" / BASELINE)
    check_pictures(graph, options.data, photos, classes)
    chosen = np.asarray(evenly(len(photos.labels), options.limit))
    labels = photos.labels[chosen]
    bench = Bench(options, graph, np.asarray(photos.calibration), photos.pictures, chosen)
    rows = rows_of(bench)
    unknown = [name for name in (*options.rows, options.against) if name and name not in rows]
    if unknown or not options.rows:
        parser.error(f"unknown rows {unknown}; there are: {', '.join(rows)}")
    reference = bench.logits(options.against or "float", rows[options.against]() if options.against else graph)
    right = reference.argmax(axis=1) == labels
    what = options.against or "float"
    print(f"# {len(labels)} photographs; {what}: {right.sum()} right, {100 * right.mean():.2f} %", flush=True)
    print("| row | accuracy | drop | changed | lost/won | SQNR dB | flash bytes |\n|---|---|---|---|---|---|---|")
    for name in options.rows:
        model = rows[name]()
        logits = bench.logits(name, model)
        now = logits.argmax(axis=1) == labels
        lost, won = int((right & ~now).sum()), int((~right & now).sum())
        interval = paired_interval(lost, won, len(labels))
        changed = int((logits.argmax(axis=1) != reference.argmax(axis=1)).sum())
        ratio = sqnr(reference, logits)
        print(
            f"| {name} | {100 * now.mean():.2f} | {100 * (won - lost) / len(labels):+.2f} "
            f"+-{(interval.high - interval.low) / 2:.2f} | {changed} ({100 * changed / len(labels):.1f} %) | "
            f"{lost}/{won} | {'equal' if ratio is None else f'{ratio:.2f}'} | {flash_bytes(model):,} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
