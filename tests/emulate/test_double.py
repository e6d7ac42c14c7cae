"""Double precision on the emulated Cortex-M7 against numpy and exact fractions, instruction by instruction."""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unicorn import UC_ARCH_ARM, UC_MODE_THUMB, Uc

from millijoule.boards import load_board
from millijoule.build import build_elf
from millijoule.emulate import Machine
from millijoule.emulate._double_native import DoubleHook

START = Path(__file__).parents[1] / "fixtures" / "bare"
BOARD = dataclasses.replace(
    load_board("stm32h7b3i"),
    target_flags={"zig": ("-target", "thumb-freestanding-eabihf", "-mcpu=cortex_m7+fp_armv8d16")},
)
# Every instruction works on d0, d1, d2 (s0, s2 for singles and integers); its result is in d0 or s0.
INSTRUCTIONS = {
    "add": "vadd.f64 d0, d1, d2",
    "sub": "vsub.f64 d0, d1, d2",
    "mul": "vmul.f64 d0, d1, d2",
    "nmul": "vnmul.f64 d0, d1, d2",
    "div": "vdiv.f64 d0, d1, d2",
    "sqrt": "vsqrt.f64 d0, d1",
    "abs": "vabs.f64 d0, d1",
    "neg": "vneg.f64 d0, d1",
    "mov": "vmov.f64 d0, d1",
    "mla": "vmla.f64 d0, d1, d2",
    "mls": "vmls.f64 d0, d1, d2",
    "nmla": "vnmla.f64 d0, d1, d2",
    "nmls": "vnmls.f64 d0, d1, d2",
    "fma": "vfma.f64 d0, d1, d2",
    "fms": "vfms.f64 d0, d1, d2",
    "fnma": "vfnma.f64 d0, d1, d2",
    "fnms": "vfnms.f64 d0, d1, d2",
    "maxnm": "vmaxnm.f64 d0, d1, d2",
    "minnm": "vminnm.f64 d0, d1, d2",
    "rinta": "vrinta.f64 d0, d1",
    "rintn": "vrintn.f64 d0, d1",
    "rintp": "vrintp.f64 d0, d1",
    "rintm": "vrintm.f64 d0, d1",
    "rintz": "vrintz.f64 d0, d1",
    "rintr": "vrintr.f64 d0, d1",
    "rintx": "vrintx.f64 d0, d1",
    "s32": "vcvt.s32.f64 s0, d1",
    "u32": "vcvt.u32.f64 s0, d1",
    "s32r": "vcvtr.s32.f64 s0, d1",
    "u32r": "vcvtr.u32.f64 s0, d1",
    "s32a": "vcvta.s32.f64 s0, d1",
    "u32n": "vcvtn.u32.f64 s0, d1",
    "s32p": "vcvtp.s32.f64 s0, d1",
    "u32m": "vcvtm.u32.f64 s0, d1",
    "f32": "vcvt.f32.f64 s0, d1",
    "from_f32": "vcvt.f64.f32 d0, s2",
    "from_s32": "vcvt.f64.s32 d0, s2",
    "from_u32": "vcvt.f64.u32 d0, s2",
    "to_half": "vcvtb.f16.f64 s0, d1",
    "to_half_top": "vcvtt.f16.f64 s0, d1",
    "from_half": "vcvtb.f64.f16 d0, s2",
    "from_half_top": "vcvtt.f64.f16 d0, s2",
    "fixed_s32": "vmov.f64 d0, d1\\n vcvt.s32.f64 d0, d0, #7",
    "fixed_u16": "vmov.f64 d0, d1\\n vcvt.u16.f64 d0, d0, #3",
    "from_fixed_s32": "vmov.f64 d0, d1\\n vcvt.f64.s32 d0, d0, #7",
    "from_fixed_u16": "vmov.f64 d0, d1\\n vcvt.f64.u16 d0, d0, #3",
    "compare": "vcmp.f64 d1, d2\\n vmrs r0, fpscr",
    "compare_e": "vcmpe.f64 d1, d2\\n vmrs r0, fpscr",
    "compare_zero": "vcmp.f64 d1, #0\\n vmrs r0, fpscr",
    "one_and_a_half": "vmov.f64 d0, #1.5",
    "minus_thirteen": "vmov.f64 d0, #-13.0",
    "small": "vmov.f64 d0, #0.1328125",
    "select_ge": "vcmp.f64 d1, d2\\n vmrs APSR_nzcv, fpscr\\n vselge.f64 d0, d1, d2",
    "select_gt": "vcmp.f64 d1, d2\\n vmrs APSR_nzcv, fpscr\\n vselgt.f64 d0, d1, d2",
    "select_eq": "vcmp.f64 d1, d2\\n vmrs APSR_nzcv, fpscr\\n vseleq.f64 d0, d1, d2",
    "select_vs": "vcmp.f64 d1, d2\\n vmrs APSR_nzcv, fpscr\\n vselvs.f64 d0, d1, d2",
    "in_it": "vcmp.f64 d1, d2\\n vmrs APSR_nzcv, fpscr\\n ittee gt\\n vaddgt.f64 d0, d1, d2\\n vneggt.f64 d0, d0\\n"
    "vsuble.f64 d0, d1, d2\\n vaddle.f64 d0, d0, d0",
    "upper": "vmov.f64 d14, d1\\n vmov.f64 d15, d2\\n vmul.f64 d13, d14, d15\\n vmov.f64 d0, d13",
}
C_CODE = """
#define KEEP __attribute__((used, retain, noinline))
KEEP double c_series(double x, double *terms, int count) {
    double sum = 0;
    for (int i = 0; i < count; i++) sum = sum * x + terms[i];
    return sum;
}
KEEP int64_t c_long(double x) { return (int64_t)x; }
KEEP double c_mean(const int32_t *values, uint32_t count) {
    double sum = 0;
    for (uint32_t i = 0; i < count; i++) sum += values[i];
    return sum / count;
}
"""


