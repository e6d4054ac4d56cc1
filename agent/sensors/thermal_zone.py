"""Thermal zones: temperatures under /sys/class/thermal, found by the content of `type` and never by number."""

from __future__ import annotations

from fnmatch import fnmatchcase

from agent.ports import Reading
from agent.sensors import readings
from agent.sensors.sysfs import Missing, SysfsReader

FOLDER = "sys/class/thermal"
RESCAN_S = 1.0
"""Shortest time between two searches for a zone that is not where it was."""


def find_zones(reader: SysfsReader) -> tuple[tuple[str, str], ...]:
    """(type, folder) of every thermal zone, in the kernel's order."""
    found = []
    for entry in reader.list_dir(FOLDER):
        if not entry.startswith("thermal_zone"):
            continue
        type_ = reader.read_text(f"{FOLDER}/{entry}/type")
        if not isinstance(type_, Missing) and type_:
            found.append((type_, f"{FOLDER}/{entry}"))
    return tuple(found)


class ThermalZoneSensor:
    """The hottest zone whose type matches a shell-style pattern.

    The type is read together with the temperature: a driver that is loaded again may give the number to another zone.
    """

    def __init__(self, name: str, type_pattern: str, reader: SysfsReader) -> None:
        self.name = name
        self._pattern = type_pattern
        self._reader = reader
        self._folders: tuple[str, ...] = ()
        self._searched_s: float | None = None
        self._source = f"thermal_zone {type_pattern}"

    def read(self, now_s: float) -> Reading:
        """°C; one or two short reads per zone."""
        if not self._in_place():
            self._folders = ()
            if self._searched_s is None or now_s - self._searched_s >= RESCAN_S:
                self._searched_s = now_s
                self._folders = tuple(f for t, f in find_zones(self._reader) if fnmatchcase(t, self._pattern))
        if not self._folders:
            detail = f"there is no thermal zone of type {self._pattern!r}"
            return readings.absent(self.name, "temperature_c", now_s, self._source, detail)
        results = [self._reader.read_int(f"{folder}/temp") for folder in self._folders]
        return hottest(self.name, results, now_s, self._source)

    def _in_place(self) -> bool:
        types = [self._reader.read_text(f"{folder}/type") for folder in self._folders]
        return bool(types) and all(not isinstance(t, Missing) and fnmatchcase(t, self._pattern) for t in types)


def hottest(name: str, millidegrees: list[int | Missing], now_s: float, source: str) -> Reading:
    """The hottest plausible of several millidegree values; what the others lack is told in `detail`."""
    all_ = [
        readings.missing(name, "temperature_c", now_s, source, result)
        if isinstance(result, Missing)
        else readings.value(name, "temperature_c", result / 1000.0, now_s, source)
        for result in millidegrees
    ]
    good = [(r.value, r) for r in all_ if r.value is not None]
    if not good:
        return all_[0]
    best = max(good, key=lambda pair: pair[0])[1]
    lost = [r.detail for r in all_ if r.value is None]
    if not lost:
        return best
    detail = f"{len(lost)} of {len(all_)} gave no value: {lost[0]}"
    return Reading(name, "temperature_c", best.value, None, now_s, source, detail)
