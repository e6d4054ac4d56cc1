"""Ways: the settings of a board under which a placement may be searched – which operating point each accelerator has.

Accelerators that share silicon, or that have an operating point of the same name (a power mode of the board sets them
all), are switched together: one piece of silicon cannot be at two points at once. Every combination gets tables of its
own, so that the rule holds for each method by construction, and the fronts are merged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from itertools import product

from agent.records import record
from agent.schema.device import Accelerator, DeviceProfile, OperatingPoint

MAX_WAYS = 16
"""Combinations that are searched; of more, those in which one group leaves its full figures at a time."""


@record(frozen=True)
class Way:
    """A combination: operating point by accelerator, absent for the profile's full figures."""

    points: Mapping[str, OperatingPoint] = field(default_factory=dict)

    def label(self, accelerator: str) -> str:
        """`gpu@15w`, or the bare name at full figures."""
        point = self.points.get(accelerator)
        return accelerator if point is None else f"{accelerator}@{point.name}"


def full(point: OperatingPoint, accelerator: Accelerator) -> bool:
    """Whether the point is what the profile's figures are for."""
    shares = (point.active_units_share, point.clock_share, point.memory_clock_share)
    own = accelerator.power_cap_w
    same_cap = point.power_cap_w is None or (own is not None and point.power_cap_w.value == own.value)
    return shares == (1.0, 1.0, 1.0) and same_cap


def ways(profile: DeviceProfile, taking_part: Sequence[str]) -> tuple[tuple[Way, ...], tuple[str, ...]]:
    """Every combination of operating points of the accelerators that take part, and what is to be said about it."""
    groups = _groups([a for a in profile.accelerators if a.name in taking_part])
    options = [_settings(group) for group in groups]
    total = 1
    for settings in options:
        total *= len(settings)
    if total <= MAX_WAYS:
        found = [_merged(chosen) for chosen in product(*options)]
        return tuple(found), ()
    single: list[Way] = [Way()]
    for settings in options:
        single += [Way(setting) for setting in settings if setting]
    note = (
        f"{total} combinations of operating points: only the {min(len(single), MAX_WAYS)} in which one group of "
        "accelerators leaves its full figures are searched"
    )
    return tuple(single[:MAX_WAYS]), (note,)


def _groups(accelerators: Sequence[Accelerator]) -> list[list[Accelerator]]:
    """Accelerators that are switched together, in the profile's order."""
    groups: list[tuple[set[str], list[Accelerator]]] = []
    for accelerator in accelerators:
        keys = {f"point {p.name}" for p in accelerator.operating_points}
        keys.add(f"silicon {accelerator.silicon or accelerator.name}")
        joined = [group for group in groups if group[0] & keys]
        members = [m for group in joined for m in group[1]] + [accelerator]
        groups = [group for group in groups if not group[0] & keys]
        groups.append((keys.union(*(group[0] for group in joined)), members))
    return [members for _, members in groups]


def _settings(group: Sequence[Accelerator]) -> list[dict[str, OperatingPoint]]:
    """Settings of one group, full figures first; a point that changes nothing is the full figures."""
    names = dict.fromkeys(p.name for a in group for p in a.operating_points)
    found: list[dict[str, OperatingPoint]] = [{}]
    for name in names:
        setting = {a.name: p for a in group for p in a.operating_points if p.name == name and not full(p, a)}
        if setting and setting not in found:
            found.append(setting)
    return found


def _merged(parts: Sequence[Mapping[str, OperatingPoint]]) -> Way:
    return Way({name: point for part in parts for name, point in part.items()})
