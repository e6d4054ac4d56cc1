"""A split that is loaded is timed like whole placements, hand-overs included; a plan follows what was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.errors import InferenceFailed
from agent.placement.state import State
from agent.ports import LaneReply
from agent.schema.settings import ModelEntry
from agent.service.planning.plan import Plan
from agent.service.serving.canaries import Canaries
from agent.service.serving.split_meter import SplitMeter
from agent.service.serving.split_trial import SplitTrial
from agent.service.serving.time_trials import BUDGET_S, SETTLED_S, TRIALS, TimeTrials
from tests.service.split_world import ALL, SplitWorld, StageLane, split_candidate, whole_candidate
from tests.service.test_split_planner import POLICY, planner
from tests.workload.runnable import convolutions, saved

LONG_S = SETTLED_S + 5.0
SPLIT = ("sha", "a+b/k")
FASTEST = POLICY.objective.model_copy(update={"method": "lexicographic", "order": ("latency",), "tolerance": 0.0})


class Handing(StageLane):
    """Answers `later_s` after it was asked, on the world's clock; says that it computed for `execute_s`."""

    execute_s = 0.01
    later_s = 0.0

    def _run(self, inputs, future):
        self.clock.advance(self.later_s)
        self.runs += 1
        if self.fail_with is not None:
            future.set_exception(self.fail_with)
            return
        names = inputs.get("") or ("y",)
        future.set_result(LaneReply(dict.fromkeys(names, inputs["x"] + 1), self.execute_s))


class Track(SplitWorld):
    """Whole on a, whole on b, and split over both; all of it is loaded."""

    def __init__(self, candidates=None, **options):
        super().__init__(candidates or [whole_candidate("a"), whole_candidate("b"), split_candidate(["a", "b"])])
        self.canaries, self.asked = Canaries(self.clock), []
        self.meter = SplitMeter()
        for name, keeper in self.keepers.items():
            report = keeper.models["m"].report
            self.canaries.loaded(name, self.lane(name), keeper.models["m"].candidate.load, report, lambda _: None)
        splits = SplitTrial(self.clock, self.meter)
        self.trials = TimeTrials(self.canaries, self.keepers, lambda: False, self.asked.append, splits)
        self.supervisor.show_times(self.trials.times)
        self.supervisor.after_tick = lambda now_s: self.trials.look(self.supervisor.in_force.plan, now_s)

    def _make_lane(self, spec):
        lane = Handing(spec, self.clock)
        self.lanes[spec.accelerator].append(lane)
        return lane


def test_a_split_is_timed_with_its_hand_overs_and_status_says_it():
    track = Track()
    track.lane("b").later_s = 0.013
    track.tick(LONG_S)
    times_s = track.trials.times()
    assert times_s["sha", "a"] == 0.01
    assert times_s[SPLIT] == pytest.approx(0.01 + 0.003 + 0.01)
    assert any("a+b 23 ms (20 predicted)" in why for why in track.asked)
    (model,) = track.snapshot.models
    assert {c.accelerator: c.timed_ms for c in model.candidates} == pytest.approx({"a": 10.0, "b": 10.0, "a+b": 23.0})
    assert track.meter.handovers()["a", "b"].measured_s == pytest.approx(0.003)


def test_trials_are_no_requests_of_the_stages():
    track = Track()
    track.tick(LONG_S)
    (model,) = track.snapshot.models
    assert [s.requests for c in model.candidates for s in c.stages] == [0, 0]
    assert track.meter.stages("m", "a+b") == {}


def test_a_split_whose_stage_fails_has_no_time():
    track = Track()
    lane = track.lane("b")
    submit = lane.submit

    def refusing(model, inputs, outputs, deadline_s):
        lane.fail_with = InferenceFailed("no") if "/" in model else None
        return submit(model, inputs, outputs, deadline_s)

    lane.submit = refusing
    track.tick(LONG_S)
    assert set(track.trials.times()) == {("sha", "a"), ("sha", "b")}


def test_a_split_behind_other_work_has_no_time():
    track = Track()
    track.lane("b").queue_length = lambda: 1
    track.tick(LONG_S)
    assert SPLIT not in track.trials.times()


def test_a_split_without_a_whole_placement_beside_it_is_not_timed():
    track = Track()
    before = track.lane("a").runs
    (model,) = track.supervisor.in_force.plan.models
    alone = Plan("d1", (replace(model, candidates=(split_candidate(["a", "b"]), split_candidate(["b", "a"], "l"))),))
    for _ in range(200):
        track.clock.advance(0.1)
        track.trials.look(alone, track.clock.now_s)
    assert track.lane("a").runs == before


