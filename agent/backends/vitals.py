"""Vitals page: 4 KiB shared by a lane and its process. Each field is one aligned 8-byte word with one writer.

The agent writes the permit, the process everything else, so neither needs a message or a lock to know the other.
"""

from __future__ import annotations

import math
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from agent.backends.formats import Array

PAGE_BYTES: Final = 4096
_PERMIT, _HEARTBEAT, _BUSY, _RSS, _TEMPERATURE, _POWER, _PACE, _BUSY_TOTAL, _BUSY_UNTIL = range(9)
MAX_REST_S: Final = 2.0
"""Longest pause between two runs of a paced lane, so that a change of pace is heard."""
_NS_PER_S: Final = 1e9


class Signs(NamedTuple):
    """What the process last wrote; the fields of `ports.LaneVitals`."""

    heartbeat_s: float
    rss_bytes: int
    busy_since_s: float | None
    temperature_c: float | None
    power_w: float | None
    busy_until_s: float | None


class VitalsPage:
    """The page as either side sees it. Times are CLOCK_MONOTONIC in ns, 0 where there is none yet."""

    def __init__(self, memory: Array | mmap.mmap | None = None) -> None:
        buffer: Any = bytearray(PAGE_BYTES) if memory is None else memory
        page = memoryview(buffer).cast("B")
        self._words = page.cast("q")
        self._reals = page.cast("d")
        self.rest_until_ns = 0
        """When the process may begin its next run."""
        if memory is None:
            self.clear()

    def clear(self) -> None:
        """No heat reading yet (by the creator, before the other side exists)."""
        self._reals[_TEMPERATURE] = math.nan
        self._reals[_POWER] = math.nan
        self._reals[_PACE] = 1.0

    # ------------------------------------------------------------------ the agent's side

    def renew_permit(self, valid_until_s: float) -> None:
        """Allow runs to begin until then; 0 withdraws."""
        self._words[_PERMIT] = int(valid_until_s * _NS_PER_S)

    def pace(self, share: float) -> None:
        """Let the lane be busy for at most this share of its time, in (0, 1]."""
        self._reals[_PACE] = share

    def busy_s(self) -> float:
        """Time that finished runs took, since the process began."""
        return float(self._words[_BUSY_TOTAL]) / _NS_PER_S

    def signs(self) -> Signs | None:
        """The last sign of life, None before the first."""
        heartbeat_ns = self._words[_HEARTBEAT]
        if heartbeat_ns == 0:
            return None
        busy_ns, until_ns = self._words[_BUSY], self._words[_BUSY_UNTIL]
        return Signs(
            heartbeat_ns / _NS_PER_S, self._words[_RSS], busy_ns / _NS_PER_S if busy_ns else None,
            _reading(self._reals[_TEMPERATURE]), _reading(self._reals[_POWER]),
            until_ns / _NS_PER_S if busy_ns and until_ns else None,
        )  # fmt: skip

    # ------------------------------------------------------------------ the process's side

    def permitted(self, now_ns: int) -> bool:
        """Whether a run may begin now."""
        return now_ns < self._words[_PERMIT]

    def begin(self, now_ns: int, deadline_ns: int = 0) -> None:
        """A run begins, of a call with that deadline (0: not told)."""
        self._words[_BUSY_UNTIL] = deadline_ns  # first: whoever sees that it is busy sees with what
        self._words[_BUSY] = now_ns

    def end(self, now_ns: int) -> None:
        """The run ended; a paced lane rests before the next one."""
        words = self._words
        busy_ns = now_ns - words[_BUSY]
        words[_BUSY] = 0
        if busy_ns > 0:
            words[_BUSY_TOTAL] += busy_ns
        share = self._reals[_PACE]
        if 0.0 < share < 1.0 and busy_ns > 0:
            rest_ns = busy_ns * (1.0 / share - 1.0)
            self.rest_until_ns = now_ns + int(min(rest_ns, MAX_REST_S * _NS_PER_S))
        else:
            self.rest_until_ns = 0

    def rest_s(self, now_ns: int) -> float:
        """Time that the next run has to wait for the pace; 0 where it may begin."""
        return (self.rest_until_ns - now_ns) / _NS_PER_S if self.rest_until_ns > now_ns else 0.0

    def paced(self) -> bool:
        """Whether it may be busy for a part of its time only."""
        return self._reals[_PACE] < 1.0

    def beat(self, now_ns: int, rss_bytes: int) -> None:
        """Sign of life."""
        self._words[_RSS] = rss_bytes
        self._words[_HEARTBEAT] = now_ns

    def heat(self, temperature_c: float, power_w: float) -> None:
        """Readings of the (simulated) accelerator."""
        self._reals[_TEMPERATURE] = temperature_c
        self._reals[_POWER] = power_w


def _reading(value: float) -> float | None:
    return None if math.isnan(value) else value


def rss_bytes() -> int:
    """Resident memory of this process."""
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
