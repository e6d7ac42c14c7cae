"""ai-edge-quantizer: the float .tflite to a quantised one, run in LiteRT.

Settings: recipe, a function of `ai_edge_quantizer.recipe`, or None for the float file; weight_bits 4 (convolutions and
dense layers; the tool has no 4-bit depthwise layers); granularity of the weights; algorithm, one of `AlgorithmName`;
delegate, whether LiteRT may use XNNPACK.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import worker
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from ai_edge_quantizer import qtyping, quantizer, recipe, recipe_manager
from ai_edge_quantizer.algorithm_manager import AlgorithmName

SIGNATURE, INPUT, OUTPUT = "serving_default", "x", "y"


def with_signature(source: Path, result: Path) -> Path:
    """The same file with a signature, which the tool's calibration needs; network and weights stay as they are."""
    model = schema.ModelT.InitFromPackedBuf(source.read_bytes(), 0)
    graph = model.subgraphs[0]
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
    signature.inputs, signature.outputs = [], []
    for name, tensors, entries in (
        (INPUT, graph.inputs, signature.inputs),
        (OUTPUT, graph.outputs, signature.outputs),
    ):
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, int(tensors[0])
        entries.append(entry)
    model.signatureDefs = [signature]
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    result.write_bytes(bytes(builder.Output()))
    return result


def quantised(job: worker.Job) -> Path:
    """The file that the tool makes."""
    settings = job.settings
    source = with_signature(job.tflite, job.folder / "float.tflite")
    tool = quantizer.Quantizer(str(source))
    algorithm = AlgorithmName[settings.get("algorithm", "MIN_MAX_UNIFORM_QUANT")]
    static = settings["recipe"].startswith("static")
    if "weight_bits" in settings or "granularity" in settings:
        tool.load_quantization_recipe(own_recipe(settings, static, algorithm))
    else:
        tool.load_quantization_recipe(getattr(recipe, settings["recipe"])(algorithm))
    statistics = None
    if tool.need_calibration:
        batches = [{INPUT: batch} for batch in job.calibration_batches(channels_first=False)]
        statistics = tool.calibrate({SIGNATURE: batches}, num_threads=job.threads)
    path = job.folder / "quantised.tflite"
    tool.quantize(statistics).export_model(str(path), overwrite=True)
    return path


def own_recipe(settings: dict[str, Any], static: bool, algorithm: AlgorithmName) -> Any:
    """The tool's recipe for 8 bits, with 4-bit weights where it has them, or with another granularity."""
    manager = recipe_manager.RecipeManager()
    everywhere, operations = qtyping.TFLOperationName.ALL_SUPPORTED, qtyping.TFLOperationName
    granularity = qtyping.QuantGranularity[settings.get("granularity", "CHANNELWISE")]
    steps = [(everywhere, 8)]
    if settings.get("weight_bits", 8) == 4:
        steps += [(operations.CONV_2D, 4), (operations.FULLY_CONNECTED, 4)]
    for operation, bits in steps:
        if static:
            manager.add_static_config(".*", operation, 8, bits, granularity, algorithm)
        else:
            manager.add_dynamic_config(".*", operation, bits, granularity, algorithm)
    return manager.get_quantization_recipe()


def measure(job: worker.Job) -> tuple[np.ndarray, Path | None]:
    path = job.tflite if job.settings["recipe"] is None else quantised(job)
    resolver = OpResolverType.AUTO if job.settings["delegate"] else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(path), experimental_op_resolver_type=resolver, num_threads=job.threads)
    interpreter.allocate_tensors()
    entry, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def run(x: np.ndarray) -> np.ndarray:
        if entry["dtype"] == np.int8:
            scale, zero = entry["quantization"]
            x = np.clip(np.rint(x / np.float32(scale)) + zero, -128, 127).astype(np.int8)
        interpreter.set_tensor(entry["index"], x)
        interpreter.invoke()
        y = interpreter.get_tensor(result["index"])
        if y.dtype == np.int8:
            scale, zero = result["quantization"]
            y = (y.astype(np.float32) - zero) * np.float32(scale)
        return y

    return job.evaluate(run, channels_first=False), path


if __name__ == "__main__":
    worker.main(measure, ("ai-edge-quantizer", "ai-edge-litert", "numpy"))