@pytest.fixture(scope="module", params=["native", "python"])
def machine(request: pytest.FixtureRequest) -> Machine:
    functions = "\n".join(
        f'__attribute__((used, retain, noinline, naked)) void op_{name}(void) {{ __asm volatile("{text}\\n bx lr"); }}'
        for name, text in INSTRUCTIONS.items()
    )
    files = {path.name: path.read_text() for path in START.iterdir()}
    files["test.c"] = '#include "core.h"\nint main(void) { return 0; }\n' + functions + C_CODE
    made = Machine(build_elf(files, BOARD), BOARD, hook=request.param)
    made.run(made.image.symbol("finished").address)
    made.call("op_mov")  # the first instruction makes a new context, with the modes of FPDSCR
    return made


def bits(value: float) -> int:
    return int(struct.unpack("<Q", struct.pack("<d", value))[0])


def double(word: int) -> float:
    return float(struct.unpack("<d", struct.pack("<Q", word))[0])


def execute(machine: Machine, name: str, a: int, b: int = 0, c: int = 0, control: int = 0) -> int:
    """d0 afterwards; c is what was in it before."""
    for register, value in (("d0", c), ("d1", a), ("d2", b), ("fpscr", control)):
        machine.write_register(register, value)
    machine.call(f"op_{name}")
    return machine.register("d0")


def single(machine: Machine, name: str, a: int, control: int = 0) -> int:
    execute(machine, name, a, control=control)
    return machine.register("s0") & 0xFFFFFFFF


NUMBERS = st.one_of(
    st.floats(allow_nan=False, width=64),
    st.floats(-1e6, 1e6),
    st.integers(-(2**33), 2**33).map(lambda n: n / 4),
    st.sampled_from([0.0, -0.0, math.inf, -math.inf, 5e-324, -5e-324, 2.2250738585072014e-308, 1.7976931348623157e308]),
)
ANY_BITS = st.integers(0, 2**64 - 1)
many = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def same(found: int, expected: float) -> bool:
    """Equal bits; any NaN equals any other."""
    return math.isnan(double(found)) if math.isnan(expected) else found == bits(expected)


@many
@given(a=NUMBERS, b=NUMBERS, sticky=st.booleans())
def test_arithmetic_equals_numpy(machine: Machine, a: float, b: float, sticky: bool) -> None:
    x, y = np.float64(a), np.float64(b)
    control = 16 if sticky else 0  # with the inexact flag set a quicker way is taken
    with np.errstate(all="ignore"):
        expected = {
            "add": x + y, "sub": x - y, "mul": x * y, "nmul": -(x * y), "div": x / y, "sqrt": np.sqrt(x),
            "abs": abs(x), "neg": -x, "mov": x,
        }  # fmt: skip
    for name, value in expected.items():
        found = execute(machine, name, bits(a), bits(b), control=control)
        assert same(found, float(value)), (name, a, b, double(found), value)


