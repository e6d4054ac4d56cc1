"""A lane that computes wrongly in silence is found, its answers do not get out, and a sound one is left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agent.control.lane_health import LaneHealth
from agent.errors import BackendError, DeadlineExceeded, InferenceFailed, LaneDied
from agent.ports import LaneReply, LaneSpec
from agent.service.serving.admitted import Admitted, Stamp, Weights
from agent.service.serving.canaries import Canaries, Finding
from agent.service.serving.held_answers import Held, HeldAnswers
from agent.service.serving.lane_watch import SUSPECT_PAUSE_S, LaneWatch
from tests.fakes import FakeLane, load_spec
from tests.service.world import POLICY, World


class Bed(World):
    """A world whose lanes are asked canaries, as in the agent."""

    def __init__(self, release="at_once", canary_s=30.0, **options):
        recovery = POLICY.recovery.model_copy(update={"release": release, "canary_s": canary_s})
        super().__init__(policy=POLICY.model_copy(update={"recovery": recovery}), **options)
        self.canaries = Canaries(self.clock)
        self.dispatcher._held = HeldAnswers(self.canaries)
        self.watch = LaneWatch(self.canaries, self.keepers, self.dispatcher, self._restart)
        self.supervisor.after_tick = lambda now_s: self.watch.look(recovery, now_s)
        for keeper in self.keepers.values():
            keeper.canaries = self.canaries
            lane = keeper.lane
            lane.kill("begin again with canaries")
        self.tick(8.0)

    def _restart(self, accelerator, cause):
        from agent.service.mail import RestartLaneEvent

        self.supervisor.post(RestartLaneEvent(accelerator, cause))


def spoil(lane: FakeLane, by: float = 1.0) -> None:
    run = lane._run

    def wrong(inputs, future):
        lane.runs += 1
        future.set_result(LaneReply({"y": np.asarray(inputs["x"]) + 1 + by}, 0.01))

    lane._run = wrong
    lane.sound = run


def test_a_model_counts_as_loaded_once_its_canary_has_passed():
    bed = Bed()
    assert bed.canaries.counters == {"asked": 2, "passed": 2, "wrong": 0, "failed": 0}
    assert bed.infer().result().placement == "gpu0"


def test_a_lane_that_turns_wrong_is_ended_by_its_next_canary_and_comes_back_through_one():
    bed = Bed(canary_s=5.0)
    deaths = bed.keepers["gpu0"].health.restarts
    spoil(bed.lane("gpu0"))
    bed.tick(6.0)
    assert bed.keepers["gpu0"].health.restarts == deaths + 1
    assert bed.keepers["gpu0"].health.last_fault.startswith("numerical canary: m output 'y'")
    bed.tick(5.0)
    assert bed.accelerator("gpu0").state == "ready"
    assert bed.infer().result().outputs["y"].tolist() == [[2.0, 2.0]]


def test_a_lane_that_returns_wrong_never_serves_and_opens_the_breaker():
    bed = Bed()
    bed.prepare = lambda lane, generation: spoil(lane) if lane.spec.accelerator == "gpu0" else None
    bed.lane("gpu0").die()
    bed.tick(20.0)
    assert bed.accelerator("gpu0").state == "quarantined"
    assert bed.infer().result().placement == "cpu"


def test_a_newcomer_that_disagrees_with_another_accelerator_is_refused_with_both_names():
    bed = Bed(
        simulated=("gpu0",),
        prepare=lambda lane, generation: spoil(lane) if lane.spec.accelerator == "gpu0" else None,
    )
    bed.tick(40.0)  # it answered first; the host's own kernels decide, and it is asked again
    row = next(c for m in bed.snapshot.models for c in m.candidates if c.accelerator == "gpu0")
    assert row.state == "refused"
    assert "compared with cpu" in row.reason


def test_verified_release_lets_no_wrong_answer_out():
    bed = Bed(release="verified")
    spoil(bed.lane("gpu0"))
    answers = [bed.infer() for _ in range(5)]
    bed.tick()
    for answer in answers:
        assert answer.result().outputs["y"].tolist() == [[2.0, 2.0]]
        assert answer.result().placement == "cpu"
    assert answers[0].result().replays == 1


def run_next(lane, count: int) -> None:
    """Let the lane do what it was asked first."""
    for _ in range(count):
        _, inputs, future = lane.held.pop(0)
        lane._run(inputs, future)


def test_a_canary_goes_right_behind_the_first_request_and_lets_its_answer_out_before_the_others_are_run():
    bed = Bed(release="verified")
    lane = bed.lane("gpu0")
    lane.hold = True
    answers = [bed.infer() for _ in range(6)]
    run_next(lane, 2)
    assert [a.done() for a in answers] == [True, *[False] * 5]


def test_one_canary_vouches_for_every_answer_that_comes_before_its_own():
    bed = Bed(release="verified")
    lane = bed.lane("gpu0")
    lane.hold = True
    asked = bed.canaries.counters["asked"]
    answers = [bed.infer() for _ in range(6)]
    run_next(lane, 2 + 5)  # the first, its canary, and the five behind it; their canary waits
    assert [a.done() for a in answers] == [True, *[False] * 5]
    run_next(lane, 1)
    assert all(a.done() for a in answers)
    assert bed.canaries.counters["asked"] == asked + 2


def test_a_canary_vouches_for_no_answer_that_comes_while_it_is_still_told_of():
    """Its own answer may come so soon that whoever asked is told, while the lane's thread brings the next answers."""
    bed = Bed()
    held = HeldAnswers(bed.canaries)
    out, asked = [], bed.canaries.ask

    def at_once(accelerator, lane, model, told):
        if not out:
            out.append("asked")
            held.hold("gpu0", lane, "m", Held(lambda: out.append("later one"), out.append))
            told(Finding("passed"))
            out.append("told")
        else:
            asked(accelerator, lane, model, told)

    bed.canaries.ask = at_once
    bed.lane("gpu0").hold = True
    held.hold("gpu0", bed.lane("gpu0"), "m", Held(lambda: out.append("released"), out.append))
    assert out == ["asked", "released", "told"]
    run_next(bed.lane("gpu0"), 1)
    assert out[-1] == "later one"
    assert held._shelves == {}


