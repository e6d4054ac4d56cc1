import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sensors.battery import BatteryCharge, BatteryPower, find_batteries
from agent.sensors.hwmon import HwmonPower
from agent.sensors.rapl import Domain, RaplCounter, RaplEnergy, RaplPower, find_domains
from agent.sensors.sysfs import Missing, SysfsReader
from tests.fakes_sysfs import JETSON_ORIN_NANO, LAPTOP, X86, build_sysfs, chip, rapl


def test_ina3221_power_is_volts_times_amps_of_the_labelled_channel(tmp_path):
    build_sysfs(tmp_path, JETSON_ORIN_NANO)
    reader = SysfsReader(tmp_path)

    assert HwmonPower("module", "ina3221/VDD_IN", reader).read(0.0).value == pytest.approx(5.008 * 1.2)
    assert HwmonPower("soc", "ina3221/VDD_SOC", reader).read(0.0).value == pytest.approx(4.992 * 0.3)


def test_a_chip_that_computes_power_is_asked_for_it(tmp_path):
    build_sysfs(
        tmp_path,
        chip(0, "ina238", {"power1_input": 7_250_000, "in1_input": 1, "curr1_input": 1, "label": "VIN"}),
        chip(1, "amdgpu", {"power1_average": 15_000_000, "power1_label": "PPT"}),
    )
    reader = SysfsReader(tmp_path)

    assert HwmonPower("board", "ina238/VIN", reader).read(0.0).value == pytest.approx(7.25)
    assert HwmonPower("gpu", "amdgpu/PPT", reader).read(0.0).value == pytest.approx(15.0)


def test_several_channels_are_summed_and_a_missing_part_makes_the_sum_a_fault(tmp_path):
    build_sysfs(
        tmp_path, chip(0, "ina226", {"power1_input": 1_000_000}), chip(1, "ina226", {"power1_input": 2_000_000})
    )
    sensor = HwmonPower("all", "ina226/*", SysfsReader(tmp_path))
    assert sensor.read(0.0).value == pytest.approx(3.0)

    build_sysfs(tmp_path, chip(1, "ina226", {"power1_input": "?"}))

    assert sensor.read(0.1).fault == "implausible"


def test_negative_power_is_implausible(tmp_path):
    build_sysfs(tmp_path, chip(0, "ina3221", {"in1_label": "A", "in1_input": 5000, "curr1_input": -100}))

    assert HwmonPower("a", "ina3221/A", SysfsReader(tmp_path)).read(0.0).fault == "implausible"


# ---------------------------------------------------------------------------------------------- RAPL


def test_the_second_look_at_rapl_gives_mean_power(tmp_path):
    build_sysfs(tmp_path, rapl("intel-rapl:0", "package-0", 1_000_000))
    sensor = RaplPower("package", "package-0", SysfsReader(tmp_path))
    first = sensor.read(10.0)

    build_sysfs(tmp_path, rapl("intel-rapl:0", "package-0", 6_000_000))

    assert (first.value, first.fault) == (None, "read_failed")
    assert sensor.read(10.5).value == pytest.approx(10.0)


def test_the_same_register_seen_through_mmio_is_not_counted_twice(tmp_path):
    build_sysfs(tmp_path, X86)

    assert [domain.name for domain in find_domains(SysfsReader(tmp_path))] == ["package-0", "core"]


def test_sockets_are_summed(tmp_path):
    build_sysfs(tmp_path, rapl("intel-rapl:0", "package-0", 0), rapl("intel-rapl:1", "package-1", 0))
    power = RaplPower("all", "package-*", SysfsReader(tmp_path))
    energy = RaplEnergy("all.energy", "package-*", SysfsReader(tmp_path))
    power.read(0.0), energy.read(0.0)

    build_sysfs(tmp_path, rapl("intel-rapl:0", "package-0", 2_000_000), rapl("intel-rapl:1", "package-1", 3_000_000))

    assert power.read(1.0).value == pytest.approx(5.0)
    assert energy.read(1.0).value == pytest.approx(5.0)


def test_a_counter_that_wraps_goes_on(tmp_path):
    build_sysfs(tmp_path, rapl("intel-rapl:0", "package-0", 9_000_000, range_uj=10_000_000))
    sensor = RaplEnergy("e", "package-0", SysfsReader(tmp_path))
    sensor.read(0.0)

    build_sysfs(tmp_path, rapl("intel-rapl:0", "package-0", 1_000_000, range_uj=10_000_000))

    assert sensor.read(1.0).value == pytest.approx(2.0)


@given(st.lists(st.integers(min_value=1, max_value=900), min_size=1, max_size=20))
def test_whatever_the_counter_wraps_the_sum_of_steps_is_its_energy(tmp_path_factory, steps):
    root = tmp_path_factory.mktemp("rapl")
    build_sysfs(root, rapl("intel-rapl:0", "core", 500))
    counter = RaplCounter(Domain("core", "sys/class/powercap/intel-rapl:0", 1000), SysfsReader(root))
    counter.advance(0.0)
    raw = 500
    for second, step in enumerate(steps, 1):
        raw = (raw + step) % 1000
        build_sysfs(root, rapl("intel-rapl:0", "core", raw))
        counter.advance(float(second))

    assert counter.total_j == pytest.approx(sum(steps) * 1e-6)


