"""The choice of settings: the most work below every ceiling, with what costs least, and no change for nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.control import thermal_choice
from agent.control.heat_allotment import allot
from agent.control.linear_program import maximise
from agent.control.thermal_choice import Ceiling, Move, Point, Setting, Unit, choose
from agent.physics.impedance import Forecast
from agent.schema.policy import ThermalForecast

RULE = ThermalForecast(operating_points=True)
FULL = Point("full", 1.0, 10.0)
SLOW = Point("slow", 0.8, 5.0)


def flat(gains, base_c=40.0, ceiling_c=80.0, hard_c=85.0, name="z", deviation_c=0.0):
    """A zone whose forecast is the same at both times."""
    gain = np.array([gains, gains], dtype=float)
    sources = len(gains)
    return Ceiling(
        name,
        Forecast(np.array([2.0, 30.0]), np.full(2, base_c), gain, np.zeros((2, 1)), np.zeros((sources, 2, 1)),
                 np.zeros((1, 1)), np.full(2, deviation_c**2)),
        ceiling_c, hard_c,
    )  # fmt: skip


def unit(name="a", points=(FULL,), demand=1.0, moves=()):
    return Unit(name, tuple(points), demand, tuple(moves))


def test_nothing_is_done_while_nothing_binds():
    choice = choose([unit()], [flat([3.0])], RULE)
    assert choice.settings == {"a": Setting()}
    assert choice.zone == ""


def test_a_pace_brings_the_forecast_exactly_to_the_ceiling():
    setting = choose([unit()], [flat([8.0], hard_c=999.0)], RULE).settings["a"]
    assert 40.0 + 8.0 * 10.0 * setting.pace == pytest.approx(80.0)


def test_two_standard_deviations_are_kept_as_a_reserve():
    setting = choose([unit()], [flat([8.0], hard_c=999.0, deviation_c=4.0)], RULE).settings["a"]
    assert 40.0 + 8.0 * 10.0 * setting.pace == pytest.approx(72.0)


def test_the_zone_that_binds_and_the_temperature_it_would_reach_are_said():
    choice = choose([unit()], [flat([4.1], name="cool"), flat([8.0], name="hot")], RULE)
    assert (choice.zone, choice.unchecked_c, choice.at_s) == ("hot", 120.0, 2.0)


def test_an_accelerator_that_hardly_heats_the_zone_is_not_limited_for_it():
    chosen = choose([unit("a"), unit("b")], [flat([8.0, 0.2], hard_c=999.0)], RULE).settings
    assert chosen["b"].pace == 1.0
    assert 40.0 + 80.0 * chosen["a"].pace + 2.0 == pytest.approx(80.0)


def test_each_accelerator_is_limited_by_its_own_zone():
    zones = [flat([8.0, 0.0], hard_c=999.0, name="a"), flat([0.0, 5.0], hard_c=999.0, name="b")]
    choice = choose([unit("a"), unit("b")], zones, RULE)
    assert (choice.settings["a"].pace, choice.settings["b"].pace) == (pytest.approx(0.5), pytest.approx(0.8))
    assert choice.zone == "a"


def test_work_moves_where_another_accelerator_is_free():
    a = unit("a", demand=0.8, moves=[Move("b", 1.0)])
    b = unit("b", demand=0.05)
    settings_ = choose([a, b], [flat([8.0, 0.1])], RULE).settings
    assert settings_["a"].moved_to == "b"
    assert settings_["a"].moved_share > 0
    assert settings_["b"].pace == 1.0


def test_work_does_not_move_where_the_policy_forbids_it_or_the_other_one_is_as_hot():
    a, b = unit("a", moves=[Move("b", 1.0)]), unit("b", demand=0.05)
    forbidden = RULE.model_copy(update={"move": False})
    assert choose([a, b], [flat([8.0, 0.1])], forbidden).settings["a"].moved_share == 0.0
    assert choose([a, b], [flat([8.0, 8.0])], RULE).settings["a"].moved_share == 0.0


def test_a_small_load_is_not_paced_for_heat_that_only_a_full_one_would_make():
    setting = choose([unit(demand=0.2)], [flat([8.0], hard_c=999.0)], RULE).settings["a"]
    assert setting.pace == 1.0


def test_a_burst_before_the_next_look_stays_below_the_hard_limit():
    setting = choose([unit(demand=0.2)], [flat([8.0], hard_c=85.0)], RULE).settings["a"]
    assert 40.0 + 80.0 * setting.pace == pytest.approx(85.0)


def test_samples_shrink_before_requests_are_refused():
    seen = [choose([unit()], [flat([g], hard_c=999.0)], RULE).settings["a"] for g in (5.0, 7.0, 9.0, 20.0)]
    assert [s.sample_share < 1.0 for s in seen] == [False, True, True, True]
    assert [s.admit_share < 1.0 for s in seen] == [False, False, False, True]
    assert seen[-1].sample_share == RULE.min_sample_share
    assert seen[1].sample_share == pytest.approx((4.0 / 7.0) / thermal_choice.SAMPLES_BELOW)
    assert seen[3].admit_share == pytest.approx(0.2 / thermal_choice.ADMIT_BELOW)


def test_below_the_least_pace_it_stops():
    setting = choose([unit()], [flat([8.0], base_c=79.0)], RULE).settings["a"]
    assert (setting.pace, setting.admit_share) == (0.0, 0.0)
    assert choose([unit()], [flat([8.0], base_c=90.0)], RULE).settings["a"].pace == 0.0


def test_a_held_plan_is_only_tightened():
    points = (FULL, SLOW, Point("slowest", 0.5, 2.0))
    before = {"a": Setting(point=1)}
    cool = choose([unit(points=points)], [], RULE, before, held=True).settings["a"]
    assert cool.point == 1
    hot = choose([unit(points=points)], [flat([30.0])], RULE, before, held=True).settings["a"]
    assert hot.point == 2
    free = choose([unit(points=points)], [], RULE, before, held=False).settings["a"]
    assert free.point == 0


def test_a_held_plan_that_does_little_takes_no_faster_point():
    points = (FULL, SLOW, Point("slowest", 0.5, 2.0))
    zone, before = flat([1.0], base_c=76.0, hard_c=999.0), {"a": Setting(point=2)}
    assert choose([unit(points=points)], [zone], RULE, before, held=True).settings["a"].point == 2
    assert choose([unit(points=points)], [zone], RULE, before, held=False).settings["a"].point == 1


def test_a_plan_that_is_in_no_point_and_moves_nothing_is_released_at_once_where_nothing_binds():
    before = {"a": Setting(pace=0.3, admit_share=0.5)}
    assert choose([unit()], [], RULE, before, held=True).settings["a"] == Setting()


def test_of_limits_that_say_the_same_one_counts_and_of_others_each():
    twice = [flat([8.0, 1.0], hard_c=999.0, name=name) for name in ("x", "y")]
    other = flat([1.0, 8.0], hard_c=999.0, name="z")
    a, b = unit("a"), unit("b")
    alone = choose([a, b], [twice[0], other], RULE).settings
    assert choose([a, b], [*twice, other], RULE).settings == alone
    assert alone["a"].pace == pytest.approx(alone["b"].pace)
    assert 80.0 * alone["a"].pace + 10.0 * alone["b"].pace == pytest.approx(40.0)


@pytest.mark.parametrize("order", [1, -1])
def test_of_two_limits_the_stricter_one_counts(order):
    zones = [flat([8.0], hard_c=999.0), flat([5.0], hard_c=999.0)][::order]
    assert choose([unit()], zones, RULE).settings["a"].pace == pytest.approx(0.5)


def test_a_zone_at_its_ceiling_is_no_other_zones_limit():
    """No room at all binds those who heat that zone, and nobody else."""
    chosen = choose([unit("a"), unit("b")], [flat([8.0, 0.0], base_c=81.0), flat([0.0, 5.0])], RULE).settings
    assert (chosen["a"].pace, chosen["b"].pace) == (0.0, pytest.approx(0.8))


def test_a_held_move_is_only_widened():
    a, b = unit("a", moves=[Move("b", 1.0)]), unit("b", demand=0.05)
    before = {"a": Setting(moved_share=0.5, moved_to="b"), "b": Setting()}
    held = choose([a, b], [flat([30.0, 0.1])], RULE, before, held=True).settings["a"]
    assert held.moved_share == pytest.approx(0.87, abs=0.01)
    assert held.pace == pytest.approx(0.13, abs=0.01)
    free = choose([a, b], [flat([4.1, 4.2])], RULE, before, held=False).settings["a"]
    assert free.moved_share == 0.0


def test_of_two_plans_that_do_the_same_the_one_in_force_stays():
    points = (FULL, Point("twin", 0.99, 9.85))
    before = {"a": Setting(point=1)}
    kept = choose([unit(points=points)], [flat([4.3])], RULE, before).settings["a"]
    assert kept.point in {0, 1}
    again = choose([unit(points=points)], [flat([4.3])], RULE, {"a": replace(kept, pace=1.0)}).settings["a"]
    assert again.point == kept.point


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0.1, 12.0), min_size=1, max_size=3),
    st.floats(20.0, 95.0),
    st.lists(st.floats(0.05, 1.0), min_size=3, max_size=3),
)
def test_whatever_the_board_the_plan_keeps_every_zone_below_its_ceiling(gains, base_c, demands):
    names = [f"u{i}" for i in range(len(gains))]
    units = [
        Unit(n, (FULL, SLOW), d, tuple(Move(m, 1.5) for m in names if m != n))
        for n, d in zip(names, demands, strict=False)
    ]
    zone = flat(gains, base_c=base_c)
    chosen = choose(units, [zone], RULE).settings
    power = np.array([u.points[chosen[u.name].point].power_w * chosen[u.name].pace for u in units])
    most = zone.forecast.temperature_c(power)
    assert np.all(most <= zone.hard_c + 1e-6) or np.all(power == 0.0)


# ------------------------------------------------------------------ the long run


def lasting(near, far, usual=1.0):
    """A zone with other gains in the long run than within the horizon, and units that usually have less to do."""
    gain = np.array([near, far], dtype=float)
    forecast = Forecast(
        np.array([2.0, 600.0]), np.full(2, 40.0), gain, np.zeros((2, 1)), np.zeros((len(near), 2, 1)),
        np.zeros((1, 1)), np.zeros(2),
    )  # fmt: skip
    units = [replace(unit(name), usual_share=usual) for name in ("a", "b")[: len(near)]]
    return units, [Ceiling("z", forecast, 80.0, 999.0)]


def test_heat_that_comes_late_counts_in_the_long_run():
    units, zones = lasting([1.0], [8.0])
    assert choose(units, zones, RULE).settings["a"].pace == pytest.approx(0.5)


def test_a_burst_is_held_only_to_what_usually_comes():
    units, zones = lasting([1.0], [8.0], usual=0.4)
    assert choose(units, zones, RULE).settings["a"].pace == 1.0


def test_the_long_run_needs_no_reserve():
    units, zones = lasting([1.0], [8.0])
    doubtful = replace(zones[0], forecast=replace(zones[0].forecast, extra_c2=np.full(2, 16.0)))
    assert choose(units, [doubtful], RULE).settings["a"].pace == pytest.approx(0.5)


def test_the_reserve_is_for_the_power_in_force_not_for_one_that_nobody_allows():
    zone = flat([8.0], hard_c=999.0)
    forecast = replace(zone.forecast, gain_rows=np.ones((1, 2, 1)), covariance=np.array([[0.04]]))
    zone = replace(zone, forecast=forecast)
    full = choose([unit()], [zone], RULE, {"a": Setting(pace=1.0)}).settings["a"].pace
    half = choose([unit()], [zone], RULE, {"a": Setting(pace=0.5)}).settings["a"].pace
    assert 80.0 * full == pytest.approx(40.0 - 2.0 * 0.2 * 10.0)
    assert 80.0 * half == pytest.approx(40.0 - 2.0 * 0.2 * 5.0)


# ------------------------------------------------------------------ the program


def test_the_accelerator_that_does_more_for_a_kelvin_keeps_it():
    fast, slow = unit("fast", moves=[Move("slow", 4.0)]), unit("slow", moves=[Move("fast", 0.25)])
    chosen = choose([fast, slow], [flat([5.0, 5.0], hard_c=999.0)], RULE).settings
    assert (chosen["fast"].pace, chosen["slow"].pace) == (pytest.approx(0.8), 0.0)


def test_a_zone_that_an_accelerator_does_not_heat_does_not_stop_it():
    chosen = choose([unit("a"), unit("b")], [flat([8.0, 1e-4], base_c=90.0)], RULE).settings
    assert (chosen["a"].pace, chosen["b"].pace) == (0.0, 1.0)


def test_of_a_mixture_of_points_the_better_single_one_is_taken():
    points = (FULL, SLOW, Point("slowest", 0.5, 2.0))
    allotment = allot([unit(points=points)], [range(3)], np.array([[1.0]]), np.array([4.0]))
    assert allotment is not None
    assert allotment.points == (1,)
    assert allotment.served[0] == pytest.approx(0.8 * 0.8)


def test_a_program_without_bounds_is_refused():
    with pytest.raises(ValueError, match="no bound"):
        maximise([1.0], [[-1.0]], [1.0])
    with pytest.raises(ValueError, match=">= 0"):
        maximise([1.0], [[1.0]], [-1.0])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_the_optimum_is_allowed_and_no_corner_is_better(seed):
    random = np.random.default_rng(seed)
    rows = np.vstack([random.uniform(0, 2, (3, 2)), np.eye(2)])
    bounds = np.concatenate([random.uniform(0, 2, 3), [1.0, 1.0]])
    worth = random.uniform(-0.5, 1, 2)
    best = np.array(maximise(worth.tolist(), rows.tolist(), bounds.tolist()))
    assert np.all(rows @ best <= bounds + 1e-7)
    grid = np.stack(np.meshgrid(np.linspace(0, 1, 41), np.linspace(0, 1, 41)), -1).reshape(-1, 2)
    allowed = grid[np.all(grid @ rows.T <= bounds, axis=1)]
    assert worth @ best >= np.max(allowed @ worth) - 1e-7
