"""One training process of the tests of interruption and of parallel training: run as a script, not collected.

Usage: worker.py PREPARED RUN_FOLDER OPTIONS_JSON RESULT_FILE [KILL_AT_STEP]
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from millijoule.data import open_prepared
from millijoule.train import TrainOptions, fit


def network(dropout: float) -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8, momentum=0.1),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False),
        nn.BatchNorm2d(8, momentum=0.1),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(8, 10),
    )


def main() -> None:
    prepared, run, options, result = sys.argv[1:5]
    kill_at = int(sys.argv[5]) if len(sys.argv) > 5 else 0
    torch.set_num_threads(1)
    values = json.loads(options)
    module = network(values.pop("dropout", 0.2))

    def news(_: str, done: int, __: int) -> None:
        if done == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    outcome = fit(module, open_prepared(Path(prepared)), TrainOptions.from_dict(values), Path(run), progress=news)
    if os.environ.get("RANK", "0") == "0":
        kept = ("loss", "accuracy", "validation_loss", "validation_accuracy")
        lines = [{key: line[key] for key in kept} for line in outcome.history]
        Path(result).write_text(json.dumps(lines))


if __name__ == "__main__":
    main()
