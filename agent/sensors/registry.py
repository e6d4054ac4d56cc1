"""Registry: makes the sensors that a device profile declares, in a literal table from source to maker.

Every declared zone and rail gets a sensor, found or not: one that is absent says so at every reading, so that a
critical zone without a sensor counts as hot instead of being forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent.ports import Sensor
from agent.records import record
from agent.schema.device import DeviceProfile, Rail, Zone
from agent.sensors.battery import BatteryCharge, BatteryPower, find_batteries
from agent.sensors.cpufreq import CpuClockShare, find_policies
from agent.sensors.hwmon import HwmonPower, HwmonTemperature
from agent.sensors.nvml import Nvml, NvmlSensor, open_nvml
from agent.sensors.rapl import RaplEnergy, RaplPower
from agent.sensors.sysfs import SysfsReader
from agent.sensors.thermal_zone import ThermalZoneSensor

ENERGY_SUFFIX = ".energy"
"""A rail with a hardware energy counter has a second sensor `RAIL.energy` of kind energy_j."""
CHARGE_SENSOR = "battery-charge"
CLOCK_SENSOR = "cpu-clock"


@record(frozen=True)
class Sources:
    """What sensors read from."""

    reader: SysfsReader
    nvml: Nvml | None


def _thermal_zone(zone: Zone, sources: Sources) -> Sensor:
    return ThermalZoneSensor(zone.name, zone.type, sources.reader)


def _hwmon_temperature(zone: Zone, sources: Sources) -> Sensor:
    return HwmonTemperature(zone.name, zone.type, sources.reader)


def _nvml_temperature(zone: Zone, sources: Sources) -> Sensor:
    return NvmlSensor(zone.name, "temperature_c", zone.type, sources.nvml)


def _hwmon_power(rail: Rail, sources: Sources) -> tuple[Sensor, ...]:
    return (HwmonPower(rail.name, rail.type, sources.reader),)


def _rapl(rail: Rail, sources: Sources) -> tuple[Sensor, ...]:
    energy = RaplEnergy(rail.name + ENERGY_SUFFIX, rail.type, sources.reader)
    return (RaplPower(rail.name, rail.type, sources.reader), energy)


def _nvml_power(rail: Rail, sources: Sources) -> tuple[Sensor, ...]:
    energy = NvmlSensor(rail.name + ENERGY_SUFFIX, "energy_j", rail.type, sources.nvml)
    return (NvmlSensor(rail.name, "power_w", rail.type, sources.nvml), energy)


def _battery(rail: Rail, sources: Sources) -> tuple[Sensor, ...]:
    return (BatteryPower(rail.name, rail.type, sources.reader),)


ZONES: Mapping[str, Callable[[Zone, Sources], Sensor]] = {
    "thermal_zone": _thermal_zone,
    "hwmon": _hwmon_temperature,
    "nvml": _nvml_temperature,
}
RAILS: Mapping[str, Callable[[Rail, Sources], tuple[Sensor, ...]]] = {
    "hwmon": _hwmon_power,
    "rapl": _rapl,
    "nvml": _nvml_power,
    "battery": _battery,
}


def build_sensors(
    profile: DeviceProfile, reader: SysfsReader, make_nvml: Callable[[], Nvml | None] = open_nvml
) -> tuple[Sensor, ...]:
    """The sensors of the profile's zones and rails, then battery charge and CPU clock where the machine has them.

    The driver's library is opened only where the profile names an NVIDIA GPU.
    """
    wants_nvml = "nvml" in {zone.source for zone in profile.zones} | {rail.source for rail in profile.rails}
    sources = Sources(reader, make_nvml() if wants_nvml else None)
    sensors: list[Sensor] = [ZONES[zone.source](zone, sources) for zone in profile.zones]
    for rail in profile.rails:
        sensors += RAILS[rail.source](rail, sources)
    if find_batteries(reader):
        sensors.append(BatteryCharge(CHARGE_SENSOR, "*", reader))
    if find_policies(reader):
        sensors.append(CpuClockShare(CLOCK_SENSOR, reader))
    return tuple(sensors)