def test_a_lane_that_hangs_in_the_question_after_a_load_is_ended_at_once():
    """The load is over: what takes long now is a call."""
    bed = Bed()
    lane, keeper = bed.lane("gpu0"), bed.keepers["gpu0"]
    lane.hold = True
    spec = load_spec()
    keeper.place(replace(keeper.models["m"].candidate, load=replace(spec, threads=2)), POLICY.recovery)
    lane.busy_since_s = bed.clock.now_s
    assert keeper.models["m"].state == "loading"
    bed.tick(1.2)
    assert "hung: one call takes" in keeper.health.last_fault
    bed.tick(2.0)
    assert bed.accelerator("gpu0").state == "ready"


def test_a_model_in_whose_question_a_lane_hangs_twice_is_refused_there_and_the_lane_serves_on():
    bed = Bed()
    keeper, make = bed.keepers["gpu0"], bed.keepers["gpu0"].make_lane

    def hanging(spec):
        lane = make(spec)
        lane.hold, lane.busy_since_s = keeper.models["m"].state != "refused", bed.clock.now_s
        return lane

    keeper.make_lane = hanging
    bed.lane("gpu0").die()
    for _ in range(400):
        bed.tick(0.5)
        lane = keeper.lane
        if lane is not None and not lane.hold:
            lane.busy_since_s = None
    assert keeper.models["m"].state == "refused"
    assert "hung" in keeper.models["m"].reason
    assert keeper.health.phase == "ready"


def test_answers_of_a_lane_that_dies_before_it_is_asked_are_made_again():
    bed = Bed(release="verified")
    lane = bed.lane("gpu0")
    lane.hold = True
    answer = bed.infer()
    run_next(lane, 1)
    assert not answer.done()
    lane.die()
    assert answer.result(0).placement == "cpu"