@many
@given(a=NUMBERS, b=NUMBERS, c=NUMBERS, sticky=st.booleans())
def test_multiply_add_rounds_twice_and_fused_once(machine: Machine, a: float, b: float, c: float, sticky: bool) -> None:
    control = 16 if sticky else 0
    x, y, z = np.float64(a), np.float64(b), np.float64(c)
    with np.errstate(all="ignore"):
        product = x * y
        twice = {"mla": z + product, "mls": z - product, "nmla": -z - product, "nmls": -z + product}
    for name, value in twice.items():
        found = execute(machine, name, bits(a), bits(b), bits(c), control)
        assert same(found, float(value)), (name, a, b, c)
    if all(map(math.isfinite, (a, b, c))):
        exact = Fraction(a) * Fraction(b)
        for name, total in (
            ("fma", Fraction(c) + exact),
            ("fms", Fraction(c) - exact),
            ("fnma", -Fraction(c) - exact),
            ("fnms", -Fraction(c) + exact),
        ):
            found = double(execute(machine, name, bits(a), bits(b), bits(c), control))
            try:
                expected = float(total)
            except OverflowError:
                expected = math.inf if total > 0 else -math.inf
            assert found == expected, (name, a, b, c)


@many
@given(a=NUMBERS, b=NUMBERS, mode=st.integers(1, 3))
def test_directed_rounding_brackets_the_exact_result(machine: Machine, a: float, b: float, mode: int) -> None:
    if not (math.isfinite(a) and math.isfinite(b)):
        return
    for name, exact in (("add", Fraction(a) + Fraction(b)), ("mul", Fraction(a) * Fraction(b))):
        found = double(execute(machine, name, bits(a), bits(b), control=mode << 22))
        up = mode == 1 or (mode == 3 and exact < 0)
        if math.isinf(found):
            assert abs(exact) > Fraction(1.7976931348623157e308) and up == (found > 0)
            continue
        if Fraction(found) != exact:
            neighbour = math.nextafter(found, -math.inf if up else math.inf)
            between = (Fraction(found) - exact) * (1 if up else -1)
            assert between > 0
            assert math.isinf(neighbour) or (exact - Fraction(neighbour)) * (1 if up else -1) > 0


@many
@given(a=NUMBERS, sticky=st.booleans())
def test_conversions_equal_numpy(machine: Machine, a: float, sticky: bool) -> None:
    x = np.float64(a)
    control = 16 if sticky else 0
    with np.errstate(all="ignore"):
        assert single(machine, "f32", bits(a)) == int(x.astype(np.float32).view(np.uint32))
        half = int(x.astype(np.float16).view(np.uint16))
        assert single(machine, "to_half", bits(a)) & 0xFFFF == half
        assert single(machine, "to_half_top", bits(a)) >> 16 == half
    rounded = {"s32": np.trunc, "u32": np.trunc, "s32r": np.rint, "u32r": np.rint, "u32n": np.rint, "s32p": np.ceil}
    rounded["u32m"] = np.floor
    for name, function in rounded.items():
        low, high = (-(2**31), 2**31 - 1) if name.startswith("s") else (0, 2**32 - 1)
        expected = int(min(max(float(function(x)), low), high)) & 0xFFFFFFFF
        assert single(machine, name, bits(a), control) == expected, (name, a)
    if abs(a) < 2**31 - 1:
        away = math.floor(abs(Fraction(a)) + Fraction(1, 2)) * (1 if a >= 0 else -1)
        assert single(machine, "s32a", bits(a)) == away & 0xFFFFFFFF
        assert double(execute(machine, "rinta", bits(a))) == away
    for name, function in (
        ("rintn", np.rint), ("rintp", np.ceil), ("rintm", np.floor),
        ("rintz", np.trunc), ("rintr", np.rint), ("rintx", np.rint),
    ):  # fmt: skip
        assert execute(machine, name, bits(a)) == bits(float(function(x))), (name, a)
    fixed = min(
        max(math.trunc(Fraction(a) * 128) if math.isfinite(a) else (-(2**40) if a < 0 else 2**40), -(2**31)), 2**31 - 1
    )
    assert execute(machine, "fixed_s32", bits(a)) == fixed & (2**64 - 1)
    fixed = min(max(math.trunc(Fraction(a) * 8) if math.isfinite(a) else (-1 if a < 0 else 2**40), 0), 2**16 - 1)
    assert execute(machine, "fixed_u16", bits(a)) == fixed


