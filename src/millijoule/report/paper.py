"""The figures of the paper this project began from, and what can be said about them.

Lazzaroni, Bellotti, Dabbous, Pighetti, Berta: Quantization of MobileNetV2 for Resource-Constrained Microcontrollers
(University of Genoa): Tables 1 to 3 and section 4.4.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "CITATION",
    "ISEC",
    "ISEC_ACCURACY",
    "ISEC_MEGABYTES",
    "PAPER_BOARDS",
    "PAPER_METHODS",
    "PAPER_TABLE_1",
    "REMARKS",
    "PaperBoard",
    "PaperMethod",
]

CITATION = (
    "L. Lazzaroni, F. Bellotti, A. Dabbous, A. Pighetti, R. Berta: Quantization of MobileNetV2 for "
    "Resource-Constrained Microcontrollers, University of Genoa"
)


@dataclass(frozen=True)
class PaperMethod:
    """A row of Table 2: accuracy in per cent, sizes in the paper's KB."""

    title: str
    accuracy: float
    model_kb: float
    activation_kb: float


PAPER_METHODS = {
    "float": PaperMethod("No quantization", 92.42, 5323, 1532),
    "dynamic": PaperMethod("Dynamic", 88.43, 1554, 1532),
    "static": PaperMethod("Static", 87.98, 1554, 390),
    "qat": PaperMethod("QAT", 92.23, 1561, 390),
}
"""Table 2, by the name of our method."""


@dataclass(frozen=True)
class PaperBoard:
    """A row of Table 3 and what section 5 states about the board."""

    title: str
    millijoules: float
    milliseconds: float
    clock_mhz: float


PAPER_BOARDS = {
    "stm32l4r9i": PaperBoard("STM32L4R9I", 57.0, 2619.0, 120.0),
    "stm32h7b3i": PaperBoard("STM32H7B3I", 87.0, 379.0, 480.0),
}
"""Table 3, by the name of our board; the clocks are those the paper states."""

ISEC_ACCURACY, ISEC_MEGABYTES = 91.37, 29.81
"""Per cent and MB of the paper's section 4.4, for the VGG16 in 16 bits of Kristiani et al."""

ISEC = (
    "iSEC (Kristiani et al., IEEE Access 2020): VGG16 in 16 bits, 91.37 %, 29.81 MB; the study the paper compares with."
)

PAPER_TABLE_1 = (
    # input, operator, t, c, n, s
    ("224x224x3", "conv2d", "-", "32", "1", "2"),
    ("112x112x32", "bottleneck", "1", "16", "1", "1"),
    ("112x112x16", "bottleneck", "6", "24", "2", "2"),
    ("56x56x24", "bottleneck", "6", "32", "3", "2"),
    ("28x28x32", "bottleneck", "6", "64", "4", "2"),
    ("14x14x64", "bottleneck", "6", "96", "3", "1"),
    ("14x14x96", "bottleneck", "6", "160", "3", "2"),
    ("7x7x160", "bottleneck", "6", "320", "1", "1"),
    ("7x7x320", "conv2d 1x1", "-", "1280", "1", "1"),
    ("7x7x1280", "avgpool 7x7", "-", "-", "1", "-"),
    ("1x1x1280", "conv2d 1x1", "-", "class", "-", "-"),
)
"""Table 1 as printed: at alpha 1, in the paper's columns."""

REMARKS = (
    "The paper states alpha 0.5, but its model sizes are those of alpha 0.75 with a 10-way head, counted in KiB "
    "of 1,024 bytes (float 5,323, dynamic 1,554). At alpha 0.5 the float model is 2,730 KiB.",
    "The paper's activation sizes (1,532 and 390) fit no layer-by-layer plan of this network at 224x224, at neither "
    "width: how they were counted is not stated.",
    "The paper states 480 MHz for the STM32H7B3I; that part runs at 280 MHz at most, which is the clock used here.",
    "The paper's accuracy is on the ten Most Stolen Vehicles classes of VMMRdb (5,709 photographs). Accuracies on any "
    "other data set stand beside it for orientation only.",
    "How the paper's energy was measured, and at which supply voltage, is not stated. Its figures amount to 181 pJ per "
    "cycle on the STM32L4R9I at 120 MHz and to 478 pJ (at 480 MHz) or 820 pJ (at 280 MHz) on the STM32H7B3I.",
)
"""What the paper's numbers are, and are not."""
