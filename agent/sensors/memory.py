"""Memory: what the kernel says is left of it for this process, how much all wait for it, and what hardware reports.

A control group bounds a service or container more tightly than the board does; all groups above the process count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from agent.control.board_memory import MemoryReading
from agent.records import record
from agent.sensors.sysfs import Missing, SysfsReader

_UNLIMITED_BYTES = 1 << 60
_MAX_BYTES = 1 << 16
MAX_DEVICES = 64
"""Devices of a kind that are asked."""


def read_memory(reader: SysfsReader) -> MemoryReading:
    """Everything at once; what the kernel does not tell is None."""
    board = meminfo(reader)
    available, total = board.get("MemAvailable"), board.get("MemTotal")
    left: float | None = available
    bound = "the board"
    for group, limit, used in _groups(reader):
        room = float(max(0, limit - used))
        if left is None or room < left:
            left, bound, total = room, f"control group {group}", limit
    pressure = _text(reader, "proc/pressure/memory")
    stalled = re.search(r"^full avg10=([0-9.]+)", pressure, re.MULTILINE)
    kills = re.search(r"^oom_kill (\d+)$", _text(reader, "proc/vmstat"), re.MULTILINE)
    return MemoryReading(
        left, total, bound, float(stalled.group(1)) / 100.0 if stalled else None, int(kills.group(1)) if kills else None
    )


def meminfo(reader: SysfsReader) -> dict[str, int]:
    """Bytes by name, of /proc/meminfo."""
    rows = re.findall(r"^\s*(\w+):\s+(\d+) kB\s*$", _text(reader, "proc/meminfo"), re.MULTILINE)
    return {name: int(kilobytes) * 1024 for name, kilobytes in rows}


def _groups(reader: SysfsReader) -> Iterator[tuple[str, int, int]]:
    """(name, limit, bytes in use that cannot be dropped) of every bounded control group above this process."""
    for line in _text(reader, "proc/self/cgroup").splitlines():
        _, kinds, path = (*line.split(":", 2), "", "")[:3]
        if kinds == "":
            root, names = "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in kinds.split(","):
            root, names = "sys/fs/cgroup/memory", (
                "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
            )  # fmt: skip
        else:
            continue
        parts = [p for p in path.split("/") if p and p != ".."]
        for depth in range(len(parts), -1, -1):
            folder = "/".join([root, *parts[:depth]])
            limit = reader.read_int(f"{folder}/{names[0]}")
            if isinstance(limit, Missing) or not 0 < limit < _UNLIMITED_BYTES:
                continue
            used = reader.read_int(f"{folder}/{names[1]}")
            if isinstance(used, Missing):
                continue
            stat = _text(reader, f"{folder}/memory.stat")
            found = re.search(rf"^{names[2]} (\d+)$", stat, re.MULTILINE)
            yield "/" + "/".join(parts[:depth]), limit, max(0, used - (int(found.group(1)) if found else 0))


@record(frozen=True)
class HardwareErrors:
    """Counts since the start of the board, by what counts them; only what this board has."""

    corrected: dict[str, int]
    fatal: dict[str, int]


def read_errors(reader: SysfsReader) -> HardwareErrors:
    """ECC of memory controllers (EDAC) and of PCI Express devices (AER)."""
    corrected: dict[str, int] = {}
    fatal: dict[str, int] = {}
    for name in reader.list_dir("sys/devices/system/edac/mc")[:MAX_DEVICES]:
        folder = f"sys/devices/system/edac/mc/{name}"
        for file, counts in (("ce_count", corrected), ("ue_count", fatal)):
            count = reader.read_int(f"{folder}/{file}")
            if not isinstance(count, Missing):
                counts[f"memory controller {name}"] = count
    for name in reader.list_dir("sys/bus/pci/devices")[:MAX_DEVICES]:
        folder = f"sys/bus/pci/devices/{name}"
        for file, counts in (("aer_dev_correctable", corrected), ("aer_dev_fatal", fatal)):
            total = re.search(r"^TOTAL_ERR_\w+ (\d+)$", _text(reader, f"{folder}/{file}"), re.MULTILINE)
            if total:
                counts[f"PCI device {name}"] = int(total.group(1))
    return HardwareErrors(corrected, fatal)


def _text(reader: SysfsReader, path: str) -> str:
    text = reader.read_text(path, _MAX_BYTES)
    return "" if isinstance(text, Missing) else text
