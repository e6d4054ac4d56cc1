import os
import shutil

import pytest

from agent.sensors.hwmon import HwmonTemperature
from agent.sensors.sysfs import SysfsReader
from agent.sensors.thermal_zone import ThermalZoneSensor, find_zones
from tests.fakes_sysfs import JETSON_ORIN_NANO, X86, build_sysfs, chip, zone


def test_a_zone_is_found_by_type_and_read_in_degrees(tmp_path):
    build_sysfs(tmp_path, JETSON_ORIN_NANO)

    reading = ThermalZoneSensor("tj", "tj-thermal", SysfsReader(tmp_path)).read(5.0)

    assert (reading.value, reading.fault, reading.t_s, reading.kind) == (49.812, None, 5.0, "temperature_c")


def test_zones_are_listed_with_their_types(tmp_path):
    build_sysfs(tmp_path, JETSON_ORIN_NANO, {"sys/class/thermal/cooling_device0/type": "pwm-fan"})

    assert [type_ for type_, _ in find_zones(SysfsReader(tmp_path))] == ["cpu-thermal", "gpu-thermal", "tj-thermal"]


def test_a_renumbered_zone_is_never_mistaken_for_another(tmp_path):
    build_sysfs(tmp_path, zone(0, "cpu-thermal", 60_000), zone(1, "gpu-thermal", 30_000))
    sensor = ThermalZoneSensor("cpu", "cpu-thermal", SysfsReader(tmp_path))
    assert sensor.read(0.0).value == 60.0

    build_sysfs(tmp_path, zone(1, "cpu-thermal", 61_000), zone(0, "gpu-thermal", 30_000))

    soon, later = sensor.read(0.1), sensor.read(2.0)
    assert (soon.value, soon.fault) == (None, "absent")
    assert later.value == 61.0


def test_a_zone_that_appears_later_is_found_within_a_second(tmp_path):
    sensor = ThermalZoneSensor("cpu", "cpu-thermal", SysfsReader(tmp_path))
    assert sensor.read(0.0).fault == "absent"

    build_sysfs(tmp_path, zone(4, "cpu-thermal", 40_000))

    assert sensor.read(1.0).value == 40.0


def test_a_zone_that_disappears_is_absent(tmp_path):
    build_sysfs(tmp_path, zone(0, "cpu-thermal", 60_000))
    sensor = ThermalZoneSensor("cpu", "cpu-thermal", SysfsReader(tmp_path))
    sensor.read(0.0)

    shutil.rmtree(tmp_path / "sys")

    assert sensor.read(3.0).fault == "absent"


@pytest.mark.parametrize("raw", ["-273000", "255000", "-40001", "150001", "hot", ""])
def test_values_that_silicon_cannot_have_are_implausible_and_never_numbers(tmp_path, raw):
    build_sysfs(tmp_path, zone(0, "cpu-thermal", raw))

    reading = ThermalZoneSensor("cpu", "cpu-thermal", SysfsReader(tmp_path)).read(0.0)

    assert (reading.value, reading.fault) == (None, "implausible")
    assert reading.detail


@pytest.mark.parametrize("raw", [-40_000, 0, 150_000])
def test_the_ends_of_the_range_are_plausible(tmp_path, raw):
    build_sysfs(tmp_path, zone(0, "cpu-thermal", raw))

    assert ThermalZoneSensor("cpu", "cpu-thermal", SysfsReader(tmp_path)).read(0.0).value == raw / 1000


def test_a_busy_driver_is_a_failed_read(tmp_path):
    build_sysfs(tmp_path, zone(0, "cpu-thermal", 1))
    temp = tmp_path / "sys/class/thermal/thermal_zone0/temp"
    temp.unlink()
    os.mkfifo(temp)
    ends = [os.open(temp, os.O_RDONLY | os.O_NONBLOCK), os.open(temp, os.O_WRONLY | os.O_NONBLOCK)]

    reading = ThermalZoneSensor("cpu", "cpu-thermal", SysfsReader(tmp_path)).read(0.0)

    for end in ends:
        os.close(end)
    assert (reading.value, reading.fault) == (None, "read_failed")


def test_of_several_zones_the_hottest_counts_and_a_lost_one_is_told(tmp_path):
    build_sysfs(tmp_path, zone(0, "bigcore0", 50_000), zone(1, "bigcore1", 70_000), zone(2, "bigcore2", "broken"))

    reading = ThermalZoneSensor("big", "bigcore*", SysfsReader(tmp_path)).read(0.0)

    assert reading.value == 70.0
    assert "1 of 3" in reading.detail


def test_a_hwmon_temperature_is_found_by_chip_and_label(tmp_path):
    build_sysfs(tmp_path, X86)
    reader = SysfsReader(tmp_path)

    assert HwmonTemperature("package", "coretemp/Package id 0", reader).read(0.0).value == 55.0
    assert HwmonTemperature("core", "coretemp/temp2", reader).read(0.0).value == 52.0
    assert HwmonTemperature("disk", "nvme/Composite", reader).read(0.0).value == pytest.approx(39.85)
    assert HwmonTemperature("none", "k10temp/Tctl", reader).read(0.0).fault == "absent"


def test_a_renumbered_chip_is_found_again_and_never_mistaken(tmp_path):
    build_sysfs(tmp_path, chip(0, "coretemp", {"temp1_input": 55_000}), chip(1, "nvme", {"temp1_input": 30_000}))
    sensor = HwmonTemperature("cpu", "coretemp/temp1", SysfsReader(tmp_path))
    assert sensor.read(0.0).value == 55.0

    build_sysfs(tmp_path, chip(1, "coretemp", {"temp1_input": 56_000}), chip(0, "nvme", {"temp1_input": 30_000}))

    assert sensor.read(0.5).fault == "absent"
    assert sensor.read(1.5).value == 56.0
