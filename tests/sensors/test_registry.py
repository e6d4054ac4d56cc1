from agent.schema.base import Quantity
from agent.schema.device import Accelerator, DeviceProfile, MemoryDomain, Rail, Zone
from agent.sensors.registry import build_sensors
from agent.sensors.sysfs import SysfsReader
from tests.fakes_sysfs import JETSON_ORIN_NANO, LAPTOP, RASPBERRY_PI_5, build_sysfs


def quantity(value: float) -> Quantity:
    return Quantity(value=value, provenance="assumed", source="test")


def profile(zones=(), rails=()) -> DeviceProfile:
    memory = MemoryDomain(
        name="dram", capacity_bytes=quantity(8e9), reserved_bytes=quantity(1e9),
        bandwidth_bytes_per_s=quantity(1e10), energy_j_per_byte=quantity(1e-10),
    )  # fmt: skip
    cpu = Accelerator(
        name="cpu", kind="cpu", memory_domain="dram", runtimes=(), peak_flops_per_s={"fp32": quantity(1e11)},
        energy_j_per_flop={"fp32": quantity(1e-10)}, base_power_w=quantity(3),
    )  # fmt: skip
    return DeviceProfile(
        version=1, name="b", title="B", memory_domains=(memory,), accelerators=(cpu,), zones=zones, rails=rails
    )


def rail(source: str, type_: str) -> Rail:
    return Rail(name=source, source=source, type=type_, covers=("cpu",), scope="rail")


def no_driver():
    raise AssertionError("the driver's library was opened although no GPU is declared")


def test_every_declared_zone_and_rail_has_a_sensor(tmp_path):
    build_sysfs(tmp_path, JETSON_ORIN_NANO)
    declared = profile(
        zones=(Zone(name="tj", source="thermal_zone", type="tj-thermal"),
               Zone(name="gpu", source="nvml", type="0"),
               Zone(name="chip", source="hwmon", type="coretemp/*")),
        rails=(rail("hwmon", "ina3221/VDD_IN"), rail("rapl", "package-*"), rail("nvml", "0"), rail("battery", "BAT0")),
    )  # fmt: skip

    readings = {
        (r.name, r.kind): r for r in (s.read(0.0) for s in build_sensors(declared, SysfsReader(tmp_path), lambda: None))
    }

    assert readings[("tj", "temperature_c")].value is not None
    assert readings[("hwmon", "power_w")].value is not None
    lost = {key for key, reading in readings.items() if reading.fault == "absent"}
    assert lost == {
        ("gpu", "temperature_c"), ("chip", "temperature_c"), ("rapl", "power_w"), ("rapl.energy", "energy_j"),
        ("nvml", "power_w"), ("nvml.energy", "energy_j"), ("battery", "power_w"),
    }  # fmt: skip


def test_a_critical_zone_without_a_sensor_reads_absent_for_ever(tmp_path):
    declared = profile(zones=(Zone(name="soc", source="thermal_zone", type="cpu-thermal", critical=True),))

    (sensor,) = build_sensors(declared, SysfsReader(tmp_path), no_driver)

    assert [sensor.read(t).fault for t in (0.0, 1.0, 60.0)] == ["absent"] * 3


def test_charge_and_clock_come_along_where_the_machine_has_them(tmp_path):
    laptop, board = tmp_path / "laptop", tmp_path / "board"

    names = [s.name for s in build_sensors(profile(), SysfsReader(build_sysfs(laptop, LAPTOP)), no_driver)]
    assert names == ["battery-charge"]
    names = [s.name for s in build_sensors(profile(), SysfsReader(build_sysfs(board, RASPBERRY_PI_5)), no_driver)]
    assert names == ["cpu-clock"]
