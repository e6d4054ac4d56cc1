"""Energy: both forms of the unified equation, Φ, and the power cap."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.physics import energy, leakage

switching = st.floats(1e-9, 1e4)
time = st.floats(1e-6, 1e4)
power = st.floats(0.0, 500.0)


@given(switching, time, power)
def test_both_forms_of_the_equation_agree(switching_j, time_s, static_w):
    e = energy.stage_energy(switching_j, time_s, static_w)

    assert float(energy.energy_by_yield(switching_j, e.thermal_yield)) == pytest.approx(float(e.energy_j), rel=1e-12)
    assert float(e.energy_j) == pytest.approx(switching_j + static_w * time_s, rel=1e-12)


@given(switching, time, power, st.floats(501.0, 5000.0))
def test_thermal_yield_is_in_the_unit_interval_with_and_without_a_cap(switching_j, time_s, static_w, cap_w):
    for cap in (math.inf, cap_w):
        assert 0 < energy.stage_energy(switching_j, time_s, static_w, cap).thermal_yield <= 1


@given(switching, time, st.floats(0.0, 50.0), st.floats(51.0, 500.0))
def test_mean_power_never_exceeds_the_cap_and_stretching_is_said(switching_j, time_s, static_w, cap_w):
    e = energy.stage_energy(switching_j, time_s, static_w, cap_w)
    free = energy.stage_energy(switching_j, time_s, static_w)

    assert e.mean_power_w <= cap_w * (1 + 1e-12)
    assert float(e.mean_power_w) == pytest.approx(float(e.energy_j / e.time_s), rel=1e-9)
    assert bool(e.capped) == bool(e.time_s > time_s)
    assert float(e.time_s) == pytest.approx(time_s + float(e.stretch_s))
    assert e.energy_j >= free.energy_j
    if free.mean_power_w <= cap_w * (1 - 1e-12):
        assert not e.capped


def test_a_stretched_stage_runs_exactly_at_its_cap():
    e = energy.stage_energy(100.0, 1.0, 5.0, 25.0)

    assert (float(e.time_s), float(e.mean_power_w), float(e.energy_j)) == (5.0, 25.0, 125.0)
    assert float(e.stretch_s) == 4.0
    assert e.capped
    assert e.cap_can_be_met


def test_a_cap_below_static_power_can_never_be_met():
    e = energy.stage_energy([1.0, 1.0, 1.0], 1.0, [4.0, 5.0, 6.0], 5.0)

    assert e.cap_can_be_met.tolist() == [True, False, False]
    assert e.energy_j.tolist() == [5.0, math.inf, math.inf]
    assert e.thermal_yield.tolist() == [0.2, 0.0, 0.0]
    assert e.mean_power_w.tolist() == [5.0, 5.0, 6.0]


@given(switching, time, st.floats(0.0, 50.0), st.floats(0.01, 10.0), st.floats(20.0, 100.0), st.floats(0.1, 20.0))
def test_energy_rises_and_yield_falls_with_temperature(switching_j, time_s, base_w, leak_w, cold_c, rise_c):
    static_w = base_w + leakage.leakage_power([cold_c, cold_c + rise_c], leak_w, 0.1)
    e = energy.stage_energy(switching_j, time_s, static_w)

    assert e.static_j[1] > e.static_j[0]
    assert e.energy_j[1] >= e.energy_j[0]
    assert e.thermal_yield[1] <= e.thermal_yield[0]


@given(st.lists(switching, min_size=1, max_size=6), time, power)
def test_an_array_gives_what_its_elements_give(joules, time_s, static_w):
    together = energy.stage_energy(joules, time_s, static_w, 400.0)
    alone = [energy.stage_energy(j, time_s, static_w, 400.0) for j in joules]

    for name in ("energy_j", "thermal_yield", "time_s", "mean_power_w", "static_j", "switching_j", "stretch_s"):
        assert getattr(together, name).tolist() == [float(getattr(a, name)) for a in alone]


def test_idling_is_all_loss_and_nothing_at_all_loses_nothing():
    idle, nothing = energy.stage_energy(0.0, 2.0, 3.0), energy.stage_energy(0.0, 0.0, 3.0)

    assert (float(idle.energy_j), float(idle.thermal_yield), float(idle.mean_power_w)) == (6.0, 0.0, 3.0)
    assert (float(nothing.energy_j), float(nothing.thermal_yield)) == (0.0, 1.0)
    with pytest.raises(ValueError, match="thermal_yield"):
        energy.energy_by_yield(0.0, idle.thermal_yield)


def test_energy_without_time_is_an_error():
    with pytest.raises(ValueError, match="time_s"):
        energy.stage_energy([0.0, 1.0], [0.0, 0.0], 1.0)


def test_switching_energy_charges_the_penalty_to_memory_only():
    assert energy.switching_energy(1e9, 1e6, 1e-12, 1e-10, 1.5) == pytest.approx(1e-3 + 1.5e-4)


def test_a_mixture_of_precisions_costs_what_its_parts_cost():
    flops, cost = np.array([1e9, 3e9]), np.array([2e-12, 1e-12])

    assert energy.blended_j_per_flop(flops, cost) * flops.sum() == pytest.approx((flops * cost).sum())
    assert energy.blended_j_per_flop([0.0, 0.0], cost) == 2e-12


@pytest.mark.parametrize(
    ("name", "value"),
    [("switching_j", -1.0), ("time_s", math.nan), ("static_power_w", -1.0), ("power_cap_w", 0.0)],
)
def test_an_impossible_argument_is_named(name, value):
    with pytest.raises(ValueError, match=name):
        energy.stage_energy(**({"switching_j": 1.0, "time_s": 1.0, "static_power_w": 1.0} | {name: value}))
