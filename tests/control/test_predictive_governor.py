"""The predictive governor: learns a board, acts before the limit with what costs least, trusts no dead sensor."""

from __future__ import annotations

import numpy as np
import pytest

from agent.control import predictive_governor, thermal_model
from agent.control.predictive_governor import Look, PredictiveState, Source, step
from agent.control.thermal_choice import Move, Point, Setting, Unit
from agent.control.thermal_governor import Level, ThermalVerdict, ZoneInput
from agent.physics.impedance import ImpedancePrior
from agent.physics.thermal import ThermalNetwork
from agent.physics.thermal import step as heat
from agent.schema.policy import ThermalForecast, ThermalLimits

RULE = ThermalForecast(operating_points=True)
LIMITS = ThermalLimits(
    soft_c=60, hard_c=90, hysteresis_c=5, min_dwell_s=10, stale_after_s=3, derate_share=0.5, forecast=RULE
)
FULL = Point("full", 1.0, 10.0)
SLOW = Point("slow", 0.8, 5.0)


class Board:
    """One die on a sink; the governor in a closed loop with it."""

    def __init__(self, points=(FULL,), limits=LIMITS, ambient_c=45.0, trip_c=85.0, moves=(), critical=True):
        self.network = ThermalNetwork(np.array([3.0, 20.0]), np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([0.0, 0.25]))
        self.at_c = np.full(2, ambient_c)
        self.ambient_c, self.trip_c, self.points, self.limits, self.moves = ambient_c, trip_c, points, limits, moves
        self.prior = ImpedancePrior(np.array([4.0, 40.0, 400.0]), np.array([[1.0, 1.0, 2.5]]))
        self.state, self.now_s, self.busy, self.power_w = PredictiveState(), 0.0, 0.0, 0.0
        self.critical = critical
        self.peak_c, self.verdict, self.zones, self.work, self.slow_s = -1.0, None, (), 0.0, 0

    def run(self, seconds, demand=1.0, read=lambda value: value, fault=None):
        for _ in range(seconds):
            value = read(float(self.at_c[0]))
            zone = ZoneInput("soc", value, fault if value is None else None, 0.0, self.critical, (), self.trip_c)
            source = Source("a", self.points, self.busy, self.power_w, self.moves)
            self.state, decision = step(
                self.state, Look((zone,), (source,), {"soc": self.prior}), self.limits, self.now_s
            )
            self.verdict, self.zones = decision.verdicts["a"], decision.zones
            point = next((p for p in self.points if p.name == self.verdict.operating_point), self.points[0])
            self.busy = min(demand / point.speed_share, self.verdict.pace) * self.verdict.permit
            self.power_w = point.power_w * self.busy
            self.at_c = heat(self.network, self.at_c, np.array([self.power_w, 0.0]), 1.0, ambient_c=self.ambient_c)
            self.work += self.busy * point.speed_share
            self.slow_s += point is not self.points[0]
            self.peak_c = max(self.peak_c, float(self.at_c[0]))
            self.now_s += 1.0
        return self


def test_full_load_settles_just_below_the_trip_and_is_never_stopped():
    board = Board().run(900)
    assert 81.0 < board.peak_c < 84.5
    assert board.verdict.permit
    assert 0.5 < board.verdict.pace < 1.0
    assert "would reach" in board.verdict.cause
    assert "paced to" in board.verdict.cause
    assert board.verdict.level is Level.DERATE


def test_a_lower_operating_point_is_taken_before_a_pace():
    paced, slowed = Board().run(600), Board(points=(FULL, SLOW)).run(600)
    done = []
    for board in (paced, slowed):
        before = board.work
        done.append(board.run(300).work - before)
    assert done[1] > 1.05 * done[0]
    assert slowed.slow_s > 100
    assert slowed.peak_c < 84.5


def test_a_point_that_is_offered_no_more_is_left_at_once_also_within_the_dwell():
    board = Board(points=(FULL, SLOW)).run(600)
    left = 0
    for _ in range(60):
        board.points = (FULL, SLOW)
        board.run(1)
        if board.state.settings["a"].point == 1:
            board.points = (FULL,)
            board.run(1)
            assert board.verdict.operating_point == ""
            left += 1
    assert left