def test_a_counter_that_never_moves_is_refused_and_not_zero_watts(tmp_path):
    build_sysfs(tmp_path, rapl("intel-rapl:0", "package-0", 0))
    sensor = RaplPower("package", "package-0", SysfsReader(tmp_path))
    sensor.read(0.0)

    reading = sensor.read(1.0)

    assert (reading.value, reading.fault) == (None, "implausible")
    assert "does not move" in reading.detail


def test_a_switched_off_graphics_unit_draws_nothing_once_it_was_seen_alive(tmp_path):
    build_sysfs(tmp_path, rapl("intel-rapl:0:1", "uncore", 0))
    sensor = RaplPower("gpu", "uncore", SysfsReader(tmp_path))
    sensor.read(0.0)
    assert sensor.read(1.0).fault == "implausible"

    build_sysfs(tmp_path, rapl("intel-rapl:0:1", "uncore", 1_000_000))
    assert sensor.read(2.0).value == pytest.approx(1.0)
    assert sensor.read(3.0).value == 0.0


def test_a_counter_that_was_reset_is_implausible_and_then_goes_on(tmp_path):
    build_sysfs(tmp_path, rapl("intel-rapl:0", "package-0", 200_000_000_000))
    sensor = RaplPower("package", "package-0", SysfsReader(tmp_path))
    sensor.read(0.0)

    build_sysfs(tmp_path, rapl("intel-rapl:0", "package-0", 5))
    assert sensor.read(1.0).fault == "implausible"
    build_sysfs(tmp_path, rapl("intel-rapl:0", "package-0", 3_000_005))
    assert sensor.read(2.0).value == pytest.approx(3.0)


def test_two_looks_within_milliseconds_give_one_answer(tmp_path):
    build_sysfs(tmp_path, rapl("intel-rapl:0", "package-0", 0))
    sensor = RaplPower("package", "package-0", SysfsReader(tmp_path))
    sensor.read(0.0)
    build_sysfs(tmp_path, rapl("intel-rapl:0", "package-0", 1_000_000))
    reading = sensor.read(0.5)

    assert sensor.read(0.501) is reading


class DenyingReader(SysfsReader):
    """Root may read everything, so denial is played: counters answer as they do for an ordinary user."""

    def read_int(self, path):
        if path.endswith("energy_uj"):
            return Missing("denied", str(self.root / path), "permission denied")
        return super().read_int(path)


def test_denied_rapl_is_a_fault_with_its_mend(tmp_path):
    build_sysfs(tmp_path, X86)

    reading = RaplPower("package", "package-0", DenyingReader(tmp_path)).read(0.0)

    assert (reading.value, reading.fault) == (None, "read_failed")
    assert "tmpfiles.d" in reading.detail


def test_absent_rapl_says_absent_and_is_found_when_the_module_is_loaded(tmp_path):
    sensor = RaplEnergy("package", "package-0", SysfsReader(tmp_path))
    assert sensor.read(0.0).fault == "absent"

    build_sysfs(tmp_path, X86)

    assert sensor.read(1.0).value == 0.0


# ---------------------------------------------------------------------------------------------- battery


def test_charge_is_a_share_and_the_mouse_is_not_ours(tmp_path):
    build_sysfs(tmp_path, LAPTOP)
    reader = SysfsReader(tmp_path)

    assert find_batteries(reader) == ("BAT0",)
    assert BatteryCharge("charge", "*", reader).read(0.0).value == pytest.approx(0.8)


def test_draw_is_known_while_discharging_only(tmp_path):
    build_sysfs(tmp_path, LAPTOP)
    sensor = BatteryPower("board", "BAT0", SysfsReader(tmp_path))
    assert sensor.read(0.0).value == pytest.approx(12.5)

    build_sysfs(tmp_path, {"sys/class/power_supply/BAT0/status": "Charging"})

    reading = sensor.read(1.0)
    assert (reading.value, reading.fault) == (None, "absent")
    assert "charging" in reading.detail


def test_current_times_voltage_serves_where_power_is_not_shown_whatever_its_sign(tmp_path):
    build_sysfs(tmp_path, LAPTOP)
    folder = "sys/class/power_supply/BAT0"
    (tmp_path / folder / "power_now").unlink()
    build_sysfs(tmp_path, {f"{folder}/current_now": -1_000_000, f"{folder}/voltage_now": 11_400_000})

    assert BatteryPower("board", "BAT*", SysfsReader(tmp_path)).read(0.0).value == pytest.approx(11.4)


def test_a_battery_without_the_files_or_no_battery_is_a_fault(tmp_path):
    build_sysfs(tmp_path, {"sys/class/power_supply/BAT0/type": "Battery"})
    reader = SysfsReader(tmp_path)

    assert BatteryPower("b", "BAT0", reader).read(0.0).fault == "absent"
    assert BatteryCharge("b", "BAT0", reader).read(0.0).fault == "absent"
    assert BatteryPower("b", "BAT1", reader).read(0.0).fault == "absent"
    assert BatteryCharge("b", "BAT1", reader).read(0.0).fault == "absent"
    build_sysfs(tmp_path, {"sys/class/power_supply/BAT0/status": "Discharging"})
    assert BatteryPower("b", "BAT0", reader).read(0.0).fault == "absent"
