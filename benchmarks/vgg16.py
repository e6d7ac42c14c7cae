"""VGG16 in 16-bit floats: sizes of all files, what the boards say, and LiteRT beside our executor.

    python benchmarks/vgg16.py --out runs/vgg16_full

The weights are random: sizes do not depend on training. About a minute and 2 GB of memory; files of 300 MB in --out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from millijoule.boards import load_board
from millijoule.compile import compile_graph
from millijoule.errors import PlacementError, ToolchainError
from millijoule.execute import run
from millijoule.graph import Graph, save_graph, simplify
from millijoule.interchange import capture, write_onnx, write_tflite
from millijoule.nets import build, vgg16
from millijoule.quantize import flash_bytes, half

BOARDS = ("stm32l4r9i", "stm32h7b3i")


def litert(path: Path, pictures: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of LiteRT's default kernels, by name."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pictures)
    interpreter.invoke()
    return {item["name"]: interpreter.get_tensor(item["index"]) for item in interpreter.get_output_details()}


def refusal(graph: Graph, board: str) -> str:
    """What the compiler says, "it fits" when it does."""
    try:
        compile_graph(graph, board, self_test=False)
    except PlacementError as error:
        return str(error)
    return f"it fits the {load_board(board).title}"


def main() -> None:
    """Makes the files and prints one line for each fact."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--resolution", type=int, default=224)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    spec = vgg16(options.alpha, options.resolution, options.classes)
    floats = simplify(capture(build(spec), spec))
    halves = half(floats)
    print(halves.history[-1])
    for name, graph in (("float", floats), ("half", halves)):
        save_graph(graph, options.out / f"{name}.mj")
        write_tflite(graph, options.out / f"{name}.tflite")
        write_onnx(graph, options.out / f"{name}.onnx")
        sizes = {"weights and biases": flash_bytes(graph)}
        sizes |= {kind: (options.out / f"{name}.{kind}").stat().st_size for kind in ("mj", "tflite", "onnx")}
        for what, size in sizes.items():
            print(f"{name:<6} {what:<19} {size:>12,} bytes {size / 1e6:8.2f} MB {size / 2**20:8.2f} MiB")
    for board in BOARDS:
        print(refusal(halves, board))
    picture = np.random.default_rng(0).integers(0, 256, (1, *spec.input_shape), dtype=np.uint8)
    ours = run(halves, picture, keep=["normalize"])
    print(f"largest logit {np.abs(ours['logits']).max():.4g}; float differs by at most "
          f"{np.abs(run(floats, picture)['logits'] - ours['logits']).max():.2g}")  # fmt: skip
    try:
        theirs = litert(options.out / "half.tflite", ours["normalize"])
    except (ModuleNotFoundError, ToolchainError):
        print("LiteRT is not installed")
    else:
        print(f"LiteRT differs by at most {np.abs(theirs['logits'] - ours['logits']).max():.2g}")


if __name__ == "__main__":
    main()