@many
@given(word=st.integers(0, 2**32 - 1))
def test_conversions_to_double_are_exact(machine: Machine, word: int) -> None:
    signed = word - (1 << 32) if word >> 31 else word
    assert double(execute(machine, "from_u32", word)) == word
    assert double(execute(machine, "from_s32", word)) == signed
    assert double(execute(machine, "from_fixed_s32", word)) == signed / 128
    assert double(execute(machine, "from_fixed_u16", word)) == (word & 0xFFFF) / 8
    value = np.uint32(word).view(np.float32)
    with np.errstate(all="ignore"):
        assert same(execute(machine, "from_f32", word), float(value))
        for name, part in (("from_half", word & 0xFFFF), ("from_half_top", word >> 16)):
            assert same(execute(machine, name, word), float(np.uint16(part).view(np.float16)))


@many
@given(a=st.one_of(ANY_BITS, NUMBERS.map(bits)), b=st.one_of(ANY_BITS, NUMBERS.map(bits)))
def test_comparisons_select_and_extremes(machine: Machine, a: int, b: int) -> None:
    x, y = double(a), double(b)
    unordered = math.isnan(x) or math.isnan(y)
    flags = 0b0011 if unordered else 0b0110 if x == y else 0b1000 if x < y else 0b0010
    for name in ("compare", "compare_e"):
        execute(machine, name, a, b)
        assert machine.register("r0") >> 28 == flags
    assert bool(machine.register("r0") & 1) == unordered, "VCMPE: every NaN is invalid"
    execute(machine, "compare_zero", a)
    assert machine.register("r0") >> 28 == (
        0b0011 if math.isnan(x) else 0b0110 if x == 0 else 0b1000 if x < 0 else 0b0010
    )
    negative, zero, overflow = flags >> 3 & 1, flags >> 2 & 1, flags & 1
    holds = {"ge": negative == overflow, "gt": not zero and negative == overflow, "eq": zero, "vs": overflow}
    for name, first in holds.items():
        assert execute(machine, f"select_{name}", a, b) == (a if first else b)
    if not unordered:
        largest, smallest = (a, b) if x > y else (b, a)
        if x == y:
            largest, smallest = a & b, a | b
        assert execute(machine, "maxnm", a, b) == largest and execute(machine, "minnm", a, b) == smallest
        expected = -(np.float64(x) + np.float64(y)) if holds["gt"] else None
        if expected is not None:
            assert same(execute(machine, "in_it", a, b), float(expected))
        else:
            with np.errstate(all="ignore"):
                difference = np.float64(x) - np.float64(y)
                assert same(execute(machine, "in_it", a, b), float(difference + difference))


QUIET, SIGNALLING, DEFAULT = 0x7FF8000000000123, 0x7FF0000000000456, 0x7FF8000000000000