def test_a_split_that_is_not_loaded_any_more_keeps_its_time_until_its_file_goes():
    track = Track()
    track.tick(LONG_S)
    (model,) = track.supervisor.in_force.plan.models
    track.trials.look(Plan("d2", (replace(model, candidates=model.candidates[:2]),)), track.clock.now_s)
    assert SPLIT in track.trials.times()
    track.trials.look(Plan("d3", (replace(model, digest="other", candidates=()),)), track.clock.now_s)
    assert track.trials.times() == {}


def test_what_takes_long_is_tried_less_often():
    track = Track()
    lane = track.lane("b")
    lane.execute_s = BUDGET_S / (TRIALS - 2) + 0.1
    before = lane.runs
    track.tick(LONG_S)
    assert track.trials.times()["sha", "b"] == lane.execute_s
    assert lane.runs - before < 2 * TRIALS


# ---------------------------------------------------------------------- the planner


@pytest.fixture
def path(tmp_path):
    return saved(convolutions(), tmp_path)


def planned(tmp_path, path, times_s, splits=("a+b",), **policy):
    policy = POLICY.model_copy(update={"objective": FASTEST, **policy})
    entry = ModelEntry(name="net", path=path, splits=splits)
    made = planner(tmp_path)
    first = made.plan(policy, "d", [entry]).models[0]
    names = {c.accelerator: (first.digest, c.timed_as) for c in first.candidates}
    known = {names[label]: seconds for label, seconds in times_s.items()}
    return made.plan(policy, "d", [entry], State(times_s=known), Plan("d", (first,))).models[0]


def order(model):
    return [c.accelerator for c in model.candidates]


def test_a_named_split_that_was_measured_faster_serves(tmp_path, path):
    times_s = {"a": 0.02, "b": 0.03, "a+b": 0.01}
    assert order(planned(tmp_path, path, times_s)) == ["a+b", "a", "b"]
    assert order(planned(tmp_path, path, times_s | {"a+b": 0.05})) == ["a", "b", "a+b"]
    assert order(planned(tmp_path, path, {"a+b": 0.01})) == ["a", "b", "a+b"]  # nothing to compare it with


def test_a_split_slower_than_a_request_may_take_does_not_serve(tmp_path, path):
    late_s = POLICY.admission.default_deadline_s
    assert order(planned(tmp_path, path, {"a": late_s - 1.0, "b": late_s, "a+b": late_s + 1.0}))[0] == "a"


def test_times_of_one_call_say_nothing_of_throughput(tmp_path, path):
    goal = FASTEST.model_copy(update={"goal": "throughput"})
    with_times = planned(
        tmp_path, path, {"a": 0.02, "b": 0.02, "b+a": 0.5, "a+b": 0.001}, ("a+b", "b+a"), objective=goal
    )
    assert order(with_times) == order(planned(tmp_path, path, {}, ("a+b", "b+a"), objective=goal))


def test_a_split_that_was_predicted_better_and_measured_worse_is_given_up(tmp_path, path, monkeypatch):
    from agent.placement import split_points

    monkeypatch.setattr("agent.placement.split_points.beats", lambda *_, **__: True)
    monkeypatch.setattr(
        "agent.placement.split_points.best", lambda t, o, s, m, d: split_points.along(t, ["a", "b"], o, s, m)
    )
    assert order(planned(tmp_path, path, {}, splits=()))[0] == "a+b"
    measured = {"a": 0.02, "b": 0.02, "a+b": 0.05}
    assert order(planned(tmp_path, path, measured, splits=())) == ["a", "b"]
    assert order(planned(tmp_path, path, measured, splits=(), standby=ALL.standby)) == ["a", "b", "a+b"]


def test_where_all_placements_are_kept_loaded_the_best_two_splits_are_offered(tmp_path, path, monkeypatch):
    from agent.placement import split_points

    def found(t, o, s, m, d):
        ways = (["b", "a"], ["a", "b"], ["a", "b", "a"])
        return [p for way in ways for p in split_points.along(t, way, o, s, 2)]

    monkeypatch.setattr("agent.placement.split_points.beats", lambda *_, **__: False)
    monkeypatch.setattr("agent.placement.split_points.best", found)
    assert order(planned(tmp_path, path, {}, splits=(), standby="all")) == ["a", "b", "b+a", "a+b"]
    assert order(planned(tmp_path, path, {}, splits=())) == ["a", "b"]
