"""State: what is true of a board right now, as far as a placement depends on it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import field

from agent.records import record
from agent.schema.device import DeviceProfile


@record(frozen=True)
class State:
    """The board at the moment of planning; what is not given is taken as at rest.

    temperatures_c: junction temperature of an accelerator, by name; absent: the reference temperature.
    free_bytes: memory that others leave free in a domain now, by name; absent: all that the profile does not reserve.
    queue_s: seconds of work that already wait for an accelerator, by name; absent: none.
    lost: accelerators that do not answer.
    times_s: seconds of one call as measured on the board, by digest of the model file and accelerator.
    """

    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    free_bytes: Mapping[str, float] = field(default_factory=dict)
    queue_s: Mapping[str, float] = field(default_factory=dict)
    lost: frozenset[str] = frozenset()
    times_s: Mapping[tuple[str, str], float] = field(default_factory=dict)

    def check(self, profile: DeviceProfile) -> None:
        """ValueError names what the profile does not have (with the nearest name) or what is no sensible number."""
        accelerators = [a.name for a in profile.accelerators]
        _known("temperatures_c", self.temperatures_c, accelerators)
        _known("free_bytes", self.free_bytes, [d.name for d in profile.memory_domains])
        _known("queue_s", self.queue_s, accelerators)
        _known("lost", self.lost, accelerators)
        for name, value in self.temperatures_c.items():
            if not -273.15 < value < 1000.0:
                raise ValueError(f"temperatures_c[{name!r}] is {value:g}, expected °C")
        for what, table in (("free_bytes", self.free_bytes), ("queue_s", self.queue_s)):
            for name, value in table.items():
                if not 0.0 <= value < math.inf:
                    raise ValueError(f"{what}[{name!r}] is {value:g}, expected a finite number >= 0")


def _known(what: str, names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{what}: there is no {name!r} among {', '.join(known)}{meant(name, known)}")


def meant(name: str, known: Collection[str]) -> str:
    """` (did you mean X?)` for the nearest known name; empty where none is near."""
    near = difflib.get_close_matches(name, known, 1, 0.4)
    return f" (did you mean {near[0]}?)" if near else ""
