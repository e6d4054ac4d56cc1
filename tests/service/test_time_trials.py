"""Placements of a model are timed on the idle board, one by one; where that contradicts predictions, plans change."""

from __future__ import annotations

import dataclasses

import pytest

from agent.errors import InferenceFailed, Overloaded
from agent.placement.state import State
from agent.ports import LaneReply
from agent.service.board import Board
from agent.service.planning.plan import Plan
from agent.service.planning.planner import Planner
from agent.service.serving.split_meter import SplitMeter
from agent.service.serving.split_trial import SplitTrial
from agent.service.serving.time_trials import AGAIN_S, CALLS, SETTLED_S, TRIALS, TimeTrials
from tests.service.test_canaries import Bed
from tests.service.test_replanning import BOARD, ENTRY, WORKLOAD, Opened, names
from tests.service.world import POLICY

LONG_S = SETTLED_S + 5.0


class Track(Bed):
    """A world whose placements are timed. Lanes take `seconds` of their name; 0.01 s are predicted for each."""

    def __init__(self, seconds, busy=lambda: False, **options):
        super().__init__(canary_s=1e6, **options)
        self.asked: list[str] = []
        self.seconds = seconds
        self.trials = TimeTrials(
            self.canaries, self.keepers, busy, self.asked.append, SplitTrial(self.clock, SplitMeter())
        )
        self.supervisor.show_times(self.trials.times)
        for name in seconds:
            self.slow(name)
        self.supervisor.after_tick = lambda now_s: self.trials.look(self.supervisor.in_force.plan, now_s)

    def slow(self, name):
        def run(inputs, future):
            self.lane(name).runs += 1
            future.set_result(LaneReply({"y": inputs["x"] + 1}, self.seconds[name]))

        self.lane(name)._run = run


def test_a_placement_slower_than_predicted_beside_another_is_planned_with_once():
    track = Track({"gpu0": 0.04, "cpu": 0.02})
    track.tick(LONG_S)
    assert track.trials.times() == {("sha", "gpu0"): 0.04, ("sha", "cpu"): 0.02}
    assert track.asked == ["m was timed: gpu0 40 ms (10 predicted), cpu 20 ms (10 predicted)"]
    track.tick(20.0)
    assert len(track.asked) == 1


def test_a_board_that_is_slower_than_predicted_as_a_whole_changes_nothing():
    track = Track({"gpu0": 0.04, "cpu": 0.0401})
    track.tick(LONG_S)
    assert len(track.trials.times()) == 2
    assert track.asked == []


def test_what_else_ran_at_the_time_does_not_count():
    track = Track({"gpu0": 0.06, "cpu": 0.06})
    lane, times = track.lane("cpu"), iter([0.5, 0.06, 0.055, 0.06, 0.9])

    def run(inputs, future):
        lane.runs += 1
        future.set_result(LaneReply({"y": inputs["x"] + 1}, next(times)))

    lane._run = run
    track.tick(LONG_S)
    assert track.trials.times()["sha", "cpu"] == 0.06
    assert track.asked == []