def test_an_error_that_speaks_against_a_lane_has_it_asked_at_once():
    bed = Bed(canary_s=0.0)
    bed.watch.suspect("gpu0")
    bed.watch.suspect("cpu")
    asked = bed.canaries.counters["asked"]
    bed.tick(SUSPECT_PAUSE_S + 0.1)
    assert bed.canaries.counters["asked"] == asked + 2
    assert bed.keepers["gpu0"].health.phase == "ready"


def test_a_lane_that_fails_what_it_answered_before_is_ended():
    bed = Bed(canary_s=0.0)
    bed.lane("gpu0").fail_with = InferenceFailed("the device does not answer")
    bed.watch.suspect("gpu0")
    bed.tick(SUSPECT_PAUSE_S + 0.2)
    assert "fails on an input that it answered before" in bed.keepers["gpu0"].health.last_fault


@pytest.mark.parametrize("error", [InferenceFailed("index out of range"), BackendError("no room")])
def test_a_model_that_takes_no_made_up_input_is_served_unchecked(error):
    bed = Bed(prepare=lambda lane, generation: setattr(lane, "fail_with", error))
    for name in ("gpu0", "cpu"):
        bed.lane(name).fail_with = None
    assert bed.canaries.counters["failed"] == 0
    assert bed.infer().result().outputs["y"].tolist() == [[2.0, 2.0]]


def test_what_cannot_be_asked_is_said():
    bed = Bed()
    told = []
    bed.canaries.ask("gpu0", bed.lane("gpu0"), "unknown", told.append)
    assert told[0].outcome == "unchecked"
    lane = bed.lane("gpu0")
    lane._dead = True
    bed.canaries.ask("gpu0", lane, "m", told.append)
    assert told[1].outcome == "gone"


def test_an_answer_without_a_known_question_is_released():
    bed = Bed()
    held = HeldAnswers(bed.canaries)
    out = []
    held.hold("gpu0", bed.lane("gpu0"), "unknown", Held(lambda: out.append("released"), out.append))
    assert out == ["released"]
    assert held._shelves == {}


def test_an_input_that_a_sound_lane_refuses_is_the_clients_fault():
    bed = Bed()
    for name in ("gpu0", "cpu"):
        refuse_odd(bed.lane(name))
    error = bed.infer(x=np.full((1, 2), -1, np.float32)).exception()
    assert (error.status, error.code) == (422, "inference_failed")
    assert "index out of range" in error.message
    bed.tick(1.0)
    assert {k.health.restarts for k in bed.keepers.values()} == {1}  # the one before the canaries came


def test_a_request_that_meets_only_broken_lanes_waits_for_one_to_return():
    bed = Bed()
    for name in ("gpu0", "cpu"):
        bed.lane(name).fail_with = InferenceFailed("the device does not answer any more")
    answer = bed.infer()
    assert not answer.done()
    bed.tick(5.0)
    assert answer.result().outputs["y"].tolist() == [[2.0, 2.0]]
    assert answer.result().replays >= 1


def test_a_device_that_was_away_for_one_call_is_not_taken_for_a_wrong_input():
    bed = Bed()
    for name in ("gpu0", "cpu"):
        away_once(bed.lane(name))
    assert bed.infer().result().outputs["y"].tolist() == [[2.0, 2.0]]


def away_once(lane):
    run, calls = lane._run, []

    def once(inputs, future):
        if calls:
            run(inputs, future)
            return
        calls.append(inputs)
        future.set_exception(InferenceFailed("the device does not answer any more"))

    lane._run = once


def refuse_odd(lane):
    run = lane._run

    def picky(inputs, future):
        if (np.asarray(inputs["x"]) < 0).any():
            future.set_exception(InferenceFailed("index out of range"))
        else:
            run(inputs, future)

    lane._run = picky


def test_a_lost_lane_shows_what_it_costs_and_whether_that_is_within_the_bound():
    bed = Bed()
    told = []
    bed.watch._tell = lambda *what: told.append(what)
    bed.lane("gpu0").die()
    bed.tick(0.2)
    ((kind, cause, consequence, mend),) = told
    assert (kind, cause) == ("degraded:m", "1 of 2 accelerators serve it")
    assert "takes 2 times as long (modelled), within the bound of 2" in consequence
    assert mend
    bed.tick(5.0)
    assert told[-1] == ("degraded:m", None, "", "")


