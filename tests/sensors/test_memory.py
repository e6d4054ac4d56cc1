"""Memory as the kernel tells it: the tightest bound counts, and what it does not tell is unknown."""

from __future__ import annotations

import pytest

from agent.sensors.host import available_bytes
from agent.sensors.memory import read_errors, read_memory
from agent.sensors.sysfs import SysfsReader
from tests.fakes_sysfs import build_sysfs

BOARD = {"proc/meminfo": "MemTotal:    8000 kB\nMemFree: 1 kB\nMemAvailable:    5000 kB"}
SERVICE = "sys/fs/cgroup/system.slice/qeil.service"
GROUP = {
    "proc/self/cgroup": "0::/system.slice/qeil.service",
    f"{SERVICE}/memory.max": 4_000_000, f"{SERVICE}/memory.current": 3_000_000,
    f"{SERVICE}/memory.stat": "anon 1\ninactive_file 500000\nactive_file 7",
}  # fmt: skip


def test_the_board_is_the_bound_where_no_group_is(tmp_path):
    reading = read_memory(SysfsReader(build_sysfs(tmp_path, BOARD)))
    assert (reading.available_bytes, reading.total_bytes) == (5000 * 1024, 8000 * 1024)
    assert (reading.bound, reading.stalled_share, reading.oom_kills) == ("the board", None, None)


def test_a_group_bounds_more_tightly_and_what_it_can_drop_is_free(tmp_path):
    reader = SysfsReader(build_sysfs(tmp_path, BOARD, GROUP))
    reading = read_memory(reader)
    assert (reading.available_bytes, reading.total_bytes) == (1_500_000, 4_000_000)
    assert reading.bound == "control group /system.slice/qeil.service"
    assert available_bytes(reader) == 1_500_000


def test_a_group_above_counts_as_well(tmp_path):
    above = {"sys/fs/cgroup/system.slice/memory.max": 900_000, "sys/fs/cgroup/system.slice/memory.current": 800_000}
    reading = read_memory(SysfsReader(build_sysfs(tmp_path, BOARD, GROUP, above)))
    assert (reading.available_bytes, reading.bound) == (100_000, "control group /system.slice")


@pytest.mark.parametrize("limit", ["max", 1 << 62, 0, "garbage"])
def test_a_group_without_a_bound_is_none(tmp_path, limit):
    reading = read_memory(SysfsReader(build_sysfs(tmp_path, BOARD, GROUP, {f"{SERVICE}/memory.max": limit})))
    assert reading.bound == "the board"


def test_a_group_over_its_bound_leaves_nothing(tmp_path):
    reading = read_memory(SysfsReader(build_sysfs(tmp_path, BOARD, GROUP, {f"{SERVICE}/memory.current": 9_000_000})))
    assert reading.available_bytes == 0


def test_the_older_groups_are_read_too(tmp_path):
    older = "sys/fs/cgroup/memory"
    files = {
        "proc/self/cgroup": "4:cpu,cpuacct:/a\n3:memory:/a", f"{older}/a/memory.limit_in_bytes": 1000,
        f"{older}/a/memory.usage_in_bytes": 900, f"{older}/a/memory.stat": "total_inactive_file 300",
        f"{older}/memory.limit_in_bytes": 9223372036854771712, f"{older}/memory.usage_in_bytes": 5,
    }  # fmt: skip
    reading = read_memory(SysfsReader(build_sysfs(tmp_path, BOARD, files)))
    assert (reading.available_bytes, reading.bound) == (400, "control group /a")


def test_stalls_and_kills_are_read(tmp_path):
    files = {
        "proc/pressure/memory": "some avg10=31.50 avg60=1.00\nfull avg10=12.25 avg60=0.00 avg300=0.00 total=7",
        "proc/vmstat": "nr_free_pages 7\noom_kill 3\noom_kill_x 9",
    }
    reading = read_memory(SysfsReader(build_sysfs(tmp_path, BOARD, files)))
    assert (reading.stalled_share, reading.oom_kills) == (0.1225, 3)


def test_a_kernel_that_says_nothing_is_unknown(tmp_path):
    reading = read_memory(SysfsReader(tmp_path))
    assert (reading.available_bytes, reading.total_bytes, reading.stalled_share) == (None, None, None)
    assert available_bytes(SysfsReader(tmp_path)) is None


def test_errors_are_counted_by_what_counts_them(tmp_path):
    controller, device = "sys/devices/system/edac/mc", "sys/bus/pci/devices/0000:01:00.0"
    files = {
        f"{controller}/mc0/ce_count": 4, f"{controller}/mc0/ue_count": 1, f"{controller}/power/state": "on",
        f"{device}/aer_dev_correctable": "RxErr 2\nTOTAL_ERR_COR 2",
        f"{device}/aer_dev_fatal": "TLP 1\nTOTAL_ERR_FATAL 1", "sys/bus/pci/devices/0000:02:00.0/vendor": "0x1",
    }  # fmt: skip
    errors = read_errors(SysfsReader(build_sysfs(tmp_path, files)))
    assert errors.corrected == {"memory controller mc0": 4, "PCI device 0000:01:00.0": 2}
    assert errors.fatal == {"memory controller mc0": 1, "PCI device 0000:01:00.0": 1}
    assert read_errors(SysfsReader(tmp_path / "none")).fatal == {}
