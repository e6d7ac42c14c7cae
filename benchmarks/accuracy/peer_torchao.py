"""torchao's PT2E post-training quantisation of the torch module; the converted module simulates int8 in float.

Settings: quantizer "x86" (X86InductorQuantizer) or "xnnpack" (executorch's XNNPACKQuantizer, per-channel weights).
There
is no file whose size could be measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import worker
from torch_network import TorchNetwork
from torchao.quantization.pt2e import move_exported_model_to_eval
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

CALIBRATION_BATCH = 8
EVALUATION_BATCH = 16


def quantizer(name: str) -> Any:
    """The quantiser with the configuration that its documentation shows."""
    if name == "x86":
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        made: Any = x86.X86InductorQuantizer()
        return made.set_global(x86.get_default_x86_inductor_quantization_config())
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack

    made = xnnpack.XNNPACKQuantizer()
    return made.set_global(xnnpack.get_symmetric_quantization_config(is_per_channel=True))


@torch.no_grad()
def measure(job: worker.Job) -> tuple[np.ndarray, Path | None]:
    torch.set_num_threads(job.threads)
    network = TorchNetwork(job.layers, job.parameters).eval()
    example = torch.from_numpy(next(job.calibration_batches(2, channels_first=True)))
    dynamic = {0: torch.export.Dim("batch", min=1, max=64)}
    exported = torch.export.export(network, (example,), dynamic_shapes=(dynamic,), strict=True)
    prepared = prepare_pt2e(exported.module(check_guards=False), quantizer(job.settings["quantizer"]))
    for batch in job.calibration_batches(CALIBRATION_BATCH, channels_first=True):
        prepared(torch.from_numpy(batch))
    converted = move_exported_model_to_eval(convert_pt2e(prepared))
    return (
        job.evaluate(lambda x: converted(torch.from_numpy(x)).numpy(), batch=EVALUATION_BATCH, channels_first=True),
        None,
    )


if __name__ == "__main__":
    worker.main(measure, ("torch", "torchao", "executorch", "numpy"))