def test_operating_points_stay_where_the_policy_does_not_allow_them():
    limits = LIMITS.model_copy(update={"forecast": RULE.model_copy(update={"operating_points": False})})
    board = Board(points=(FULL, SLOW), limits=limits).run(700)
    assert board.verdict.operating_point == ""
    assert board.verdict.pace < 1.0


def test_a_load_that_the_board_bears_is_left_alone():
    board = Board(ambient_c=20.0).run(700)
    assert (board.verdict.pace, board.verdict.level, board.verdict.cause) == (1.0, Level.NOMINAL, "")
    assert board.zones[0].learnt
    assert board.zones[0].forecast_c == pytest.approx(board.at_c[0], abs=2.0)


def test_it_is_released_once_the_load_has_gone_but_not_before_the_dwell():
    board = Board().run(700)
    board.run(5, demand=0.05)
    assert board.verdict.level is Level.DERATE
    board.run(300, demand=0.05)
    assert board.verdict.level is Level.NOMINAL


def test_until_a_zone_is_learnt_the_soft_limit_counts():
    board = Board(ambient_c=62.0, trip_c=95.0).run(3)
    assert board.verdict.level is Level.DERATE
    assert not board.zones[0].learnt
    board.run(100, demand=0.2)
    assert board.zones[0].learnt
    assert board.verdict.level is Level.NOMINAL


@pytest.mark.parametrize("value", [None, 0.0, 140.0])
def test_a_sensor_that_vanishes_or_jumps_counts_as_hot(value):
    board = Board(ambient_c=30.0).run(300)
    assert board.verdict.permit
    board.run(2, read=lambda _: value, fault="absent")
    assert not board.verdict.permit
    assert "counted as hot" in board.verdict.cause


@pytest.mark.parametrize(("value", "permit"), [(None, True), (0.0, True), (140.0, False)])
def test_a_sensor_that_is_not_critical_stops_work_only_where_it_reads_hot_though_it_is_not_believed(value, permit):
    board = Board(ambient_c=30.0, critical=False).run(300)
    board.run(2, read=lambda _: value, fault="absent")
    assert board.verdict.permit is permit
    assert ("soc at 140.0 °C" in board.verdict.cause) is not permit
    assert board.zones[0].doubt


def test_a_sensor_that_stands_still_while_power_moves_is_stuck():
    board = Board(ambient_c=30.0).run(300, demand=0.0).run(120, demand=1.0, read=lambda _: 30.25)
    assert not board.verdict.permit
    assert "stuck at" in board.verdict.cause
    board.run(20, read=lambda _: 30.25)
    assert not board.verdict.permit
    board.run(60)
    assert board.verdict.permit


def test_a_sensor_that_comes_back_is_believed_again():
    board = Board(ambient_c=30.0).run(300)
    board.run(5, read=lambda _: 0.0)
    board.run(60)
    assert board.verdict.permit


def test_noise_and_a_network_that_is_wrong_by_a_third_do_not_reach_the_trip():
    random = np.random.default_rng(5)
    board = Board(points=(FULL, SLOW))
    board.prior = ImpedancePrior(board.prior.time_constants_s * 0.7, board.prior.resistance_k_per_w * 0.67)
    board.run(1000, read=lambda value: value + random.normal(0, 0.5))
    assert board.peak_c < 85.0


def test_without_the_key_thresholds_decide_alone():
    limits = LIMITS.model_copy(update={"forecast": None})
    board = Board(limits=limits, ambient_c=62.0).run(3)
    assert board.verdict.level is Level.DERATE
    assert board.verdict.capacity_share == 0.5
    assert board.zones[0].limit_c == 80.0
    assert board.zones[0].forecast_c is None


def test_a_zone_without_a_network_is_held_to_the_thresholds():
    zone = ZoneInput("odd", 65.0, None, 0.0, True, ())
    look = Look((zone,), (Source("a", (FULL,), 0.0, 0.0),), {})
    _, decision = step(PredictiveState(), look, LIMITS, 0.0)
    assert decision.verdicts["a"].level is Level.DERATE
    assert decision.zones[0].limit_c == 90.0


