"""Board memory: whether what is left of it allows another request, before the kernel swaps or kills. Pure."""

from __future__ import annotations

from agent.records import record
from agent.schema.policy import Memory

RELEASE = 1.25
"""Low memory is over when this many times the bound is free again."""
SCARCE_SHARE = 0.1
"""Stalls count where less than this share is free: others may thrash within a bound of their own."""
COPIES = 2.0
"""A tensor is held as it came and as the lane reads it."""
RETRY_S = 2.0


@record(frozen=True)
class MemoryReading:
    """What the kernel says at one moment. None: it does not say.

    available_bytes can be had without swapping, within the tightest bound that holds for this process: the board's or
    that of a control group, named by `bound`. stalled_share: of the last ten seconds, in which nothing ran because all
    waited for memory (PSI full). oom_kills: processes ended for want of memory since the start of the board.
    """

    available_bytes: float | None
    total_bytes: float | None
    bound: str = "the board"
    stalled_share: float | None = None
    oom_kills: int | None = None


@record(frozen=True)
class MemoryState:
    """What is held to be true until the next reading. `low`: why nothing more is admitted, in words."""

    reading: MemoryReading = MemoryReading(None, None)
    low: str | None = None
    promised_bytes: float = 0.0
    """Forecast of what was admitted since the reading, which does not show it yet."""


def step(state: MemoryState, reading: MemoryReading, limits: Memory) -> MemoryState:
    """Judge a new reading. An absent one changes nothing but frees what was promised."""
    free = reading.available_bytes
    if free is None:
        return MemoryState(reading)
    was_low = state.low is not None
    floor = limits.min_free_bytes * (RELEASE if was_low else 1.0)
    stall_bound = limits.max_stalled_share * (0.5 if was_low else 1.0)
    scarce = reading.total_bytes is not None and free < SCARCE_SHARE * reading.total_bytes
    low = None
    if free < floor:
        low = f"{_mib(free)} of {reading.bound}'s memory are left, memory.min_free_bytes keeps {_mib(floor)}"
    elif scarce and reading.stalled_share is not None and reading.stalled_share > stall_bound:
        low = (
            f"everything waited for memory in {reading.stalled_share:.0%} of the last ten seconds, "
            f"{_mib(free)} of {reading.bound}'s memory are left (memory.max_stalled_share {stall_bound:.0%})"
        )
    return MemoryState(reading, low)


def admit(state: MemoryState, tensor_bytes: float, limits: Memory) -> tuple[MemoryState, str | None]:
    """The state with the request in it, or why it is refused: `tensor_bytes` are the inputs as they came."""
    if state.low is not None:
        return state, state.low
    free = state.reading.available_bytes
    if free is None:
        return state, None
    needed = COPIES * tensor_bytes
    left = free - state.promised_bytes - needed
    if needed > 0 and left < limits.min_free_bytes:
        return state, (
            f"it would take {_mib(needed)} and leave {_mib(max(0.0, left))} of {state.reading.bound}'s memory, "
            f"memory.min_free_bytes keeps {_mib(limits.min_free_bytes)}"
        )
    return MemoryState(state.reading, None, state.promised_bytes + needed), None


def _mib(size_bytes: float) -> str:
    return f"{size_bytes / 2**20:.0f} MiB"
