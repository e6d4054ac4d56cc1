"""Board figures: other figures for the same hardware – a device profile of a bundle in place of the board's own.

What lanes, sensors and actuators were made of at the start has to be the same in both; what plans are made of may
differ: speeds, bandwidths, joules, efficiencies, overheads, thermal network. Trip points stay those of the start.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from agent.errors import QeilError
from agent.schema.device import Accelerator, DeviceProfile
from agent.service.board import Board

_RUNTIME = ("backend", "provider", "plugin", "options", "threads")
_ACCELERATOR = ("name", "kind", "memory_domain", "thermal_node", "threads")


def differing(board: Board, profile: DeviceProfile) -> str | None:
    """The first thing that makes it a profile of other hardware than the board's, None where there is none."""
    own = board.profile
    if profile.name != own.name:
        return f"it is a profile of {profile.name}; this board has {own.name}"
    ours = {a.name: a for a in own.accelerators if a.name not in board.simulated}
    theirs = {a.name: a for a in profile.accelerators}
    for name, accelerator in ours.items():
        if name not in theirs:
            return f"accelerators: there is no {name}"
        for key, mine in _hardware(accelerator).items():
            if _hardware(theirs[name])[key] != mine:
                return f"accelerators: {key} of {name} differs"
    for key in ("zones", "rails"):
        if getattr(own, key) != getattr(profile, key):
            return f"{key} differ"
    return None


def _hardware(accelerator: Accelerator) -> dict[str, Any]:
    return {
        **{key: getattr(accelerator, key) for key in _ACCELERATOR},
        "actuator": accelerator.actuator,
        "operating_points": [point.name for point in accelerator.operating_points],
        "runtimes": [tuple(getattr(runtime, key) for key in _RUNTIME) for runtime in accelerator.runtimes],
    }


def with_figures(board: Board, profile: DeviceProfile) -> Board:
    """The board with the profile's figures; accelerators that only the board has keep theirs."""
    theirs = {a.name: a for a in profile.accelerators}
    domains = {d.name: d for d in (*board.profile.memory_domains, *profile.memory_domains)}
    changed = {
        "accelerators": tuple(theirs.get(a.name, a) for a in board.profile.accelerators),
        "memory_domains": tuple(domains.values()), "links": profile.links, "thermal": profile.thermal,
        "idle_power_w": profile.idle_power_w,
    }  # fmt: skip
    return replace(board, profile=board.profile.model_copy(update=changed))


class BoardFigures:
    """The board as plans see it now. Thread-safe."""

    def __init__(
        self,
        board: Board,
        brought: Callable[[], DeviceProfile | None],
        prepared: Callable[[DeviceProfile], DeviceProfile],
    ) -> None:
        """`brought()`: the profile of the bundle in force, None without; `prepared(profile)`: with what was measured on
        this board."""
        self._own = board
        self._brought = brought
        self._prepared = prepared
        self._lock = threading.Lock()
        self._made: tuple[DeviceProfile | None, Board] = (None, board)

    def now(self) -> Board:
        """The same object as long as the profile is the same one."""
        profile = self._brought()
        with self._lock:
            if profile is not self._made[0]:
                self._made = (profile, self._own if profile is None else self._with(profile))
            return self._made[1]

    def _with(self, profile: DeviceProfile) -> Board:
        return with_figures(self._own, self._prepared(profile))

    def problem(self, profile: DeviceProfile) -> str | None:
        """Why this profile cannot come into force here; None where it can."""
        try:
            self._with(profile)
        except QeilError as error:
            return error.message
        return differing(self._own, profile)