def test_a_zone_that_was_never_read_is_shown_without_a_model_and_counts_as_hot():
    board = Board().run(1, read=lambda _: None, fault="absent")
    (zone,) = board.zones
    assert (zone.temperature_c, zone.k_per_w, zone.learnt, zone.doubt) == (None, None, False, "absent")
    assert not board.verdict.permit


def test_a_zone_shows_why_its_reading_is_not_believed():
    board = Board().run(60, demand=0.3)
    assert board.zones[0].doubt == ""
    assert board.run(1, read=lambda _: 140.0).zones[0].doubt.startswith("reads 140.0 °C where the model has")


def test_a_lower_point_is_left_once_the_air_has_cooled():
    board = Board(points=(FULL, SLOW)).run(250)
    assert board.state.settings["a"].point == 1
    board.ambient_c = 10.0
    assert board.run(150).state.settings["a"].point == 0


@pytest.mark.parametrize(("period_s", "times_s"), [
    (1.0, [2.0, 15.0, 30.0, 60.0, 300.0]), (7.5, [15.0, 30.0, 60.0, 300.0]), (0.01, [0.2, 15.0, 30.0, 60.0, 300.0]),
])  # fmt: skip
def test_forecasts_begin_two_looks_ahead_and_rise(period_s, times_s):
    assert predictive_governor._grid(60.0, period_s) == times_s


def test_the_cause_tells_the_limit_of_the_zone_that_binds():
    board = Board().run(300)
    limit_c = board.zones[0].limit_c - RULE.headroom_c
    assert f"(limit {limit_c:.1f}) within" in board.state.causes["a"]


def test_a_zone_whose_network_is_known_no_more_is_shown_without_one():
    board = Board().run(3)
    look = Look((ZoneInput("soc", 50.0, None, 0.0, True, ()),), (Source("a", (FULL,), 0.0, 0.0),), {})
    _, decision = step(board.state, look, LIMITS, board.now_s)
    assert decision.zones[0].k_per_w is None


def test_in_air_hotter_than_the_ceiling_it_stops_before_the_trip():
    board = Board(ambient_c=30.0).run(400, demand=0.3)
    for ambient_c in np.linspace(30.0, 84.5, 150):
        board.ambient_c = float(ambient_c)
        board.run(8)
    board.run(200)
    assert board.power_w < 1.0
    assert board.peak_c < 85.0


def test_the_period_is_learnt_from_the_looks():
    state = PredictiveState()
    zone = ZoneInput("soc", 30.0, None, 0.0, True, ())
    prior = ImpedancePrior(np.array([4.0, 40.0]), np.array([[1.0, 1.0]]))
    for k in range(80):
        state, _ = step(state, Look((zone,), (Source("a", (FULL,), 0.0, 0.0),), {"soc": prior}), LIMITS, 5.0 * k)
    assert state.period_s == pytest.approx(5.0, abs=0.1)


def unit(name="a", points=(FULL,), demand=1.0, moves=()):
    return Unit(name, tuple(points), demand, tuple(moves))


def merged(setting, now_s=0.0, level=Level.NOMINAL, share=1.0):
    state = PredictiveState(
        settings={"a": setting}, limited_s={"a": 0.0}, causes={"a": "forecast: soc would reach 91.0 °C"}
    )
    verdict = ThermalVerdict(level is not Level.HALT, share, level, "too hot" if level else "")
    return predictive_governor._merged(verdict, "a", [unit(points=(FULL, SLOW))], state, LIMITS, now_s)


def test_the_cause_names_every_act():
    setting = Setting(1, 0.5, "b", 0.3, 0.5, 0.8)
    verdict = merged(setting)
    assert verdict.cause == (
        "forecast: soc would reach 91.0 °C: 50% of its work goes to b, runs at slow, paced to 30%, samples cut to 50%, "
        "admits 80%"
    )
    assert (verdict.capacity_share, verdict.pace, verdict.operating_point) == (0.4, 0.3, "slow")
    assert (verdict.sample_share, verdict.permit) == (0.5, True)


def test_a_pace_of_nothing_withholds_the_permit():
    verdict = merged(Setting(pace=0.0))
    assert (verdict.permit, verdict.level, verdict.capacity_share) == (False, Level.HALT, 0.0)


