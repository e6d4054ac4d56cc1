"""Planning state: what the agent knows of its board right now, as a placement needs it.

Lanes that are down, that heat has stopped, and that are coming back decide when a new plan is due; see `Replanner`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from agent.control.thermal_governor import Level
from agent.placement.state import State
from agent.schema.device import DeviceProfile
from agent.schema.snapshot import AgentSnapshot
from agent.service.planning.kept import workload_bytes
from agent.service.planning.plan import Plan
from agent.service.serving.lane_keeper import LaneKeeper

LOST_AFTER_S = 2.0
"""A lane that restarts is back sooner than this as a rule; planning without it would only move models about."""
BACK_AFTER_S = 2.0
"""A lane that dies again sooner than this never was back."""
MIN_GAP_S = 2.0
"""Shortest time between two re-plans, whatever happens."""
ROOM_GAP_S = 10.0
"""Between two looks whether there is room by now for a model that was left out."""
COLDEST_C, HOTTEST_C = -55.0, 150.0
"""Junction temperatures outside of this are faults of a sensor."""

_DOWN = {"quarantined", "stopped", "refused"}


def planning_state(
    snapshot: AgentSnapshot, profile: DeviceProfile, plan: Plan, lost: frozenset[str], available_bytes: float | None,
    times_s: Mapping[tuple[str, str], float] | None = None,
) -> State:  # fmt: skip
    """Temperatures, waiting work, free memory, losses and times. available_bytes: what the machine has free, if known.

    Memory that this agent's own loaded models hold counts as free: a new plan may put it to another use.
    """
    known = {a.name for a in profile.accelerators}
    now = [a for a in snapshot.accelerators if a.name in known]
    return State(
        temperatures_c={
            a.name: a.temperature_c
            for a in now
            if a.temperature_c is not None and COLDEST_C < a.temperature_c < HOTTEST_C
        },
        free_bytes=_free(snapshot, profile, plan, available_bytes),
        queue_s={a.name: a.queue * _typical_s(snapshot, a.name) for a in now if a.queue},
        lost=lost & known,
        times_s=times_s or {},
    )


def starting_state(profile: DeviceProfile, simulated: Collection[str], available_bytes: float | None) -> State:
    """What is known of the board before the first plan: the memory that others leave free, where that is told."""
    home = _home(profile, simulated)
    return State() if home is None or available_bytes is None else State(free_bytes={home: available_bytes})


def _home(profile: DeviceProfile, simulated: Collection[str]) -> str | None:
    """The domain that the machine's own memory is: that of its CPU."""
    return next((a.memory_domain for a in profile.accelerators if a.kind == "cpu" and a.name not in simulated), None)


def _typical_s(snapshot: AgentSnapshot, accelerator: str) -> float:
    """Seconds of a request there: the longest of its models, measured where it is, else predicted."""
    rows = [c for m in snapshot.models for c in m.candidates if c.accelerator == accelerator]
    times_ms = [c.measured_p50_ms or c.predicted_ms or 0.0 for c in rows if c.state == "ready"]
    return max(times_ms, default=0.0) / 1e3


def _free(
    snapshot: AgentSnapshot, profile: DeviceProfile, plan: Plan, available_bytes: float | None
) -> dict[str, float]:
    """Free bytes of the domain that the machine's own memory is."""
    home = _home(profile, {a.name for a in snapshot.accelerators if a.simulated})
    if available_bytes is None or home is None:
        return {}
    local = {a.name for a in profile.accelerators if a.memory_domain == home}
    held = sum(
        held_bytes(plan, model.name)
        for model in snapshot.models
        for placement in model.candidates
        if placement.accelerator in local and placement.state == "ready"
    )
    return {home: available_bytes + held}


def held_bytes(plan: Plan, model: str) -> float:
    """Weights, cache and largest arena of a model; 0 where its graph is not known."""
    found = plan.model(model)
    if found is None or found.workload is None:
        return 0.0
    return workload_bytes(found.workload)


class Replanner:
    """Asks for a new plan when an accelerator is lost or back, when heat begins or ceases to hold one back, and every
    `ROOM_GAP_S` while a model waits for room.

    `look` belongs to the supervisor's thread and only compares; `lost` may be read from any thread.
    """

    def __init__(self, propose: Callable[[str], object], waiting: Callable[[], Collection[str]] = lambda: ()) -> None:
        """`propose(why)` plans on a thread of its own; `waiting()` names the models that wait for room."""
        self._propose, self._waiting = propose, waiting
        self._down_since_s: dict[str, float] = {}
        self._ready_since_s: dict[str, float] = {}
        self._planned: dict[str, str] | None = None
        self._planned_s = self._asked_room_s = float("-inf")
        self.lost: frozenset[str] = frozenset()

    def look(self, keepers: Mapping[str, LaneKeeper], now_s: float) -> None:
        """Compare the lanes with what the last plan was made for; the first look is what there is to begin with."""
        troubles = {name: t for name, keeper in keepers.items() if (t := self._trouble(keeper, now_s)) is not None}
        if self._planned is None:
            self._planned = troubles
            self._asked_room_s = now_s
        if troubles == self._planned:
            self._look_for_room(now_s)
            return
        if now_s - self._planned_s < MIN_GAP_S:
            return
        changes = [f"{name} {what}" for name, what in sorted(troubles.items()) if self._planned.get(name) != what]
        changes += [f"{name} is back" for name in sorted(self._planned) if name not in troubles]
        self._planned, self._planned_s = troubles, now_s
        self.lost = frozenset(name for name, what in troubles.items() if what != _DERATED)
        self._propose(", ".join(changes))

    def _look_for_room(self, now_s: float) -> None:
        if now_s - self._asked_room_s >= ROOM_GAP_S:
            self._asked_room_s = now_s
            names = sorted(self._waiting())
            if names:
                self._propose(f"room for {', '.join(names)} may be there now")

    def _trouble(self, keeper: LaneKeeper, now_s: float) -> str | None:
        """What is wrong with a lane. One that was planned without is back when it has been ready for a while."""
        state, name = keeper.state(), keeper.name
        if state not in {"idle", "ready"}:
            self._ready_since_s.pop(name, None)
        if state not in {"idle", "ready", "starting"}:
            down_s = now_s - self._down_since_s.setdefault(name, now_s)
            return _LOST if state in _DOWN or down_s >= LOST_AFTER_S or self._is_lost(name) else None
        if self._is_lost(name) and now_s - self._ready_since_s.setdefault(name, now_s) < BACK_AFTER_S:
            return _LOST
        self._down_since_s.pop(name, None)
        if not keeper.verdict.permit:
            return "is stopped by heat"
        return _DERATED if keeper.verdict.level is not Level.NOMINAL else None

    def _is_lost(self, name: str) -> bool:
        return (self._planned or {}).get(name) == _LOST


_DERATED, _LOST = "is derated by heat", "is lost"
