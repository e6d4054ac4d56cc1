from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ports import Reading
from agent.sensors.energy import EnergyMeter


def power(t_s, value, name="module"):
    return Reading(name, "power_w", value, None if value is not None else "read_failed", t_s)


def counter(t_s, value):
    return Reading("module", "energy_j", value, None, t_s)


def test_power_is_integrated_by_the_trapezoid_rule():
    meter = EnergyMeter("module", max_gap_s=5.0)
    for t_s, value in [(0.0, 2.0), (1.0, 4.0), (3.0, 4.0)]:
        meter.add(power(t_s, value), 1.0)

    window = meter.close(3.0)

    assert window.energy_j == pytest.approx(3.0 + 8.0)
    assert (window.begin_s, window.end_s, window.covered_s, window.provenance) == (0.0, 3.0, 3.0, "measured")
    assert window.mean_power_w == pytest.approx(11 / 3)
    assert window.sensor == "module"


def test_a_counter_is_subtracted():
    meter = EnergyMeter("module", 5.0)
    for t_s, value in [(0.0, 100.0), (1.0, 107.0), (2.0, 109.5)]:
        meter.add(counter(t_s, value), 0.0)

    assert meter.close(2.0).energy_j == pytest.approx(9.5)


def test_idle_and_busy_joules_are_kept_apart():
    meter = EnergyMeter("module", 5.0)
    meter.add(power(0.0, 4.0), 0.0)
    meter.add(power(1.0, 4.0), 0.25)
    meter.add(power(2.0, 4.0), 0.0)

    window = meter.close(2.0)

    assert (window.busy_j, window.idle_j) == (pytest.approx(1.0), pytest.approx(7.0))


def test_a_fault_interrupts_the_integral_and_nothing_is_invented():
    meter = EnergyMeter("module", 5.0)
    for t_s, value in [(0.0, 10.0), (1.0, None), (2.0, 10.0), (3.0, 10.0)]:
        meter.add(power(t_s, value), 1.0)

    window = meter.close(3.0)

    assert (window.energy_j, window.covered_s) == (pytest.approx(10.0), 1.0)


def test_a_gap_longer_than_allowed_is_uncovered():
    meter = EnergyMeter("module", max_gap_s=2.0)
    meter.add(power(0.0, 10.0), 1.0)
    meter.add(power(60.0, 10.0), 1.0)

    assert meter.close(60.0).energy_j is None


def test_without_any_reading_the_energy_is_unknown_and_not_zero():
    window = EnergyMeter("module", 5.0).close(7.0)

    assert (window.energy_j, window.busy_j, window.idle_j, window.provenance) == (None, None, None, "unknown")
    assert window.mean_power_w is None


def test_a_counter_that_was_set_back_gives_nothing_for_that_step():
    meter = EnergyMeter("module", 5.0)
    for t_s, value in [(0.0, 100.0), (1.0, 2.0), (2.0, 5.0)]:
        meter.add(counter(t_s, value), 1.0)

    assert meter.close(2.0).energy_j == pytest.approx(3.0)


def test_other_sensors_and_other_kinds_are_ignored():
    meter = EnergyMeter("module", 5.0)
    meter.add(power(0.0, 10.0, "other"), 1.0)
    meter.add(Reading("module", "temperature_c", 50.0, None, 1.0), 1.0)

    assert meter.close(1.0).provenance == "unknown"


@given(
    st.lists(st.tuples(st.floats(0.01, 1.0), st.floats(0, 100), st.booleans()), min_size=3, max_size=30),
    st.floats(-1, 2),
)
def test_windows_lose_and_double_nothing_whereever_they_are_cut(samples, busy):
    whole, parts = EnergyMeter("module", 5.0), EnergyMeter("module", 5.0)
    t_s, closed = 0.0, []
    for step_s, value, cut in samples:
        t_s += step_s
        whole.add(power(t_s, value), busy)
        parts.add(power(t_s, value), busy)
        if cut:
            closed.append(parts.close(t_s))
    closed.append(parts.close(t_s))
    one = whole.close(t_s)

    total_j = sum(window.energy_j or 0.0 for window in closed)
    assert total_j == pytest.approx(one.energy_j)
    assert one.energy_j == pytest.approx(one.busy_j + one.idle_j)
    assert all(a.end_s == b.begin_s for a, b in pairwise(closed))