@pytest.mark.parametrize(
    ("name", "operands", "control", "expected", "flags"),
    [
        ("add", (QUIET, bits(1.0)), 0, QUIET, 0),
        ("add", (QUIET, SIGNALLING), 0, SIGNALLING | 1 << 51, 1),
        ("add", (QUIET, bits(1.0)), 1 << 25, DEFAULT, 0),
        ("sub", (bits(math.inf), bits(math.inf)), 0, DEFAULT, 1),
        ("div", (bits(1.0), bits(-0.0)), 0, bits(-math.inf), 2),
        ("div", (0, 0), 0, DEFAULT, 1),
        ("div", (bits(1.0), bits(3.0)), 0, bits(1 / 3), 16),
        ("mul", (bits(1e200), bits(1e200)), 0, bits(math.inf), 4 | 16),
        ("mul", (bits(1e200), bits(1e200)), 3 << 22, 0x7FEFFFFFFFFFFFFF, 4 | 16),
        ("mul", (bits(1e-200), bits(1e-200)), 0, 0, 8 | 16),
        ("mul", (bits(1e-160), bits(1e-160)), 1 << 24, 0, 8),
        ("add", (1, bits(1.0)), 1 << 24, bits(1.0), 128),
        ("add", (bits(-1.0), bits(1.0)), 2 << 22, bits(-0.0), 0),
        ("sqrt", (bits(-4.0),), 0, DEFAULT, 1),
        ("sqrt", (bits(-0.0),), 0, bits(-0.0), 0),
        ("maxnm", (QUIET, bits(2.0)), 0, bits(2.0), 0),
        ("minnm", (bits(2.0), SIGNALLING), 0, SIGNALLING | 1 << 51, 1),
        ("fma", (bits(math.inf), 0, QUIET), 0, DEFAULT, 1),
        ("rintx", (bits(1.5),), 0, bits(2.0), 16),
        ("rintr", (bits(-0.25),), 0, bits(-0.0), 0),
        ("one_and_a_half", (0,), 0, bits(1.5), 0),
        ("minus_thirteen", (0,), 0, bits(-13.0), 0),
        ("small", (0,), 0, bits(0.1328125), 0),
        ("upper", (bits(3.0), bits(7.0)), 0, bits(21.0), 0),
    ],
)
def test_special_values_and_sticky_flags(
    machine: Machine, name: str, operands: tuple[int, ...], control: int, expected: int, flags: int
) -> None:
    assert execute(machine, name, *operands, control=control) == expected
    assert machine.register("fpscr") & 0x9F == flags


def test_conversion_of_nan_and_too_large_values_is_flagged(machine: Machine) -> None:
    for value, expected in ((QUIET, 0), (bits(1e20), 0x7FFFFFFF), (bits(-math.inf), 0x80000000)):
        assert single(machine, "s32", value) == expected
        assert machine.register("fpscr") & 0x9F == 1


def test_compiled_code(machine: Machine) -> None:
    terms = [0.5, -1.25, 3.0, 1e-3]
    at = 0x20004000
    machine.write(at, struct.pack("<4d", *terms))
    machine.write_register("d0", bits(1.7))
    machine.call("c_series", at, len(terms))
    x = Fraction(1.7)
    exact = sum(Fraction(term) * x ** (3 - power) for power, term in enumerate(terms))
    assert double(machine.register("d0")) == pytest.approx(float(exact), rel=1e-15)
    machine.write_register("d0", bits(-1.2345678901234e15))
    low = machine.call("c_long")
    assert (machine.register("r1") << 32 | low) - (1 << 64) == int(-1.2345678901234e15)
    values = np.random.default_rng(1).integers(-(2**31), 2**31, 100, dtype=np.int32)
    machine.write(at, values.tobytes())
    machine.call("c_mean", at, len(values))
    assert double(machine.register("d0")) == float(values.astype(np.int64).sum()) / 100


NEAR = st.one_of(
    st.floats(-4.0, 4.0),
    st.integers(-(2**54), 2**54).map(float),
    st.tuples(st.integers(-(2**53), 2**53), st.integers(-80, 80)).map(lambda pair: math.ldexp(*pair)),
)


@settings(many, max_examples=200)
@given(a=NEAR, b=NEAR, c=NEAR, tie=st.booleans())
def test_fused_results_are_exact_where_rounding_is_close(
    machine: Machine, a: float, b: float, c: float, tie: bool
) -> None:
    if tie:
        c = -a * b  # almost everything cancels
    found = double(execute(machine, "fma", bits(a), bits(b), bits(c), 16))
    assert found == float(Fraction(a) * Fraction(b) + Fraction(c)), (a, b, c)


def test_the_c_part_mirrors_its_context() -> None:
    sizes = DoubleHook(Uc(UC_ARCH_ARM, UC_MODE_THUMB)).size
    assert sizes[0] == sizes[1]


def test_counts_stay_exact(machine: Machine) -> None:
    machine.write_register("d1", bits(2.0))
    machine.write_register("d2", bits(0.5))
    machine.clear_counts()
    machine.call("op_in_it")
    # vcmp, vmrs, ittee, four conditional ones, bx.
    assert machine.counts().instructions == 8


def test_the_cortex_m4_has_no_double_precision(bare: Callable[..., Machine]) -> None:
    from millijoule.errors import EmulationError

    machine = bare('int main(void) { __asm volatile(".inst.w 0xEE310B02"); return 0; }')
    with pytest.raises(EmulationError, match="the instruction is undefined on this core"):
        machine.run(machine.image.symbol("finished").address)