def test_starting_is_not_degraded_while_another_lane_serves_already():
    bed = Bed()
    told = []
    bed.watch._tell = lambda *what: told.append(what)
    keeper = bed.keepers["gpu0"]
    keeper.health = LaneHealth(phase="starting")
    bed.watch.look(POLICY.recovery, 0.0)
    assert told == []
    keeper.health = LaneHealth(phase="starting", last_fault="its process was ended by SIGKILL")
    bed.watch.look(POLICY.recovery, 0.1)
    assert [kind for kind, *_ in told] == ["degraded:m"]


def test_a_lane_that_dies_while_a_model_is_taken_from_it_does_not_end_the_supervisor():
    bed = Bed()
    lane = bed.lane("gpu0")

    def gone(model):
        raise LaneDied("gpu0: its process is gone")

    lane.unload = gone
    bed.keepers["gpu0"].remove("m")
    assert "m" not in bed.keepers["gpu0"].models


def test_a_question_that_waited_too_long_behind_requests_proves_nothing():
    bed = Bed()
    told = []
    lane = bed.lane("gpu0")
    lane.fail_with = DeadlineExceeded("no answer in time")
    bed.canaries.ask("gpu0", lane, "m", told.append)
    assert told[0].outcome == "gone"
    assert lane.alive()


def drawing(lane):
    """A lane whose model draws: no two answers are the same."""

    def draw(inputs, future):
        lane.runs += 1
        future.set_result(LaneReply({"y": np.asarray(inputs["x"]) * lane.runs}, 0.01))

    lane._run = draw


def test_a_model_that_draws_at_random_has_no_canary_and_keeps_its_lanes():
    bed = Bed(canary_s=5.0, prepare=lambda lane, generation: drawing(lane))
    bed.lane("gpu0").die()
    bed.tick(60.0)
    assert {a.state for a in bed.snapshot.accelerators} == {"ready"}
    assert bed.infer().result().placement == "gpu0"
    assert bed.canaries.counters["wrong"] == 0
    assert "two runs of the same input differ" in bed.condition("no_canary:m").cause


def test_a_lane_that_does_not_repeat_itself_where_another_does_is_wrong():
    bed = Bed()
    told, other = [], FakeLane(LaneSpec("npu", 1), bed.clock)
    other.start(lambda cause: None)
    other.renew_permit(bed.clock.now_s + 10.0)
    drawing(other)
    spec = load_spec("m")
    report = other.load(spec, 1.0).result()
    bed.canaries.loaded("npu", other, spec, report, told.append)
    assert told[0].outcome == "wrong"
    assert "between two runs of the same input" in told[0].sentence
    assert bed.condition("no_canary:m") is None


def test_a_graph_that_draws_is_never_asked(tmp_path):
    bed = Bed()
    asked, told = bed.canaries.counters["asked"], []
    admitted = Admitted(tmp_path, "d", Stamp(1, 1, 1, 1, 1), draws="Bernoulli")
    lane, spec = bed.lane("gpu0"), load_spec("m")
    for _ in range(2):
        bed.canaries.loaded("gpu0", lane, spec, lane.load(spec, 1.0).result(), told.append, admitted)
    assert [f.outcome for f in told] == ["unchecked", "unchecked"]
    assert told[0].sentence == "its graph draws at random (Bernoulli)"
    assert bed.canaries.counters["asked"] == asked


@pytest.mark.parametrize(("weights", "outcome"), [("w1", "wrong"), ("w2", "passed")])
def test_other_weights_beside_the_same_graph_may_answer_otherwise(tmp_path, weights, outcome):
    bed, told, stamp = Bed(), [], Stamp(1, 1, 1, 1, 1)
    lane, spec = bed.lane("gpu0"), load_spec("m")
    for name in ("w1", weights):
        admitted = Admitted(tmp_path, "d", stamp, weights=(Weights(tmp_path / "w", name, stamp),))
        bed.canaries.loaded("gpu0", lane, spec, lane.load(spec, 1.0).result(), told.append, admitted)
        spoil(lane)
    assert [f.outcome for f in told] == ["passed", outcome]
