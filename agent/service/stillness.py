"""Stillness: whether what was published still holds, so that an idle tick need not build it again.

Routes, permits, the mode and nearly all that is shown depend on lanes, heat, readings, the plan and requests: where any
of those may have changed, it does not hold. The rest (why a model has no known question, times of trials) is at most
`RENEW_S` old. Owned by the supervisor's thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent.control import lane_health
from agent.control.thermal_governor import Level
from agent.schema.policy import Recovery
from agent.service.serving.lane_keeper import LaneKeeper
from agent.service.serving.serving_state import ServingState

RENEW_S: Final = 1.0
"""What is published is built again after this long, whatever seems unchanged."""

Signs = tuple[object, ...]


class Stillness:
    """What was published, as signs of what it depended on."""

    def __init__(self) -> None:
        self._seen: Signs | None = None
        self._until_s = float("-inf")

    def holds(self, signs: Signs | None, now_s: float) -> bool:
        """Whether the last publication still does; where not, what is published now is of these signs."""
        if signs is not None and now_s < self._until_s and signs == self._seen:
            return True
        self._seen, self._until_s = signs, now_s + RENEW_S
        return False

    def end(self) -> None:
        """Something happened that signs may not show."""
        self._seen = None


def signs(
    keepers: Mapping[str, LaneKeeper],
    state: ServingState,
    seen: Signs,
    now_s: float,
) -> Signs | None:
    """What a publication depends on; None while something is under way: a call, a load, a restart, heat, a new plan.

    seen: what the caller has looked at already and publishes.
    """
    limits = state.current.policy.recovery
    lanes = [_lane(keeper, limits, now_s) for keeper in keepers.values()]
    if state.pending is not None or None in lanes:
        return None
    return (state.current, *seen, *lanes)


def _lane(keeper: LaneKeeper, limits: Recovery, now_s: float) -> Signs | None:
    if keeper.verdict.level is not Level.NOMINAL:
        return None
    if keeper.unused:
        return (keeper.health, keeper.verdict)
    lane, vitals = keeper.lane, keeper.vitals
    if lane is None or vitals is None or vitals.busy_since_s is not None or not lane.alive() or lane.queue_length():
        return None
    settled = keeper.settled() and lane_health.capacity_share(keeper.health, limits, now_s) >= 1.0
    return (keeper.health, keeper.verdict, keeper.generation, vitals.temperature_c, vitals.power_w) if settled else None
