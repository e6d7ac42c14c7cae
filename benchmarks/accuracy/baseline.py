"""The reference network and photographs of `static_baseline.md`: MobileNetV2 alpha 0.35 on ten vehicle body types.

The weights are a torch state dict whose names are those of the research script that trained them (`f.0` the first
convolution, `f.1` to `f.17` the blocks, `f.18` the last convolution, `fc` the classifier). The split: photographs of a
label sorted by sha256 of their file name, the first 70 % train, up to 90 % validation, the rest test. To train other
networks on that split:

    python benchmarks/accuracy/baseline.py ../shared/data/cars_body10.parquet runs/baseline_split.json
    millijoule data prepare parquet --root ../shared/data/cars_body10.parquet --split-file runs/baseline_split.json ...
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from millijoule.files import atomic_path, atomic_write_json
from millijoule.graph import Graph, GraphBuilder

SIZE = 224
CHANNELS = (16, 8, 8, 8, 16, 16, 16, 24, 24, 24, 24, 32, 32, 32, 56, 56, 56, 112)
STRIDES = {2: 2, 4: 2, 7: 2, 14: 2}
CLASSES = (
    "convertible",
    "coupe",
    "hatchback",
    "minivan",
    "pickup_crew_cab",
    "pickup_regular_cab",
    "sedan",
    "suv",
    "van",
    "wagon",
)
SPLIT_CHECKS = {"train": "fa76872cbface20e", "validation": "6fb04254901a6a3d", "test": "5e221136c424abc1"}


@dataclass(frozen=True)
class Photographs:
    """What the benchmark needs: evaluation pictures with labels (validation, then test) and calibration pictures."""

    pictures: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    calibration: npt.NDArray[np.uint8]


def baseline_graph(weights: Path) -> Graph:
    """The float graph with its batch_norm nodes, as `capture` would give it."""
    handle = safe_open(weights, framework="numpy")
    builder = GraphBuilder("baseline")
    builder.input("picture", (1, SIZE, SIZE, 3), "uint8")
    rule = {"scale": (1 / 127.5,) * 3, "offset": (-1.0,) * 3}
    x = builder.node("normalize", ["picture"], (1, SIZE, SIZE, 3), attrs=rule, source="normalize")
    shape = (1, SIZE, SIZE, 3)

    def layer(
        x: str, shape: tuple[int, ...], conv: str, norm: str, stride: int, relu6: bool
    ) -> tuple[str, tuple[int, ...]]:
        value = handle.get_tensor(f"{conv}.weight")
        kernel = value.shape[2]
        depthwise = value.shape[1] == 1 and shape[3] == value.shape[0]
        value = value.transpose(1, 2, 3, 0) if depthwise else value.transpose(0, 2, 3, 1)
        channels = value.shape[3] if depthwise else value.shape[0]
        padding = (0, 0, 0, 0) if kernel == 1 else (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)
        result = (1, shape[1] // stride, shape[2] // stride, channels)
        name = builder.constant(f"{conv}.weight", np.ascontiguousarray(value))
        attrs = {"stride": (stride, stride), "padding": padding}
        op = "depthwise_conv2d" if depthwise else "conv2d"
        x = builder.node(op, [x, name], result, attrs=attrs, source=conv)
        parts = [
            builder.constant(f"{norm}.{part}", handle.get_tensor(f"{norm}.{part}"))
            for part in ("weight", "bias", "running_mean", "running_var")
        ]
        x = builder.node("batch_norm", [x, *parts], result, attrs={"epsilon": 1e-3}, source=norm)
        if relu6:
            x = builder.node("clamp", [x], result, attrs={"clamp": (0.0, 6.0)}, source=f"{norm}.relu6")
        return x, result

    x, shape = layer(x, shape, "f.0.1", "f.0.2", 2, True)
    for block in range(1, 18):
        stride = STRIDES.get(block, 1)
        kept, kept_shape = x, shape
        steps = ["expand", "depthwise", "project"] if block > 1 else ["depthwise", "project"]
        for index, step in enumerate(steps):
            padded = step == "depthwise" and stride == 2
            stem = f"f.{block}.c.{index}"
            conv, norm = (f"{stem}.1", f"{stem}.2") if padded else (f"{stem}.0", f"{stem}.1")
            x, shape = layer(x, shape, conv, norm, stride if step == "depthwise" else 1, step != "project")
        if shape == kept_shape:
            x = builder.node("add", [kept, x], shape, source=f"f.{block}.add")
    x, shape = layer(x, shape, "f.18.0", "f.18.1", 1, True)
    x = builder.node("mean", [x], (1, shape[3]), source="mean")
    head = [builder.constant(name, handle.get_tensor(name)) for name in ("fc.weight", "fc.bias")]
    logits = builder.node("dense", [x, *head], (1, 10), source="fc")
    probabilities = builder.node("softmax", [logits], (1, 10), source="softmax")
    return builder.build([logits, probabilities], classes=CLASSES, history=("baseline_mbv2_0.35_cars",))


def photographs(parquet: Path, cache: Path) -> Photographs:
    """Decodes the photographs once into `cache` (about 240 MB) and memory-maps them from then on."""
    names = ("baseline_eval_224.npy", "baseline_eval_labels.npy", "baseline_calibration_224.npy")
    if not all((cache / name).exists() for name in names):
        for name, value in zip(names, _decode_all(parquet), strict=True):
            with atomic_path(cache / name) as temporary, temporary.open("wb") as file:
                np.save(file, value)
    pictures, labels, calibration = (np.load(cache / name, mmap_mode="r") for name in names)
    return Photographs(pictures, np.asarray(labels), calibration)


def split_rows(files: list[str], labels: list[str]) -> dict[str, list[int]]:
    """Rows of train, validation and test, each in the order of the hashes of their names; exits if a hash is wrong."""
    digest = [hashlib.sha256(file.encode()).hexdigest() for file in files]
    splits: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for label in sorted(set(labels)):
        rows = sorted((row for row in range(len(files)) if labels[row] == label), key=digest.__getitem__)
        first, second = round(0.7 * len(rows)), round(0.9 * len(rows))
        splits["train"] += rows[:first]
        splits["validation"] += rows[first:second]
        splits["test"] += rows[second:]
    for name, rows in splits.items():
        rows.sort(key=digest.__getitem__)
        check = hashlib.sha256("\n".join(files[row] for row in rows).encode()).hexdigest()[:16]
        if check != SPLIT_CHECKS[name]:
            raise SystemExit(f"the {name} split has hash {check}, not {SPLIT_CHECKS[name]}")
    return splits


def _decode_all(parquet: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(parquet, columns=["image", "label", "file"]).to_pydict()
    labels = table["label"]
    splits = split_rows(table["file"], labels)
    order = sorted(set(labels))
    evaluation = splits["validation"] + splits["test"]
    return (
        np.stack([_decode(table["image"][row]) for row in evaluation]),
        np.array([order.index(labels[row]) for row in evaluation], dtype=np.int64),
        np.stack([_decode(table["image"][row]) for row in splits["train"][:200]]),
    )


def _decode(data: bytes) -> npt.NDArray[np.uint8]:
    picture = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    shrinks = min(picture.shape[:2]) >= SIZE
    return cv2.resize(picture, (SIZE, SIZE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def main() -> None:
    """Writes the split of a parquet file as `millijoule data prepare --split-file` reads it."""
    import pyarrow.parquet

    parquet, out = (Path(argument) for argument in sys.argv[1:])
    table = pyarrow.parquet.read_table(parquet, columns=["label", "file"]).to_pydict()
    rows = split_rows(table["file"], table["label"])
    atomic_write_json(out, {name: [table["file"][row] for row in chosen] for name, chosen in rows.items()})


if __name__ == "__main__":
    main()
