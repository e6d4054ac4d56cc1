"""Bundle deferral: when a board would rather not begin with a bundle – outside its hours, busy, not at its best."""

from __future__ import annotations

import time
from collections import deque

from agent.schema.bundle import Offer
from agent.schema.settings import BundleSettings
from agent.schema.snapshot import AgentSnapshot
from agent.service.conditions import iso

RATE_S = 60.0
"""Requests are counted over this long."""
_UNFIT = {
    "starting": "the agent is starting",
    "draining": "it is draining",
    "throttled": "heat slows it down, so that nothing could be compared",
    "fault": "it is in fault",
}


class Deferral:
    """Used by one thread."""

    def __init__(self, settings: BundleSettings) -> None:
        self._settings = settings
        self._counts: deque[tuple[float, int]] = deque()

    def why(self, offer: Offer, snapshot: AgentSnapshot, wall_s: float, now_s: float) -> str | None:
        """Why it waits, in one line; None where it may begin. Hours are the board's local time."""
        if offer.not_before is not None and wall_s < offer.not_before:
            return f"not before {iso(offer.not_before)}"
        hours = self._settings.hours
        if hours is not None and not _within(hours, wall_s):
            return f"only at {hours}, the board's time"
        if snapshot.agent.mode in _UNFIT:
            return _UNFIT[snapshot.agent.mode]
        return self._busy(sum(model.requests for model in snapshot.models), now_s)

    def _busy(self, requests: int, now_s: float) -> str | None:
        limit = self._settings.max_requests_per_s
        if limit is None:
            return None
        if self._counts and requests < self._counts[-1][1]:
            self._counts.clear()  # a model that was loaded anew counts from its beginning
        self._counts.append((now_s, requests))
        while len(self._counts) > 1 and now_s - self._counts[1][0] >= RATE_S:
            self._counts.popleft()
        first_s, first = self._counts[0]
        if now_s - first_s < RATE_S:
            return f"counting requests for {RATE_S:.0f} s"
        rate = (requests - first) / (now_s - first_s)
        return f"busy: {rate:.3g} requests/s, more than {limit:g}" if rate > limit else None


def _within(hours: str, wall_s: float) -> bool:
    """Whether it is between the two times of a day, the second one excluded; over midnight where it is the smaller."""
    begin, end = hours.split("-")
    now = time.strftime("%H:%M", time.localtime(wall_s))
    return begin <= now < end if begin < end else now >= begin or now < end
