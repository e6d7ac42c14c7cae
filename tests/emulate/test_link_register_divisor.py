"""Division by zero is found by the divisor's register, whichever it is: the link register is numbered apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from millijoule.build import build_board
from millijoule.emulate import Machine
from millijoule.errors import EmulationError

MODEL = Path(__file__).parents[1] / "fixtures" / "tiny_model"
PROBE = """
#include <stdint.h>
__attribute__((used, retain, noinline, naked)) uint32_t probe_divide(uint32_t left, uint32_t right)
{
    __asm volatile("push {r4, lr}\\n mov lr, r1\\n udiv r0, r0, lr\\n pop {r4, pc}");
}
"""


@pytest.mark.parametrize("hook", ["native", "python"])
def test_the_link_register_may_be_the_divisor(hook: str) -> None:
    files = {path.name: path.read_text() for path in MODEL.iterdir()}
    image = build_board({**files, "probe.c": PROBE}, "stm32l4r9i")
    machine = Machine(image, "stm32l4r9i", hook=hook)
    machine.run(image.symbol("mj_idle").address)  # the start-up code has made division by zero a fault
    assert machine.call("probe_divide", 42, 6) == 7
    with pytest.raises(EmulationError, match="divides by zero"):
        machine.call("probe_divide", 42, 0)