def test_the_stricter_of_limit_and_forecast_counts():
    assert merged(Setting(pace=0.5), level=Level.HALT, share=0.0).cause == "too hot"
    assert merged(Setting(pace=0.5), level=Level.DERATE, share=0.5).capacity_share == 0.5
    assert merged(Setting(moved_share=1.0, moved_to="b")).capacity_share == 0.01


def test_a_release_is_shown_only_after_the_dwell():
    assert merged(Setting(), now_s=9.9).cause.endswith("released, watched")
    assert merged(Setting(), now_s=10.0).level is Level.NOMINAL


def demand(busy, settings_=None, memory=None, gone_s=1.0, slowdown=2.0):
    moves = {"a": (Move("b", slowdown),), "b": (Move("a", 1.0 / slowdown),)}
    sources = [Source(n, (FULL, SLOW), share, 0.0, moves[n]) for n, share in busy.items()]
    state = PredictiveState(settings=settings_ or {}, demand=memory or dict.fromkeys(busy, 0.05), looked_s=0.0)
    return predictive_governor._demand(state, sources, gone_s)


def test_demand_is_what_a_lane_is_busy_with_at_the_speed_it_runs_at():
    assert demand({"a": 0.5})["a"] == 0.5
    assert demand({"a": 0.5}, {"a": Setting(point=1)})["a"] == pytest.approx(0.4)


@pytest.mark.parametrize(("busy", "pace", "found"), [(0.95, 1.0, 1.0), (0.3, 0.33, 1.0), (0.2, 0.33, 0.2), (0, 0, 1.0)])
def test_a_lane_that_uses_all_of_its_pace_has_more_to_do(busy, pace, found):
    assert demand({"a": busy}, {"a": Setting(pace=pace)})["a"] == found


def test_demand_fades_slowly():
    assert demand({"a": 0.0}, memory={"a": 1.0}, gone_s=10.0)["a"] == pytest.approx(np.exp(-1.0))


def test_moved_work_is_remembered_at_home_and_is_no_demand_of_its_host():
    moved = {"a": Setting(moved_share=1.0, moved_to="b", pace=0.05), "b": Setting()}
    found = demand({"a": 0.0, "b": 0.7}, moved, {"a": 0.3, "b": 0.1})
    assert found["a"] == pytest.approx(0.3, rel=0.01)
    assert found["b"] == pytest.approx(0.1, rel=0.2)


# ------------------------------------------------------------------ the model


def test_a_zone_is_not_modelled_before_its_first_reading():
    prior = {"z": ImpedancePrior(np.array([4.0]), np.array([[1.0]]))}
    state = thermal_model.observe(thermal_model.ModelState(), {}, prior, [1.0], 0.0, 0.0)
    assert state.zones == {}
    assert not thermal_model.trusted(None, 3.0)
    seen = thermal_model.observe(state, {"z": thermal_model.Sample(30.0, 1.0)}, prior, [1.0], 0.0, 1.0)
    assert seen.zones["z"].value_c == 30.0
    assert thermal_model.forecasts(seen, {}, [1.0], 0.0) == {}


def test_the_same_reading_is_not_taken_in_twice():
    prior = {"z": ImpedancePrior(np.array([4.0]), np.array([[1.0]]))}
    state = thermal_model.ModelState()
    for now_s, stamp in ((0.0, 0.0), (1.0, 1.0), (2.0, 1.0)):
        sample = {"z": thermal_model.Sample(30.0, stamp)}
        state = thermal_model.observe(state, sample, prior, [1.0], 0.0, now_s)
    assert state.zones["z"].network.samples == 1


def test_a_reading_that_comes_again_and_again_teaches_nothing():
    prior = {"z": ImpedancePrior(np.array([4.0]), np.array([[1.0]]))}
    state = thermal_model.ModelState()
    for now_s in range(20):
        sample = {"z": thermal_model.Sample(30.0, float(now_s))}
        state = thermal_model.observe(state, sample, prior, [1.0], 0.0, float(now_s))
    assert state.zones["z"].network.samples == thermal_model.SAME_READINGS - 1
    sample = {"z": thermal_model.Sample(30.5, 20.0)}
    state = thermal_model.observe(state, sample, prior, [1.0], 0.0, 20.0)
    assert state.zones["z"].network.samples == thermal_model.SAME_READINGS
