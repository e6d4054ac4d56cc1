import pytest

from agent.sensors.cpufreq import CpuClockShare
from agent.sensors.host import available_bytes, parse_list, read_host
from agent.sensors.sysfs import SysfsReader
from tests.fakes_sysfs import JETSON_ORIN_NANO, RASPBERRY_PI_5, VIRTUAL_MACHINE, X86, build_sysfs, cpus


def test_a_board_says_its_name_cores_and_memory(tmp_path):
    host = read_host(SysfsReader(build_sysfs(tmp_path, RASPBERRY_PI_5)), "aarch64")

    assert host.device_tree_model == "Raspberry Pi 5 Model B Rev 1.0"
    assert (host.machine, host.physical_cores, host.logical_cpus) == ("aarch64", 4, 4)
    assert host.memory_bytes == 8_256_000 * 1024
    assert host.clusters[0].max_frequency_hz == 2.4e9
    assert not host.hypervisor


def test_hyper_threads_are_not_cores(tmp_path):
    host = read_host(SysfsReader(build_sysfs(tmp_path, X86)), "x86_64")

    assert (host.physical_cores, host.logical_cpus) == (4, 8)
    assert (host.cpu_model, host.dmi_product) == ("Some x86 CPU @ 2 GHz", "NUC")
    assert "avx2" in host.cpu_features


def test_big_and_little_cores_are_told_apart(tmp_path):
    build_sysfs(tmp_path, cpus(4, max_khz=(1_800_000, 1_800_000, 2_400_000, 2_400_000)))

    clusters = read_host(SysfsReader(tmp_path), "aarch64").clusters

    assert [(c.cores, c.max_frequency_hz) for c in clusters] == [((0, 1), 1.8e9), ((2, 3), 2.4e9)]


def test_a_virtual_machine_is_recognised(tmp_path):
    assert read_host(SysfsReader(build_sysfs(tmp_path, VIRTUAL_MACHINE)), "x86_64").hypervisor


@pytest.mark.parametrize(("limit", "seen"), [("1000000000", 1_000_000_000), ("max", 7_802_000 * 1024)])
def test_the_control_group_s_limit_counts_where_there_is_one(tmp_path, limit, seen):
    build_sysfs(tmp_path, JETSON_ORIN_NANO, {"sys/fs/cgroup/memory.max": limit})

    assert read_host(SysfsReader(tmp_path), "aarch64").memory_bytes == seen


def test_the_huge_number_of_old_control_groups_is_no_limit(tmp_path):
    build_sysfs(tmp_path, JETSON_ORIN_NANO, {"sys/fs/cgroup/memory/memory.limit_in_bytes": 9_223_372_036_854_771_712})

    assert read_host(SysfsReader(tmp_path), "aarch64").memory_bytes == 7_802_000 * 1024


def test_an_empty_tree_gives_unknowns_and_one_cpu(tmp_path):
    host = read_host(SysfsReader(tmp_path))

    assert host.machine
    assert (host.cpu_model, host.memory_bytes, host.logical_cpus, host.physical_cores) == (None, None, 1, 1)
    assert available_bytes(SysfsReader(tmp_path)) is None


@pytest.mark.parametrize(
    ("text", "numbers"), [("0-3,6", (0, 1, 2, 3, 6)), ("0", (0,)), ("", ()), ("none", ()), ("1-,2", ())]
)
def test_the_kernel_s_list_format(text, numbers):
    assert parse_list(text) == numbers


def test_the_clock_is_a_share_of_its_maximum(tmp_path):
    build_sysfs(tmp_path, RASPBERRY_PI_5)
    sensor = CpuClockShare("clock", SysfsReader(tmp_path))
    assert sensor.read(0.0).value == pytest.approx(0.625)

    build_sysfs(tmp_path, {"sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "?"})

    assert sensor.read(0.0).fault == "implausible"
    assert CpuClockShare("clock", SysfsReader(tmp_path / "nothing")).read(0.0).fault == "absent"
