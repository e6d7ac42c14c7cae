"""C files -> something that runs: firmware for a board, and a shared library for this computer."""

from millijoule.build.board import DEFAULT_STACK_BYTES, build_board, build_elf, compiler_flags
from millijoule.build.host import HostFirmware, LayerTime, build_host, run_sanitized
from millijoule.build.image import Image, Section, Segment, Symbol, intel_hex, read_image

__all__ = [
    "DEFAULT_STACK_BYTES",
    "HostFirmware",
    "Image",
    "LayerTime",
    "Section",
    "Segment",
    "Symbol",
    "build_board",
    "build_elf",
    "build_host",
    "compiler_flags",
    "intel_hex",
    "read_image",
    "run_sanitized",
]
