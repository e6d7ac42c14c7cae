"""Order of instructions for the Cortex-M7: the same values in registers and memory whatever is drawn, and pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millijoule.kernels.assembly.schedule import scheduled

DATA = tuple(f"r{number}" for number in range(6))
BASES = ("r8", "r9")
FORMS = (
    *(f"{name} {{a}}, {{b}}, {{c}}" for name in ("add", "sub", "orr", "smmul", "sel", "ssub16", "pkhbt")),
    "bfi {a}, {b}, #8, #8",
    "smlad {a}, {b}, {c}, {d}",
    "add {a}, {b}, {c}, lsl #{shift}",
    "ldr {a}, [{base}, #{offset}]",
    "ldr {a}, [{base}, #{step}]!",
    "str {a}, [{base}, #{offset}]",
    "strh {a}, [{base}, #{offset}]",
    "ldr {a}, [sp, #{offset}]",
    "str {a}, [sp, #{offset}]",
    "cmp {a}, {b}",
    "add {base}, {base}, {a}",
)
REGISTERS = (*DATA, *BASES, "sp", "flags", "lanes")


def drawn_line(draw: Callable[[Any], Any]) -> str:
    form, base, offset = draw(st.sampled_from(FORMS)), draw(st.sampled_from(BASES)), 4 * draw(st.integers(0, 3))
    registers = {name: draw(st.sampled_from(DATA)) for name in "abcd"}
    return str(form.format(**registers, base=base, offset=offset, shift=1 + offset, step=4 + offset))


@st.composite
def programs(draw: Callable[[Any], Any]) -> list[str]:
    return [drawn_line(draw) for _ in range(draw(st.integers(1, 30)))]


def values(lines: list[str], known: dict[Any, int]) -> dict[Any, Any]:
    """What is in registers and memory in the end, as numbers of formulas of what was there.

    Args:
        lines: the program.
        known: the numbers that formulas have; it grows.
    """

    def number(*formula: Any) -> int:
        return known.setdefault(formula, len(known))

    state: dict[Any, Any] = {register: number(register) for register in REGISTERS}
    stores: list[Any] = []  # in order, but those of one base among themselves by offset
    for line in lines:
        mnemonic, _, operands = line.partition(" ")
        parts = operands.replace("[", "").replace("]", "").split(", ")
        if mnemonic in ("ldr", "str", "strh"):
            register, base = parts[0], parts[1]
            offset = parts[2].rstrip("!")
            place = (state[base], offset)
            if mnemonic == "ldr":
                state[register] = state.get(place, number("read", place)) if base == "sp" else number("read", place)
            else:
                if base == "sp":
                    state[place] = state[register]
                else:
                    stores.append((place, mnemonic, state[register]))
            if parts[2].endswith("!"):
                state[base] = number("moved", place)
        elif mnemonic == "cmp":
            state["flags"] = number("flags", state[parts[0]], state[parts[1]])
        else:
            read = [state.get(part, part) for part in parts[1:]]
            read += [state["lanes"]] if mnemonic == "sel" else [state[parts[0]]] if mnemonic == "bfi" else []
            state[parts[0]] = number(mnemonic, *read)
            if mnemonic == "ssub16":
                state["lanes"] = number("lanes", *read)
    # neighbours with one base and other offsets may change places; other bases may be the same address
    runs: list[Any] = []
    for place, *store in stores:
        if runs and runs[-1][0] == place[0]:
            runs[-1][1].setdefault(place[1], []).append(store)
        else:
            runs.append((place[0], {place[1]: [store]}))
    return {**state, "stores": runs}


@given(programs())
def test_values_are_those_of_the_lines_in_their_order(lines: list[str]) -> None:
    found = scheduled(lines)
    assert sorted(found) == sorted(lines)
    known: dict[Any, int] = {}
    assert values(found, known) == values(lines, known)


def test_loads_go_beside_multiplications() -> None:
    lines = [f"ldr r{number}, [r8, #{4 * number}]" for number in range(4)]
    lines += [f"smlad r{10 + number % 2}, r{number}, r9, r{10 + number % 2}" for number in range(4)]
    kinds = [line.split()[0] for line in scheduled(lines)]
    # a load alone, three pairs, a multiplication alone
    assert kinds[0] == "ldr" and kinds[-1] == "smlad"
    assert all({*kinds[place : place + 2]} == {"ldr", "smlad"} for place in (1, 3, 5))


def test_a_branch_stays_last() -> None:
    found = scheduled(["cmp r0, r1", *(f"add r{number}, r{number}, r7" for number in range(2, 6)), "bne .L_top"])
    assert found[-1] == "bne .L_top"


@pytest.mark.parametrize("line", ["ldrd r0, r1, [r2]", "movlt r0, r1", "udiv r0, r1, r2", "vldmia r0!, {s0-s3}"])
def test_other_instructions_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match="does not know"):
        scheduled([line])
