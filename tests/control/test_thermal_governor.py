"""Scenario tables of the thermal governor: readings in, verdicts out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.thermal_governor import GovernorState, Level, ZoneInput, hard_limit_c, step
from agent.schema.policy import ThermalForecast, ThermalLimits

LIMITS = ThermalLimits(soft_c=70, hard_c=85, hysteresis_c=5, min_dwell_s=10, stale_after_s=2, derate_share=0.5)


def zone(temperature_c=None, *, fault=None, age_s=0.0, critical=True, accelerators=(), trip_c=None, name="cpu"):
    return ZoneInput(name, temperature_c, fault, age_s, critical, accelerators, trip_c)


def run(temperatures, dt_s=20.0, **options):
    """Levels of one zone over a series of temperatures."""
    state, levels = GovernorState(), []
    for i, t in enumerate(temperatures):
        state, verdicts = step(state, [zone(t, **options)], ["gpu0"], LIMITS, "run", i * dt_s)
        levels.append(verdicts["gpu0"].level)
    return levels


@pytest.mark.parametrize(
    ("temperatures", "levels"),
    [
        ([20, 69.9], [0, 0]),
        ([70], [1]),
        ([84.9], [1]),
        ([85], [2]),
        ([70, 66, 65.1], [1, 1, 1]),
        ([70, 64.9], [1, 0]),
        ([85, 81], [2, 2]),
        ([85, 79.9], [2, 1]),
        ([85, 60], [2, 0]),
        ([60, 85, 75, 72, 60], [0, 2, 1, 1, 0]),
    ],
)
def test_levels_follow_the_limits_with_hysteresis(temperatures, levels):
    assert run(temperatures) == levels


def test_a_release_waits_for_the_dwell_but_a_rise_never_does():
    state = GovernorState()
    seen = []
    for now_s, t in [(0, 85), (5, 40), (9.9, 40), (10, 40), (10.1, 90), (10.2, 40)]:
        state, verdicts = step(state, [zone(t)], ["a"], LIMITS, "run", now_s)
        seen.append(verdicts["a"].level)
    assert seen == [2, 2, 2, 0, 2, 2]


@pytest.mark.parametrize("blind", [zone(None, fault="absent"), zone(30.0, age_s=2.1), zone(None, fault="implausible")])
def test_a_critical_sensor_that_is_missing_or_stale_counts_as_hot(blind):
    _, verdicts = step(GovernorState(), [blind], ["a"], LIMITS, "run", 0.0)
    assert not verdicts["a"].permit
    assert "cpu" in verdicts["a"].cause


def test_the_cause_of_a_stale_sensor_names_its_age():
    _, verdicts = step(GovernorState(), [zone(30.0, age_s=3.0)], ["a"], LIMITS, "run", 0.0)
    assert "no reading for 3.0 s" in verdicts["a"].cause


def test_a_reading_exactly_at_the_stale_limit_is_still_fresh():
    _, verdicts = step(GovernorState(), [zone(30.0, age_s=2.0)], ["a"], LIMITS, "run", 0.0)
    assert verdicts["a"].permit


def test_a_missing_sensor_that_is_not_critical_limits_nothing():
    _, verdicts = step(GovernorState(), [zone(None, fault="absent", critical=False)], ["a"], LIMITS, "run", 0.0)
    assert verdicts["a"] == verdicts["a"].__class__(True, 1.0, Level.NOMINAL, "")


def test_a_sensor_that_is_not_critical_and_goes_missing_while_hot_releases_nothing_before_the_dwell():
    state, seen = GovernorState(), []
    for now_s, t in [(0, 90), (1, None), (5, None), (9.9, None), (10, None), (11, None)]:
        state, verdicts = step(state, [zone(t, fault="absent", critical=False)], ["a"], LIMITS, "run", now_s)
        seen.append((verdicts["a"].level, bool(verdicts["a"].cause)))
    assert seen == [*[(Level.HALT, True)] * 4, *[(Level.NOMINAL, False)] * 2]


def test_the_strictest_zone_decides_and_only_for_the_accelerators_it_speaks_for():
    zones = [zone(90, accelerators=("gpu",), name="g"), zone(72, name="board")]
    _, verdicts = step(GovernorState(), zones, ["gpu", "cpu"], LIMITS, "run", 0.0)
    assert (verdicts["gpu"].permit, verdicts["gpu"].capacity_share) == (False, 0.0)
    assert (verdicts["cpu"].permit, verdicts["cpu"].capacity_share) == (True, 0.5)


@pytest.mark.parametrize(
    ("rule", "permit", "share"), [("run", True, 1.0), ("derate", True, 0.5), ("refuse", False, 0.0)]
)
def test_a_machine_without_sensors_runs_by_the_rule_of_the_policy(rule, permit, share):
    _, verdicts = step(GovernorState(), [], ["a"], LIMITS, rule, 0.0)
    assert (verdicts["a"].permit, verdicts["a"].capacity_share) == (permit, share)
    assert bool(verdicts["a"].cause) == (rule != "run")


def test_a_trip_of_the_kernel_below_the_policy_tightens_both_limits():
    assert run([64.9], trip_c=70) == [Level.NOMINAL]
    assert run([65], trip_c=70) == [Level.HALT]


def test_a_trip_above_the_policy_changes_nothing():
    assert run([84], trip_c=105) == [Level.DERATE]


@given(st.lists(st.floats(-20, 120), min_size=1, max_size=30))
def test_at_or_above_the_hard_limit_no_permit_is_ever_given(temperatures):
    for t, level in zip(temperatures, run(temperatures, dt_s=1.0), strict=True):
        if t >= LIMITS.hard_c:
            assert level is Level.HALT
        if t >= LIMITS.soft_c:
            assert level >= Level.DERATE


def test_a_learnt_zone_keeps_the_smaller_margin_and_has_no_soft_limit():
    limits = LIMITS.model_copy(update={"forecast": ThermalForecast(trip_margin_c=0.5)})
    for forecast, rule, margin_c in ((True, limits, 0.5), (False, limits, 5.0), (True, LIMITS, 5.0)):
        assert hard_limit_c(80.0, rule, forecast=forecast) == 80.0 - margin_c
    assert hard_limit_c(None, limits, forecast=True) == 85.0
    learnt = ZoneInput("z", 79.4, None, 0.0, True, (), 80.0, forecast=True)
    assert step(GovernorState(), [learnt], ["a"], limits, "run", 0.0)[1]["a"].level is Level.NOMINAL


def test_a_zone_that_is_learnt_is_released_one_degree_below_its_limit():
    limits = LIMITS.model_copy(update={"forecast": ThermalForecast()})
    state, levels = GovernorState(), []
    for at_s, temperature_c in ((0.0, 85.0), (20.0, 84.1), (40.0, 83.9)):
        zone = ZoneInput("z", temperature_c, None, 0.0, True, (), None, forecast=True)
        state, verdicts = step(state, [zone], ["a"], limits, "run", at_s)
        levels.append(verdicts["a"].level)
    assert levels == [Level.HALT, Level.HALT, Level.NOMINAL]
