"""Host: what the board's processor, memory and name are, from /proc and /sys alone."""

from __future__ import annotations

import os
import re

from agent.records import record
from agent.sensors.memory import meminfo, read_memory
from agent.sensors.sysfs import Missing, SysfsReader

CPU_FOLDER = "sys/devices/system/cpu"
_MODEL_KEYS = ("model name", "Model", "Hardware", "cpu model")
"""x86 has the first; ARM kernels name the board at the end of the file, if anything."""
MAX_CPUINFO_BYTES = 1 << 20
_UNLIMITED_BYTES = 1 << 60
"""Cgroup v1 writes a huge page-aligned number where there is no limit."""


@record(frozen=True)
class Cluster:
    """Cores of one kind."""

    cores: tuple[int, ...]
    max_frequency_hz: float | None


@record(frozen=True)
class HostFacts:
    """One machine. None: the kernel does not say."""

    machine: str
    device_tree_model: str | None
    dmi_product: str | None
    cpu_model: str | None
    cpu_features: frozenset[str]
    hypervisor: bool
    logical_cpus: int
    physical_cores: int
    clusters: tuple[Cluster, ...]
    memory_bytes: int | None
    """What this process may use: the machine's memory, or less where a control group limits it."""
    swap_bytes: int | None
    cache_bytes: int | None
    """Caches that one core can fill: its own, and its part of the shared last level."""


def read_host(reader: SysfsReader, machine: str | None = None) -> HostFacts:
    """Everything at once. `machine` is `uname -m` of the board (default: of this one)."""
    cpuinfo = _text(reader, "proc/cpuinfo", MAX_CPUINFO_BYTES) or ""
    cpus = online_cpus(reader)
    features = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    words = frozenset(features.group(1).split()) if features else frozenset()
    logical = len(cpus) or len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE)) or 1
    memory = meminfo(reader)
    limit = _memory_limit(reader)
    total = memory.get("MemTotal")
    device_tree = _text(reader, "proc/device-tree/model") or _text(reader, "sys/firmware/devicetree/base/model")
    return HostFacts(
        machine=machine or os.uname().machine,
        device_tree_model=device_tree,
        dmi_product=_text(reader, "sys/class/dmi/id/product_name"),
        cpu_model=_model(cpuinfo),
        cpu_features=words,
        hypervisor="hypervisor" in words,
        logical_cpus=logical,
        physical_cores=_physical(reader, cpus) or logical,
        clusters=_clusters(reader, cpus),
        memory_bytes=min((n for n in (total, limit) if n is not None), default=None),
        swap_bytes=memory.get("SwapTotal"),
        cache_bytes=_cache(reader, cpus),
    )


def online_cpus(reader: SysfsReader) -> tuple[int, ...]:
    """Numbers of the CPUs that run, from the kernel's list format (`0-3,6`)."""
    return parse_list(_text(reader, f"{CPU_FOLDER}/online") or "")


def parse_list(text: str) -> tuple[int, ...]:
    """`0-3,6` → (0, 1, 2, 3, 6); empty for anything else."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part.strip())
        if match is None:
            return ()
        numbers += range(int(match.group(1)), int(match.group(2) or match.group(1)) + 1)
    return tuple(numbers)


def _text(reader: SysfsReader, path: str, max_bytes: int = 4096) -> str | None:
    text = reader.read_text(path, max_bytes)
    return None if isinstance(text, Missing) or not text else text


def _model(cpuinfo: str) -> str | None:
    for key in _MODEL_KEYS:
        match = re.search(rf"^{key}\s*:\s*(\S.*?)\s*$", cpuinfo, re.MULTILINE)
        if match:
            return match.group(1)
    return None


def _physical(reader: SysfsReader, cpus: tuple[int, ...]) -> int:
    siblings = {_text(reader, f"{CPU_FOLDER}/cpu{n}/topology/thread_siblings_list") for n in cpus}
    return 0 if None in siblings else len(siblings)


def _clusters(reader: SysfsReader, cpus: tuple[int, ...]) -> tuple[Cluster, ...]:
    kinds: dict[float | None, list[int]] = {}
    for n in cpus:
        khz = reader.read_int(f"{CPU_FOLDER}/cpu{n}/cpufreq/cpuinfo_max_freq")
        kinds.setdefault(None if isinstance(khz, Missing) else khz * 1000.0, []).append(n)
    return tuple(Cluster(tuple(cores), hz) for hz, cores in kinds.items())


MAX_SHARED_CACHE_BYTES_PER_CPU = 8 * 1024**2
"""A virtual machine sees the whole last-level cache of a server; what it may keep there is about its cores' part."""


def _cache(reader: SysfsReader, cpus: tuple[int, ...]) -> int | None:
    """Largest cache of the first CPU, shared ones counted up to a part per CPU; None where sysfs does not tell."""
    if not cpus:
        return None
    sizes = []
    for index in range(8):
        text = _text(reader, f"{CPU_FOLDER}/cpu{cpus[0]}/cache/index{index}/size")
        match = re.fullmatch(r"(\d+)([KM])", text or "")
        if match:
            size = int(match.group(1)) * (1024 if match.group(2) == "K" else 1024**2)
            sizes.append(min(size, MAX_SHARED_CACHE_BYTES_PER_CPU * len(cpus)))
    return max(sizes, default=None)


def available_bytes(reader: SysfsReader) -> int | None:
    """Memory that this process can get without swapping, now, within the bounds of its control group."""
    free = read_memory(reader).available_bytes
    return None if free is None else int(free)


def _memory_limit(reader: SysfsReader) -> int | None:
    for path in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = reader.read_int(path)
        if not isinstance(limit, Missing) and 0 < limit < _UNLIMITED_BYTES:
            return limit
    return None
