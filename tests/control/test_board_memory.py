"""Board memory: what is left decides whether another request may come in, and the refusal says how much that is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control.board_memory import MemoryReading, MemoryState, admit, step
from agent.schema.policy import Memory

MIB = 2.0**20
LIMITS = Memory(max_cpq=0.8, min_free_bytes=100 * 2**20, max_stalled_share=0.2)
START = MemoryState()


def reading(free_mib: float | None, stalled: float | None = None, total_mib: float | None = 8000) -> MemoryReading:
    free = None if free_mib is None else free_mib * MIB
    return MemoryReading(free, None if total_mib is None else total_mib * MIB, "the board", stalled)


@pytest.mark.parametrize(
    ("free_mib", "stalled", "total_mib", "low"),
    [
        (99, None, 8000, True), (100, None, 8000, False), (101, 0.19, 8000, False), (101, 0.2, 8000, False),
        (101, 0.21, 8000, True), (900, 0.9, 8000, False), (799, 0.9, 8000, True), (800, 0.9, 8000, False),
        (799, 0.9, None, False), (None, 0.9, 8000, False),
    ],
)  # fmt: skip
def test_memory_is_low_below_the_floor_or_while_all_wait_for_what_is_scarce(free_mib, stalled, total_mib, low):
    assert (step(START, reading(free_mib, stalled, total_mib), LIMITS).low is not None) is low


def test_low_memory_is_over_only_when_a_quarter_more_is_free():
    low = step(START, reading(50), LIMITS)
    assert step(low, reading(124), LIMITS).low is not None
    assert step(low, reading(125), LIMITS).low is None


def test_stalls_are_over_only_when_they_are_half_of_what_began_them():
    low = step(START, reading(400, 0.5), LIMITS)
    assert step(low, reading(400, 0.11), LIMITS).low is not None
    assert step(low, reading(400, 0.1), LIMITS).low is None


def test_the_refusal_holds_the_figures():
    low = step(START, MemoryReading(50 * MIB, 8000 * MIB, "control group /qeil"), LIMITS).low
    assert low == "50 MiB of control group /qeil's memory are left, memory.min_free_bytes keeps 100 MiB"
    stalled = step(START, reading(200, 0.34), LIMITS).low
    assert stalled is not None
    assert "in 34% of the last ten seconds, 200 MiB of the board's memory are left" in stalled
    _, why = admit(step(START, reading(150), LIMITS), 30 * MIB, LIMITS)
    assert why == "it would take 60 MiB and leave 90 MiB of the board's memory, memory.min_free_bytes keeps 100 MiB"
    assert "leave 0 MiB" in (admit(step(START, reading(150), LIMITS), 900 * MIB, LIMITS)[1] or "")


def test_what_was_admitted_since_the_reading_counts():
    state = step(START, reading(150), LIMITS)
    state, why = admit(state, 20 * MIB, LIMITS)
    assert why is None
    again, why = admit(state, 6 * MIB, LIMITS)
    assert why is not None
    assert again == state
    assert admit(step(state, reading(150), LIMITS), 6 * MIB, LIMITS)[1] is None


def test_low_memory_admits_nothing_and_an_unknown_one_everything():
    assert admit(step(START, reading(50), LIMITS), 0, LIMITS)[1] is not None
    assert admit(step(START, reading(None), LIMITS), 10_000 * MIB, LIMITS)[1] is None
    assert admit(START, 10_000 * MIB, LIMITS)[1] is None


def test_a_request_without_tensors_is_judged_by_the_reading_alone():
    state, _ = admit(step(START, reading(101), LIMITS), 0.5 * MIB, LIMITS)
    assert admit(state, 0, LIMITS)[1] is None


@given(st.lists(st.floats(0, 1e9), max_size=20), st.floats(0, 4e9))
def test_what_is_admitted_never_reaches_into_the_floor(sizes, free):
    state = step(START, MemoryReading(free, 8e9), LIMITS)
    for size in sizes:
        state, _ = admit(state, size, LIMITS)
    assert state.promised_bytes == 0 or free - state.promised_bytes >= LIMITS.min_free_bytes - 1
