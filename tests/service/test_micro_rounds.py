"""Micro models timed beside a reference: what a slow machine disturbed is measured again, and only then left out."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from agent.ports import LaneReply, LaneSpec
from agent.schema.device import Runtime
from agent.service.calibration.micro_rounds import MORE_ROUNDS, ROUNDS, MicroRounds
from agent.service.calibration.steadiness import RUNS, Rounds
from agent.workload.micro import MicroModel
from tests.fakes import FakeClock, FakeLane

RUNTIME = Runtime(backend="onnx", provider="CPUExecutionProvider")


class TimedLane(FakeLane):
    """Every run takes 1 ms times what `slow(calls so far, turns of the reference so far)` says, by its own clock."""

    def __init__(self, slow) -> None:
        super().__init__(LaneSpec("cpu", 1), FakeClock())
        self.slow = slow
        self.calls: list[str] = []

    def submit(self, model, inputs, outputs, deadline_s) -> Future[LaneReply]:
        references = sum(name.startswith("reference") for name in self.calls)
        seconds = 1e-3 * self.slow(len(self.calls), references // RUNS)
        self.calls.append(model)
        self.clock.advance(seconds)
        done: Future[LaneReply] = Future()
        done.set_result(LaneReply({}, seconds))
        return done


def micro(name: str, flops: float = 1e6) -> MicroModel:
    return MicroModel(name, f"{name}.onnx", "onnx", "compute", "gemm", "fp32", flops, 1.0, 1, (("x", (1, 2)),))


def every_other_turn(_calls: int, turns: int) -> float:
    """Fast before a micro model or after it, never both."""
    return 1.0 + turns % 2


MICROS = [micro("big", 2e8), micro("a"), micro("b")]


def measured(slow, tmp_path, quick=False):
    lane = TimedLane(slow)
    lane.start(lambda _cause: None)
    refused: list[str] = []
    rounds = MicroRounds(lane, lane.clock, RUNTIME, 1, tmp_path, quick, refused.append, None)
    turns: list[tuple[str, int]] = []
    timings = rounds.run(MICROS, lambda name, turn: turns.append((name, turn)))
    return lane, rounds, {t.micro.name: t for t in timings}, turns, refused


def test_on_a_steady_machine_everything_is_measured_twice_and_nothing_again(tmp_path):
    lane, rounds, timings, turns, refused = measured(lambda *_: 1.0, tmp_path)
    assert turns == [(m.name, turn) for turn in range(ROUNDS) for m in MICROS]
    assert {name: t.median_s for name, t in timings.items()} == dict.fromkeys(("big", "a", "b"), 1e-3)
    assert (rounds.reference_s, rounds.disturbed, refused) == (1e-3, 0, [])
    assert lane.loaded == {}


def test_what_a_slow_machine_disturbed_in_every_round_is_measured_again_until_it_is_fast(tmp_path):
    _, rounds, timings, turns, _ = measured(
        lambda calls, turns: 1.0 if calls > 800 else every_other_turn(calls, turns), tmp_path
    )
    assert max(turn for _, turn in turns) >= ROUNDS
    assert rounds.disturbed == 0
    assert {t.median_s for t in timings.values()} == {1e-3}


def test_a_machine_that_stays_slow_is_said_after_so_many_rounds_and_its_times_are_kept(tmp_path):
    _, rounds, timings, turns, _ = measured(every_other_turn, tmp_path)
    assert max(turn for _, turn in turns) == ROUNDS + MORE_ROUNDS - 1
    assert rounds.disturbed == 3
    assert set(timings) == {"big", "a", "b"}


def test_a_quick_calibration_repeats_nothing(tmp_path):
    _, _, _, turns, _ = measured(every_other_turn, tmp_path, quick=True)
    assert {turn for _, turn in turns} == set(range(ROUNDS))


def test_a_model_that_does_not_load_is_refused_once_and_the_others_are_measured(tmp_path):
    lane = TimedLane(lambda *_: 1.0)
    lane.start(lambda _cause: None)
    lane.refuse["a"] = "no kernel for it"
    refused: list[str] = []
    timings = MicroRounds(lane, lane.clock, RUNTIME, 1, tmp_path, False, refused.append, None).run(
        MICROS, lambda name, turn: None
    )
    assert [t.micro.name for t in timings] == ["big", "b"]
    assert refused == ["cpu CPUExecutionProvider: a: no kernel for it"]


def test_a_lane_that_cannot_run_the_reference_measures_nothing_and_says_why(tmp_path):
    lane = TimedLane(lambda *_: 1.0)
    lane.start(lambda _cause: None)
    lane.refuse["reference-big"] = "out of memory"
    refused: list[str] = []
    rounds = MicroRounds(lane, lane.clock, RUNTIME, 1, tmp_path, False, refused.append, None)
    assert rounds.run(MICROS, lambda name, turn: None) == []
    assert refused == ["cpu CPUExecutionProvider: nothing measured: out of memory"]


def test_a_reference_of_an_earlier_measurement_decides_what_is_steady_now():
    now, later = Rounds(), Rounds(1e-3)
    for rounds in (now, later):
        rounds.add("m", (1.0,), 2e-3, 2e-3)
    assert (len(now.steady("m")), len(later.steady("m"))) == (1, 0)
    assert later.wanting(["m", "never"], 1) == ["m"]
    assert later.counted("m") == later._found["m"]
    assert later.slowness("m") == pytest.approx(1.0)
    assert now.slowness("m") == 0.0


def test_the_slower_of_the_references_before_and_after_decides():
    rounds = Rounds()
    rounds.add("m", (1.0,), 1e-3, 1.5e-3)
    rounds.add("m", (2.0,), 1e-3, 1.1e-3)
    assert [r.times_s for r in rounds.counted("m")] == [(2.0,)]


def test_the_luckiest_references_do_not_make_all_others_disturbed():
    rounds = Rounds()
    for reference_s in (0.5e-3, *[1e-3] * 20):
        rounds.add("m", (1.0,), reference_s, reference_s)
    assert rounds.fastest_s == 1e-3
    assert len(rounds.steady("m")) == 21
