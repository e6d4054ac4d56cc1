"""Waiting awake for the next call: only where calls follow closely, never for long, never on the only core."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from agent.backends import eagerness, messages
from agent.backends.eagerness import ASLEEP_NS, AWAKE_NS, CROWDED_NS, Eagerness

LONG_AGO_NS = 10 * AWAKE_NS


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = messages.pair()
    with ours, theirs:
        yield ours, theirs


class Clock:
    """Time that goes on by a step whenever it is looked at."""

    def __init__(self, now_ns: int, step_ns: int) -> None:
        self.now_ns = now_ns
        self.step_ns = step_ns
        self.looks = 0

    def monotonic_ns(self) -> int:
        self.looks += 1
        self.now_ns += self.step_ns
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock(time.monotonic_ns(), CROWDED_NS // 2)
    monkeypatch.setattr(eagerness, "time", made)
    return made


def after_two_calls(eager: Eagerness, clock: Clock, gap_ns: int, *, paced: bool = False) -> None:
    """Answer a call, take the next one after the gap, and answer that."""
    eager.answered(clock.now_ns - gap_ns, False)
    eager.came(clock.now_ns)
    eager.answered(clock.now_ns, paced)


def test_a_call_that_closely_followed_an_answer_makes_the_process_look_for_the_next_one(ends, clock):
    ours, theirs = ends
    eager = Eagerness(theirs, cores=2)
    after_two_calls(eager, clock, AWAKE_NS)
    ours.send(b"x")
    assert eager.wait()
    assert theirs.recv(1) == b"x"


def test_the_look_ends_where_nothing_comes(ends, clock):
    eager = Eagerness(ends[1], cores=2)
    after_two_calls(eager, clock, AWAKE_NS)
    began_ns = clock.now_ns
    assert not eager.wait()
    assert 0 < clock.now_ns - began_ns <= AWAKE_NS + clock.step_ns
    looks = clock.looks
    assert not eager.wait()
    assert clock.looks == looks + 1


@pytest.mark.parametrize(
    ("gap_ns", "cores", "paced"), [(AWAKE_NS + 1, 2, False), (AWAKE_NS, 1, False), (AWAKE_NS, 2, True)]
)
def test_rare_calls_a_single_core_and_a_lane_held_back_for_its_heat_are_waited_for_asleep(
    ends, clock, gap_ns, cores, paced
):
    ours, theirs = ends
    eager = Eagerness(theirs, cores)
    after_two_calls(eager, clock, gap_ns, paced=paced)
    ours.send(b"x")
    looks = clock.looks
    assert not eager.wait()
    assert clock.looks == looks + 1


def test_the_end_of_the_other_side_is_noticed_awake_as_well(ends, clock):
    ours, theirs = ends
    eager = Eagerness(theirs, cores=2)
    after_two_calls(eager, clock, 0)
    ours.close()
    assert eager.wait()
    assert theirs.recv(1) == b""


def test_the_first_call_ever_is_no_close_one(ends, clock):
    eager = Eagerness(ends[1], cores=2)
    eager.came(LONG_AGO_NS)
    eager.answered(LONG_AGO_NS, False)
    assert not eager.wait()
    assert clock.looks == 1


def test_whose_core_is_wanted_waits_asleep_for_a_while(ends, clock):
    ours, theirs = ends
    eager = Eagerness(theirs, cores=2)
    after_two_calls(eager, clock, 0)
    clock.step_ns = CROWDED_NS + 1
    assert not eager.wait()
    assert clock.looks == 2

    clock.step_ns = 1
    ours.send(b"x")
    after_two_calls(eager, clock, 0)
    assert not eager.wait()
    clock.now_ns += ASLEEP_NS
    after_two_calls(eager, clock, 0)
    assert eager.wait()
