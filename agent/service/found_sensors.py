"""Found sensors: turns what this machine's kernel shows into zones and rails, and says what each sensor gives now.

Only temperatures of compute units become zones: a policy's limits are made for silicon, not for disks or radios.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal

from agent.ports import Reading
from agent.records import record
from agent.schema.base import Quantity
from agent.schema.device import DeviceProfile, Rail, Trip, Zone
from agent.sensors.battery import find_batteries
from agent.sensors.hwmon import find_channels
from agent.sensors.nvml import Nvml
from agent.sensors.rapl import find_domains
from agent.sensors.registry import build_sensors
from agent.sensors.sysfs import Missing, SysfsReader
from agent.sensors.thermal_zone import find_zones

CPU_ZONES = (
    "x86_pkg_temp", "tj-thermal", "*cpu*", "package-thermal", "soc-thermal", "soc_thermal", "soc*max*", "bigcore*",
    "littlecore*",
)  # fmt: skip
"""Thermal-zone types that drivers give to processors; a zone of this kind that answers is critical."""
OTHER_ZONES = ("*gpu*", "*npu*", "*tpu*", "*dla*", "center-thermal", "*ddr*")
CPU_CHANNELS = ("coretemp/Package id *", "k10temp/Tctl", "k10temp/Tdie", "zenpower/Tdie", "cpu_thermal/*")
OTHER_CHANNELS = ("amdgpu/edge", "amdgpu/junction")
POWER_CHIPS = ("ina3221", "ina2*", "ina7*")
MIN_TRIP_C = 40.0
"""Kernels show 0 or a negative number for trip points that nobody has set."""
SETTLE_S = 0.05
"""Pause between the two looks that a counter needs."""

TripKind = Literal["active", "passive", "hot", "critical"]
_TRIPS: Mapping[str, TripKind] = {"active": "active", "passive": "passive", "hot": "hot", "critical": "critical"}


def zones_of(reader: SysfsReader) -> tuple[Zone, ...]:
    """Zones of the compute units that answer now. The kernel's own name for a sensor is the zone's type."""
    zones = _thermal_zones(reader)
    if not any(zone.critical for zone in zones):
        zones += _channels(reader, CPU_CHANNELS, critical=True)
    zones += _channels(reader, OTHER_CHANNELS, critical=False)
    return _named_apart(zones)


def rails_of(reader: SysfsReader, cpus: Sequence[str]) -> tuple[Rail, ...]:
    """Power sensors of this machine; `cpus` are the accelerators that the package's counter covers."""
    rails: list[Rail] = []
    if any(fnmatchcase(domain.name, "package-*") for domain in find_domains(reader)):
        rails.append(Rail(name="package", source="rapl", type="package-*", covers=tuple(cpus), scope="package"))
    rails += [
        Rail(name=slug(channel.label), source="hwmon", type=channel.name, covers=(), scope="rail")
        for channel in find_channels(reader)
        if channel.kind == "power_w" and _any(POWER_CHIPS, channel.chip)
    ]
    rails += [
        Rail(name=slug(battery), source="battery", type=battery, covers=(), scope="board")
        for battery in find_batteries(reader)
    ]
    seen: dict[str, Rail] = {}
    for rail in rails:
        seen.setdefault(rail.name, rail)
    return tuple(seen.values())


