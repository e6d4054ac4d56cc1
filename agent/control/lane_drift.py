"""Lane drift: what only shows over hours – a lane's memory that grows, calls that take longer than they did. Pure."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from agent.records import record

WINDOW_S = 300.0
"""Memory is compared by the least of each such window: what a single request holds for a moment does not count."""
GROWN_WINDOWS = 3
"""Windows in a row, each above the one before, that make growth."""
GROWTH_BYTES = 64 * 2**20
GROWTH_SHARE = 0.25
SLOWER = 1.5
"""Times as long as measured at first, from which a lane counts as slowed."""
QUICK_AGAIN = 1.2
BEYOND = 3.0
"""Times as long as predicted from which a prediction no longer describes the lane; predictions err by less."""
WITHIN = 2.5
SETTLED_S = 60.0


@record(frozen=True)
class MemoryGrowth:
    """Memory of one process of a lane, by windows. `lows` are the least bytes of finished windows, newest last."""

    begun_s: float
    least_bytes: float
    lows: tuple[float, ...] = ()

    def grown_bytes(self) -> float | None:
        """Growth over the last windows; None where it is none, or too little to speak of."""
        kept = self.lows[-GROWN_WINDOWS - 1 :]
        if len(kept) <= GROWN_WINDOWS or any(later <= earlier for earlier, later in pairwise(kept)):
            return None
        grown = kept[-1] - self.lows[0]
        return grown if grown > max(GROWTH_BYTES, GROWTH_SHARE * self.lows[0]) else None


def grew(state: MemoryGrowth | None, rss_bytes: float, now_s: float) -> MemoryGrowth:
    """Take in a reading. The first finished window is what later ones are compared with."""
    if state is None:
        return MemoryGrowth(now_s, rss_bytes)
    if now_s - state.begun_s < WINDOW_S:
        return replace(state, least_bytes=min(state.least_bytes, rss_bytes))
    lows = (*state.lows, state.least_bytes)
    return MemoryGrowth(now_s, rss_bytes, lows if len(lows) <= GROWN_WINDOWS + 2 else (lows[0], *lows[2:]))


@record(frozen=True)
class LatencyDrift:
    """Typical time of a model's calls on a lane. `first_s`: once there were enough of them, before any drift."""

    since_s: float
    first_s: float | None = None
    slow_since_s: float | None = None
    factor: float = 1.0
    """The last reading over the first."""
    beyond_since_s: float | None = None
    beyond_factor: float = 1.0
    """The last reading over the prediction."""

    def slowed(self, now_s: float) -> bool:
        """Whether it has been slow for long enough to be no mere burst."""
        return self.slow_since_s is not None and now_s - self.slow_since_s >= SETTLED_S

    def beyond(self, now_s: float) -> bool:
        """Whether it has been far beyond its prediction for as long: slow from the start, or predicted wrongly."""
        return self.beyond_since_s is not None and now_s - self.beyond_since_s >= SETTLED_S


def drifted(
    state: LatencyDrift | None, typical_s: float, now_s: float, predicted_s: float | None = None
) -> LatencyDrift:
    """Take in the median time of the recent calls, and what was predicted for one."""
    if state is None:
        state = LatencyDrift(now_s)
    elif predicted_s is not None and predicted_s > 0:
        state = _beside_prediction(state, typical_s / predicted_s, now_s)
    if state.first_s is None:
        return replace(state, first_s=typical_s) if now_s - state.since_s >= SETTLED_S else state
    first_s = min(state.first_s, typical_s)
    factor = typical_s / first_s if first_s > 0 else 1.0
    bound = SLOWER if state.slow_since_s is None else QUICK_AGAIN
    slow_since_s = None if factor < bound else now_s if state.slow_since_s is None else state.slow_since_s
    return replace(state, first_s=first_s, slow_since_s=slow_since_s, factor=factor)


def _beside_prediction(state: LatencyDrift, factor: float, now_s: float) -> LatencyDrift:
    since_s = state.beyond_since_s
    bound = BEYOND if since_s is None else WITHIN
    since_s = None if factor < bound else now_s if since_s is None else since_s
    return replace(state, beyond_since_s=since_s, beyond_factor=factor)
