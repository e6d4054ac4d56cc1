"""Recovery: how long a lane is away after a death, by the agent's own state machine of lanes."""

from __future__ import annotations

from typing import Any

from agent.control import lane_health
from agent.control.lane_health import Died, LaneHealth, Ready, Tick
from agent.schema.policy import Recovery
from agent.simulation.board_run import STARTUP_S


def recovery(limits: Recovery) -> dict[str, Any]:
    """Seconds from the first death of a healthy lane until its restart, its service and its full capacity.

    The start itself is assumed to take `board_run.STARTUP_S`; reading a model's weights comes on top of it.
    """
    state, _ = lane_health.step(LaneHealth(phase="ready"), Died("driver reset"), limits, 0.0)
    restart_s = state.next_start_s
    state, _ = lane_health.step(state, Tick(), limits, restart_s)
    service_s = restart_s + STARTUP_S
    state, _ = lane_health.step(state, Ready(), limits, service_s)
    share = lane_health.capacity_share(state, limits, service_s)
    full_s = service_s + (limits.ramp_s if share < 1.0 else 0.0)
    return {
        "restart_s": restart_s, "start_takes_s": STARTUP_S, "service_s": service_s, "service_share": share,
        "full_s": full_s, "provenance": "modelled",
    }  # fmt: skip