def slug(text: str) -> str:
    """A kernel label as a name: lower case, everything else than letters and digits a hyphen."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "sensor"


def _thermal_zones(reader: SysfsReader) -> list[Zone]:
    zones: list[Zone] = []
    for type_, folder in find_zones(reader):
        critical = _any(CPU_ZONES, type_.lower())
        if not critical and not _any(OTHER_ZONES, type_.lower()):
            continue
        if any(zone.type == type_ for zone in zones) or not _plausible(reader.read_int(f"{folder}/temp")):
            continue
        trips = tuple(_trips(reader, folder))
        zones.append(Zone(name=slug(type_), source="thermal_zone", type=type_, critical=critical, trips=trips))
    return zones


def _channels(reader: SysfsReader, patterns: Sequence[str], *, critical: bool) -> list[Zone]:
    zones: list[Zone] = []
    for channel in find_channels(reader):
        wanted = channel.kind == "temperature_c" and _any(patterns, channel.name)
        if wanted and _plausible(reader.read_int(f"{channel.folder}/{channel.files[0]}")):
            zones.append(Zone(name=slug(channel.name), source="hwmon", type=channel.name, critical=critical))
    return zones


def _trips(reader: SysfsReader, folder: str) -> list[Trip]:
    trips: list[Trip] = []
    for entry in reader.list_dir(folder):
        match = re.fullmatch(r"trip_point_(\d+)_type", entry)
        if match is None:
            continue
        kind = reader.read_text(f"{folder}/{entry}")
        millidegrees = reader.read_int(f"{folder}/trip_point_{match.group(1)}_temp")
        if isinstance(kind, Missing) or kind not in _TRIPS or not _plausible(millidegrees):
            continue
        assert not isinstance(millidegrees, Missing)  # noqa: S101  (narrowing: plausible)
        if millidegrees < MIN_TRIP_C * 1000:
            continue
        temperature = Quantity(
            value=millidegrees / 1000.0, provenance="datasheet", source=f"trip point {match.group(1)} of the kernel"
        )
        trips.append(Trip(kind=_TRIPS[kind], temperature_c=temperature))
    return trips


def _any(patterns: Sequence[str], text: str) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


def _plausible(millidegrees: int | Missing) -> bool:
    return not isinstance(millidegrees, Missing) and -40_000 <= millidegrees <= 150_000


def _named_apart(zones: Sequence[Zone]) -> tuple[Zone, ...]:
    seen: dict[str, Zone] = {}
    for zone in zones:
        seen.setdefault(zone.name, zone)
    return tuple(seen.values())


# ---------------------------------------------------------------------------------------------- what they give


@record(frozen=True)
class SensorFinding:
    """One declared sensor and what it gave."""

    name: str
    what: Literal["zone", "rail"]
    source: str
    critical: bool
    value: float | None
    unit: str
    fault: str | None
    detail: str
    consequence: str
    """What its absence costs; empty where it answers."""


def survey(
    profile: DeviceProfile,
    reader: SysfsReader,
    make_nvml: Callable[[], Nvml | None],
    pause: Callable[[float], None],
) -> tuple[SensorFinding, ...]:
    """Read every zone and rail of the profile, counters twice with `SETTLE_S` between."""
    sensors = build_sensors(profile, reader, make_nvml)
    declared = {part.name for part in profile.zones} | {part.name for part in profile.rails}
    wanted = [sensor for sensor in sensors if sensor.name in declared]
    begin_s = time.monotonic()
    first = {(sensor.name, index): sensor.read(begin_s) for index, sensor in enumerate(wanted)}
    if any(rail.source == "rapl" for rail in profile.rails):
        pause(SETTLE_S)
        now_s = begin_s + max(SETTLE_S, time.monotonic() - begin_s)
        first = {(sensor.name, index): sensor.read(now_s) for index, sensor in enumerate(wanted)}
    by_kind = {(reading.kind, reading.name): reading for reading in first.values()}
    found = [_zone_finding(zone, by_kind[("temperature_c", zone.name)]) for zone in profile.zones]
    return (*found, *(_rail_finding(rail, by_kind[("power_w", rail.name)]) for rail in profile.rails))


def _zone_finding(zone: Zone, reading: Reading) -> SensorFinding:
    cost = "it counts as hot, so nothing runs" if zone.critical else "this part's heat is not watched"
    return _finding("zone", zone.source, zone.type, reading, "°C", cost, critical=zone.critical)


def _rail_finding(rail: Rail, reading: Reading) -> SensorFinding:
    return _finding("rail", rail.source, rail.type, reading, "W", "joules will be modelled", critical=False)


def _finding(
    what: Literal["zone", "rail"], source: str, type_: str, reading: Reading, unit: str, cost: str, *, critical: bool
) -> SensorFinding:
    return SensorFinding(
        reading.name, what, f"{source} {type_}", critical, reading.value, unit, reading.fault, reading.detail,
        cost if reading.value is None else "",
    )  # fmt: skip
