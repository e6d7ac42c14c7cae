"""Energy and duty cycle: sums of phases, what is assumed, what is refused."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millijoule.boards import load_board, read_board
from millijoule.emulate import Battery, duty_cycle, energy
from millijoule.errors import BoardError, OptionError

SECOND = 120_000_000


@given(st.floats(0, 1e10), st.floats(0, 1), st.sampled_from(["ldo_1v8", "smps_3v0"]))
def test_energy_is_the_sum_of_its_phases(cycles: float, share: float, name: str) -> None:
    supply = load_board("stm32l4r9i").regulator(name)
    stalls = min(cycles * share, cycles)
    found = energy(cycles, "stm32l4r9i", name, stall_cycles=stalls)
    compute, stall = found.phases
    assert (compute.name, stall.name) == ("compute", "flash stall")
    assert compute.seconds + stall.seconds == pytest.approx(cycles / SECOND)
    expected = ((cycles - stalls) + supply.fit.stall_factor * stalls) * supply.joules_per_cycle
    assert found.joules == pytest.approx(expected) == pytest.approx(compute.joules + stall.joules)


@pytest.mark.parametrize(
    ("board", "name"), [("stm32l4r9i", "ldo_1v8"), ("stm32l4r9i", "smps_3v0"), ("stm32h7b3i", None)]
)
def test_published_rows_lie_within_the_stated_uncertainty(board: str, name: str | None) -> None:
    supply = load_board(board).regulator(name)
    for row, (microjoules, milliseconds) in supply.rows.items():
        cycles = milliseconds * 1e-3 * supply.clock_hz
        for stalls in (None, supply.stall_cycles.get(row, 0.0)):
            found = energy(cycles, board, name, stall_cycles=stalls)
            assert abs(found.joules * 1e6 / microjoules - 1.0) <= found.uncertainty + 1e-9, (row, stalls)


def test_unknown_stalls_are_said_to_be_unknown() -> None:
    known = energy(SECOND, "stm32l4r9i", stall_cycles=0)
    unknown = energy(SECOND, "stm32l4r9i")
    assert known.joules == pytest.approx(unknown.joules) and known.uncertainty < unknown.uncertainty
    assert "all cycles count as computing" in unknown.statement and len(unknown.phases) == 1
    assert "MLPerf Tiny v1.2" in unknown.statement and "error 4.3%" in unknown.statement
    fitted = energy(SECOND, "stm32l4r9i", stall_cycles=SECOND / 10)
    assert "10.0% of the cycles wait for flash at 0.43 of the power" in fitted.statement
    assert fitted.joules < known.joules and fitted.watts < known.watts
    assert "published rounds disagree" in energy(1e6, "stm32h7b3i", stall_cycles=1e5).statement


def test_the_linear_regulator_scales_with_its_voltage_within_what_was_measured() -> None:
    low, high = (energy(SECOND, "stm32l4r9i", volts=volts) for volts in (1.8, 3.0))
    assert high.joules == pytest.approx(low.joules * 3.0 / 1.8) and high.volts == 3.0
    assert "at 3 V with the current of 1.8 V" in high.statement
    for board, name, volts in (
        ("stm32l4r9i", "ldo_1v8", 3.3),
        ("stm32l4r9i", "smps_3v0", 1.8),
        ("stm32h7b3i", None, 3.3),
    ):
        with pytest.raises(BoardError, match=r"V only.*Use a voltage of"):
            energy(1e6, board, name, volts=volts)


def test_a_slower_board_keeps_the_energy_of_a_cycle_and_says_so(tmp_path: object) -> None:
    from pathlib import Path

    import millijoule.boards as boards

    text = (Path(boards.__file__).parent / "stm32l4r9i.toml").read_text()
    slow = text.replace("\nclock_hz = 120_000_000", "\nclock_hz = 80_000_000", 1).replace(
        "multiplier = 30", "multiplier = 20"
    )
    path = Path(str(tmp_path)) / "slow.toml"
    path.write_text(slow)
    found = energy(80_000_000, read_board(path))
    assert found.seconds == pytest.approx(1.0)
    assert found.joules_per_cycle == load_board("stm32l4r9i").regulator().joules_per_cycle
    assert "measured at 120 MHz, a cycle taken to cost the same at 80 MHz" in found.statement


@pytest.mark.parametrize(("cycles", "stalls"), [(-1.0, None), (10.0, 11.0), (10.0, -1.0), (math.nan, None)])
def test_impossible_cycles_are_refused(cycles: float, stalls: float | None) -> None:
    with pytest.raises(OptionError, match="no number of cycles"):
        energy(cycles, "stm32l4r9i", stall_cycles=stalls)


def test_duty_cycle_adds_sleep_to_inferences() -> None:
    one = energy(SECOND / 10, "stm32l4r9i", stall_cycles=0)  # 0.1 s
    found = duty_cycle(one, 0.5, sleep_amperes=10e-6, sleep_source="a data sheet")
    asleep = 1.9 * 10e-6 * 1.8
    assert found.joules == pytest.approx(one.joules + asleep)
    assert found.watts == pytest.approx((one.joules + asleep) / 2.0)
    assert found.amperes == pytest.approx(found.watts / 1.8)
    assert found.sleep_share == pytest.approx(asleep / found.joules)
    assert sum(phase.seconds for phase in found.phases) == pytest.approx(2.0)
    assert found.uncertainty < one.uncertainty
    assert "10 uA (a data sheet)" in found.statement and "waking up: not modelled" in found.statement
    woken = duty_cycle(one, 0.5, sleep_amperes=10e-6, wake_joules=1e-6)
    assert woken.joules == pytest.approx(found.joules + 1e-6) and "1 uJ each time" in woken.statement


@given(st.floats(1e-5, 5.0), st.floats(1e-5, 5.0))
def test_more_inferences_need_more_power(first: float, second: float) -> None:
    one = energy(SECOND / 10, "stm32l4r9i")
    low, high = sorted((first, second))
    few, many = (duty_cycle(one, rate, sleep_amperes=3e-6) for rate in (low, high))
    assert few.watts <= many.watts * (1 + 1e-9)
    assert many.watts <= one.watts * (1 + 1e-9)


def test_battery_life_counts_usable_charge_and_self_discharge() -> None:
    one = energy(SECOND / 10, "stm32l4r9i")
    plain = duty_cycle(one, 1 / 60, sleep_amperes=5e-6, battery=Battery(220))
    assert plain.battery_hours == pytest.approx(0.220 / plain.amperes)
    half = duty_cycle(one, 1 / 60, sleep_amperes=5e-6, battery=Battery(220, usable=0.5))
    assert half.battery_hours == pytest.approx(plain.battery_hours / 2)
    # A cell that loses a tenth a year, and nothing drawn: ten years.
    assert Battery(100, self_discharge=0.1).hours(0.0) == pytest.approx(10 * 8766)
    assert Battery(100).hours(0.0) == math.inf
    assert "the cell feeds it" in half.statement


def test_no_sleep_no_sleep_current() -> None:
    one = energy(SECOND, "stm32l4r9i")
    always = duty_cycle(one, 1.0)
    assert always.watts == pytest.approx(one.watts) and always.sleep_share == 0.0


@pytest.mark.parametrize(
    ("rate", "options", "reason"),
    [
        (1.0, {}, "the sleep current: it depends on stop mode"),
        (0.0, {"sleep_amperes": 1e-6}, "must be above 0"),
        (math.inf, {"sleep_amperes": 1e-6}, "must be above 0"),
        (11.0, {"sleep_amperes": 1e-6}, r"one takes 100\.0 ms, so at most 10 fit"),
        (1.0, {"sleep_amperes": -1e-6}, "neither can be below 0"),
        (1.0, {"sleep_amperes": math.nan}, "neither can be below 0"),
        (1.0, {"sleep_amperes": 1e-6, "wake_joules": -1.0}, "neither can be below 0"),
    ],
)
def test_what_cannot_be_computed_is_refused(rate: float, options: dict[str, float], reason: str) -> None:
    one = energy(SECOND / 10, "stm32l4r9i")
    with pytest.raises(OptionError, match=reason):
        duty_cycle(one, rate, **options)


@pytest.mark.parametrize("values", [(0.0,), (-1.0,), (math.inf,), (100.0, 0.0), (100.0, 1.1), (100.0, 1.0, 1.0)])
def test_impossible_cells_are_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(OptionError, match="that is no cell"):
        Battery(*values)