def test_calls_of_a_trial_follow_one_another_as_long_as_they_are_short_and_the_first_half_only_warms():
    track = Track({"gpu0": 0.04, "cpu": 0.04})
    lane, runs = track.lane("cpu"), []

    def run(inputs, future):
        runs.append(0.003 if len(runs) % CALLS < CALLS // 2 else 0.001 + 0.0001 * (len(runs) % 2))
        future.set_result(LaneReply({"y": inputs["x"] + 1}, runs[-1]))

    lane._run = run
    track.tick(LONG_S)
    assert len(runs) == CALLS * TRIALS
    assert track.trials.times()["sha", "cpu"] == 0.001


def test_a_trial_into_which_a_request_comes_is_made_anew():
    busy = [False]
    track = Track({"gpu0": 0.04, "cpu": 0.001}, lambda: busy[0])
    lane = track.lane("cpu")
    lane.hold = True
    track.tick(LONG_S)
    busy[0] = True
    lane.hold = False
    lane.release()
    before = lane.runs
    track.tick(1.0)
    assert lane.runs == before
    assert ("sha", "cpu") not in track.trials.times()
    busy[0] = False
    track.tick(5.0)
    assert track.trials.times()["sha", "cpu"] == 0.001


def test_a_time_that_changes_later_is_planned_with_again():
    track = Track({"gpu0": 0.04, "cpu": 0.02})
    track.tick(LONG_S)
    track.seconds["cpu"] = 0.08
    track.tick((TRIALS + 1) * AGAIN_S)
    assert len(track.asked) == 2
    assert track.trials.times()["sha", "cpu"] == 0.08


def test_nothing_is_timed_while_requests_are_under_way_or_just_after_the_start():
    busy = [True]
    track = Track({"gpu0": 0.04, "cpu": 0.02}, lambda: busy[0])
    before = track.lane("gpu0").runs
    track.tick(2.0 * LONG_S)
    assert track.lane("gpu0").runs == before
    busy[0] = False
    track.tick(SETTLED_S - 1.0)
    assert track.lane("gpu0").runs == before
    track.tick(5.0)
    assert len(track.trials.times()) == 2


def test_one_trial_waits_for_the_one_before():
    track = Track({"gpu0": 0.04, "cpu": 0.02})
    track.lane("gpu0").hold = track.lane("cpu").hold = True
    track.tick(LONG_S)
    assert len(track.lane("gpu0").held) + len(track.lane("cpu").held) == 1


def test_a_model_with_one_placement_is_not_timed():
    track = Track({"gpu0": 0.04}, models={"m": ["gpu0"]})
    before = track.lane("gpu0").runs
    track.tick(LONG_S)
    assert track.lane("gpu0").runs == before


@pytest.mark.parametrize("error", [InferenceFailed("no"), Overloaded("full")])
def test_a_trial_that_fails_says_nothing(error):
    track = Track({"gpu0": 0.04, "cpu": 0.02})
    lane = track.lane("cpu")
    if isinstance(error, Overloaded):

        def submit(*_):
            raise error

        lane.submit = submit
    else:
        lane._run = lambda inputs, future: future.set_exception(error)
    track.tick(LONG_S)
    assert set(track.trials.times()) == {("sha", "gpu0")}
    assert track.asked == []


def test_a_file_that_cannot_be_asked_has_no_time():
    track = Track({"gpu0": 0.04, "cpu": 0.02})
    track.canaries._questions.clear()
    track.tick(LONG_S)
    assert track.trials.times() == {}


def test_a_version_loaded_anew_is_timed_anew():
    track = Track({"gpu0": 0.04, "cpu": 0.02})
    track.tick(LONG_S)
    plan = track.supervisor.in_force.plan
    (model,) = plan.models
    other = [dataclasses.replace(c, load=dataclasses.replace(c.load, threads=7)) for c in model.candidates]
    for c in other:
        track.keepers[c.accelerator].models["m"].candidate = c
    track.trials.look(Plan("d", (dataclasses.replace(model, candidates=tuple(other)),)), track.clock.now_s)
    assert track.trials.times() == {}


# ---------------------------------------------------------------------- the planner


@pytest.fixture
def planner(monkeypatch):
    made = Planner(Board(BOARD, frozenset(), 2), None)
    monkeypatch.setattr("agent.service.planning.planner.open_artifact", lambda path: Opened(path))
    monkeypatch.setattr("agent.service.planning.planner.check_guard", lambda *_: ())
    monkeypatch.setattr("agent.service.planning.planner.workload_of", lambda *_: WORKLOAD)
    return made


def test_what_was_measured_decides_and_predictions_stay_what_they_were(planner):
    rest = planner.plan(POLICY, "d", ENTRY).models[0]
    assert names(rest)[0] == "npu"
    times_s = {("d", c.accelerator): c.predicted_s * (3.0 if c.accelerator == "npu" else 1.0) for c in rest.candidates}
    again = planner.plan(POLICY, "d", ENTRY, State(times_s=times_s), Plan("d", (rest,))).models[0]
    assert names(again)[0] == "gpu"
    assert {c.accelerator: c.predicted_s for c in again.candidates} == {
        c.accelerator: c.predicted_s for c in rest.candidates
    }


def test_one_measured_time_alone_and_times_of_another_file_change_nothing(planner):
    rest = planner.plan(POLICY, "d", ENTRY).models[0]
    for digest in ("d", "another"):
        for times_s in ({"npu": 9.0}, {"npu": 0.0}, {"npu": 9.0, "gpu": 0.001} if digest != "d" else {"gpu": 1e-6}):
            state = State(times_s={(digest, name): s for name, s in times_s.items()})
            assert names(planner.plan(POLICY, "d", ENTRY, state).models[0]) == names(rest)
