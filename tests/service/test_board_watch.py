"""Board watch: requests are refused before memory ends, and what creeps up is shown as a condition and cleared."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest

from agent.control.board_memory import MemoryReading
from agent.control.lane_drift import SETTLED_S, WINDOW_S
from agent.errors import Overloaded
from agent.ports import InferenceRequest, LaneVitals
from agent.schema.policy import Memory
from agent.sensors.memory import HardwareErrors
from agent.service.conditions import SHOWN_S
from agent.service.serving.board_watch import ERRORS_S, BoardWatch
from agent.service.serving.meter import ENOUGH, Meter

MIB = 2**20


@dataclass
class Lane:
    process: int = 7
    lives: bool = True

    def pid(self) -> int:
        return self.process

    def alive(self) -> bool:
        return self.lives


@dataclass
class Keeper:
    """What of a lane keeper is looked at."""

    name: str = "cpu"
    lane: Lane | None = field(default_factory=Lane)
    vitals: LaneVitals | None = None
    models: dict[str, object] = field(
        default_factory=lambda: {"net": SimpleNamespace(candidate=SimpleNamespace(predicted_s=0.012))}
    )


class Board:
    """A watch with its world; `shown` holds the conditions."""

    def __init__(self) -> None:
        self.reading = MemoryReading(1000.0 * MIB, 8000.0 * MIB, oom_kills=2)
        self.errors = HardwareErrors({"memory controller mc0": 5}, {"PCI device x": 0})
        self.meters = {"net": Meter()}
        self.shown: dict[str, tuple[str, str, str]] = {}
        self.keeper = Keeper()
        self.now_s = 0.0
        self.watch = BoardWatch(
            lambda: self.reading, lambda: self.errors, lambda: Memory(max_cpq=0.8, min_free_bytes=100 * MIB),
            self.meters, self.tell,
        )  # fmt: skip

    def tell(self, kind: str, cause: str | None, consequence: str, mend: str) -> None:
        if cause is None:
            del self.shown[kind]
        else:
            self.shown[kind] = (cause, consequence, mend)

    def look(self, after_s: float = 1.0, rss_mib: float | None = None) -> None:
        self.now_s += after_s
        if rss_mib is not None:
            self.keeper.vitals = LaneVitals(self.now_s, int(rss_mib * MIB), None)
        self.watch.look({"cpu": self.keeper}, self.now_s)


@pytest.fixture
def board() -> Board:
    made = Board()
    made.look()
    return made


def request(size_mib: float) -> InferenceRequest:
    return InferenceRequest("net", {"x": np.zeros(int(size_mib * MIB), np.uint8)}, None, "r")


def test_a_request_that_would_take_the_last_memory_is_refused_with_the_figures(board):
    board.watch.admit(request(1))
    board.reading = MemoryReading(120.0 * MIB, 8000.0 * MIB)
    board.look()
    with pytest.raises(Overloaded, match="it would take 30 MiB and leave 90 MiB of the board's memory") as caught:
        board.watch.admit(request(15))
    assert caught.value.retry_after_s > 0
    assert board.watch.refused == 1


def test_low_memory_refuses_texts_and_tensors_and_is_a_condition_until_it_is_over(board):
    served = []
    ask = board.watch.before(served.append)
    board.reading = MemoryReading(60.0 * MIB, 8000.0 * MIB)
    board.look()
    for asked in (request(0.001), "a text"):
        with pytest.raises(Overloaded, match="60 MiB of the board's memory are left"):
            ask(asked)
    assert "60 MiB" in board.shown["memory_low"][0]
    board.reading = MemoryReading(900.0 * MIB, 8000.0 * MIB)
    board.look()
    ask("a text")
    assert served == ["a text"]
    assert "memory_low" not in board.shown


def test_memory_is_read_once_a_second(board):
    board.reading = MemoryReading(60.0 * MIB, 8000.0 * MIB)
    board.look(0.9)
    board.watch.admit()
    board.look(0.1)
    with pytest.raises(Overloaded):
        board.watch.admit()


def test_a_killed_process_is_shown_for_a_while(board):
    assert "oom_kill" not in board.shown
    board.reading = replace(board.reading, oom_kills=4)
    board.look()
    assert "ended 2 processes" in board.shown["oom_kill"][0]
    board.look(SHOWN_S - 1)
    assert "oom_kill" in board.shown
    board.look(2)
    assert "oom_kill" not in board.shown


def test_hardware_errors_of_before_are_not_news_and_new_ones_are(board):
    assert not board.shown
    board.errors = HardwareErrors({"memory controller mc0": 9}, {"PCI device x": 1})
    board.look(ERRORS_S - 1)
    assert not board.shown
    board.look(1)
    assert "4 errors were corrected" in board.shown["corrected_errors:memory controller mc0"][0]
    assert "1 errors could not be corrected" in board.shown["hardware_errors:PCI device x"][0]


def grow(board: Board, *sizes_mib: float) -> None:
    for size_mib in sizes_mib:
        board.look(WINDOW_S, size_mib)


def test_a_lane_that_grows_is_named_until_another_process_takes_its_place(board):
    grow(board, 100, 200, 300, 400, 500, 600)
    assert "to 600 MiB" in board.shown["memory_growth:cpu"][0]
    board.keeper.lane = Lane(lives=False)
    board.look()
    assert "memory_growth:cpu" not in board.shown
    board.keeper.lane = Lane(8)
    grow(board, 100, 200, 300)
    assert "memory_growth:cpu" not in board.shown
    assert board.watch.memory == board.reading


def test_a_lane_that_is_gone_is_not_looked_at(board):
    board.keeper.lane = Lane(lives=False)
    grow(board, 100, 200, 300, 400, 500, 600)
    board.keeper.lane = None
    board.look()
    assert not board.shown


def test_calls_that_stay_slower_are_shown_with_both_times(board):
    meter = board.meters["net"]

    def answer(execute_s: float) -> None:
        for _ in range(600):
            meter.answered("cpu", execute_s, execute_s, None, "unknown", 0)

    answer(0.010)
    for _ in range(3):
        board.look(SETTLED_S, 100)
    answer(0.030)  # not three times what was predicted, but three times what it was
    board.look(1.0, 100)
    assert not board.shown
    board.look(SETTLED_S, 100)
    assert board.shown["slower:net:cpu"][0] == "a call takes 30 ms, 3 times the 10 ms of before"
    answer(0.010)
    board.look(1.0, 100)
    assert not board.shown


def test_calls_far_beyond_their_prediction_are_shown_though_they_never_were_quicker(board):
    for _ in range(600):
        board.meters["net"].answered("cpu", 0.048, 0.048, None, "unknown", 0)
    board.look(1.0, 100)
    board.look(1.0, 100)
    assert not board.shown
    board.look(SETTLED_S, 100)
    cause, _, mend = board.shown["slower:net:cpu"]
    assert cause == "a call takes 48 ms, 4 times the 12 ms predicted"
    assert "qeil calibrate" in mend


def test_few_calls_are_no_typical_time(board):
    meter = board.meters["net"]
    for number in range(ENOUGH):
        assert (meter.typical_s("cpu") is None) is (number < ENOUGH)
        meter.answered("cpu", 1.0, 1.0 + number, None, "unknown", 0)
    assert meter.typical_s("cpu") == 11.0
    assert meter.typical_s("npu") is None
