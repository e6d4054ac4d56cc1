"""Detection: a device profile for this machine – a shipped one that matches, adapted to what is really here.

Nothing is assumed present: an accelerator without a runtime on this machine is dropped, with a note that says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from agent.backends.lacking import missing_runtime
from agent.backends.probe import RuntimeInventory
from agent.errors import ConfigError
from agent.records import record
from agent.runtimes import registry
from agent.schema.base import Quantity
from agent.schema.device import Accelerator, DeviceProfile, MemoryDomain, Runtime
from agent.schema.workload import Precision
from agent.sensors.host import HostFacts, read_host
from agent.sensors.nvml import Nvml, NvmlFault, open_nvml
from agent.sensors.sysfs import SysfsReader
from agent.service.found_sensors import SensorFinding, rails_of, survey, zones_of
from agent.storage import share, yaml_files

GENERIC = {"x86_64": "generic-x86", "aarch64": "generic-arm64"}
"""`uname -m` → the profile to start from where no board matches."""
MAX_RESERVED_SHARE = 0.25
"""Of the memory found: a profile's reserve is made for its own board and would take too much of a small machine."""


@record(frozen=True)
class Detected:
    """This machine as a profile, and how it came about."""

    profile: DeviceProfile
    matched: str
    """Name of the shipped profile it was made from."""
    generic: bool
    """Whether no board matched."""
    host: HostFacts
    sensors: tuple[SensorFinding, ...]
    notes: tuple[str, ...]


def detect(
    root: Path,
    inventory: RuntimeInventory,
    profiles: Mapping[str, DeviceProfile] | None = None,
    machine: str | None = None,
    make_nvml: Callable[[], Nvml | None] = open_nvml,
    pause: Callable[[float], None] = time.sleep,
) -> Detected:
    """Look at the machine below `root`.

    Args:
        root: `/`, or a tree with `proc` and `sys` of another machine.
        inventory: the runtimes that are really here.
        profiles: what to match, by name; default: the owner's and the shipped ones, without those that are wrong.
        machine: `uname -m`; default: this machine's.
        make_nvml: opens the NVIDIA driver's library; asked only where the driver is loaded.
        pause: waits between the two looks that an energy counter needs.

    Raises ConfigError where not even a generic profile fits.
    """
    notes: list[str] = []
    if profiles is None:
        profiles = load_profiles(notes)
    reader = SysfsReader(root)
    host = read_host(reader, machine)
    name = match(profiles, host)
    generic = name is None or name in GENERIC.values()
    profile = profiles[name] if name is not None else _generic(profiles, host)
    profile = _with_memory(profile, host, notes)
    if generic:
        profile = _with_added(_with_cores(profile, host), inventory)
    profile = with_runtimes(profile, inventory, root, notes)
    profile = _with_sensors(profile, reader, notes, generic=generic)
    gpus = _loaded_nvml(reader, make_nvml)
    findings = survey(profile, reader, lambda: gpus, pause)
    profile, findings = _without_dead_rails(profile, findings, notes)
    notes += _strangers(profile, inventory, gpus)
    notes += _sensor_notes(profile, findings, reader)
    notes += inventory.notes
    return Detected(profile, profile.name, generic, host, findings, tuple(notes))


def match(profiles: Mapping[str, DeviceProfile], host: HostFacts) -> str | None:
    """The profile whose given patterns all match; the one with most patterns (then by name) where several do."""
    facts = {
        "machine": host.machine, "device_tree_model": host.device_tree_model, "cpu_model": host.cpu_model,
        "dmi_product": host.dmi_product,
    }  # fmt: skip
    fitting: list[tuple[int, int, str]] = []
    for name, profile in profiles.items():
        patterns = profile.match.model_dump(exclude_none=True)
        if patterns and all(fnmatchcase(facts[key] or "", pattern) for key, pattern in patterns.items()):
            fitting.append((-len(patterns), -sum(len(p) for p in patterns.values()), name))
    return min(fitting)[2] if fitting else None


def load_profiles(notes: list[str], places: Sequence[Path] | None = None) -> dict[str, DeviceProfile]:
    """Every device profile by name; one with mistakes is left out with a note instead of ending detection."""
    profiles: dict[str, DeviceProfile] = {}
    for name, path in share.list_profiles(places).items():
        profile = _load_or_note(name, path, notes)
        if profile is not None:
            profiles[name] = profile
    return profiles


def _load_or_note(name: str, path: Path, notes: list[str]) -> DeviceProfile | None:
    try:
        return yaml_files.load_profile(path)
    except ConfigError as error:
        notes.append(f"the device profile {name} is wrong and was left out: {error.message}")
        return None


def _generic(profiles: Mapping[str, DeviceProfile], host: HostFacts) -> DeviceProfile:
    name = GENERIC.get(host.machine)
    if name is None or name not in profiles:
        raise ConfigError(
            f"no device profile fits this machine ({host.machine}); "
            "write one and name it in the settings (profile: PATH)"
        )
    return profiles[name]


# ---------------------------------------------------------------------------------------------- memory, cores


def _with_memory(profile: DeviceProfile, host: HostFacts, notes: list[str]) -> DeviceProfile:
    cpu = next((a for a in profile.accelerators if a.kind == "cpu"), profile.accelerators[0])
    if host.memory_bytes is None:
        notes.append(f"the kernel does not say how much memory there is; {profile.name}'s figure stays")
        return profile
    domains = tuple(
        _sized(domain, host.memory_bytes) if domain.name == cpu.memory_domain else domain
        for domain in profile.memory_domains
    )
    return profile.model_copy(update={"memory_domains": domains})


def _sized(domain: MemoryDomain, memory_bytes: int) -> MemoryDomain:
    capacity = Quantity(
        value=float(memory_bytes),
        provenance="measured",
        source="MemTotal of /proc/meminfo or the control group's limit",
    )
    reserved = domain.reserved_bytes
    most_bytes = MAX_RESERVED_SHARE * memory_bytes
    if reserved.value > most_bytes:
        source = f"{MAX_RESERVED_SHARE:.0%} of the memory found"
        reserved = Quantity(value=most_bytes, provenance="assumed", source=source)
    return domain.model_copy(update={"capacity_bytes": capacity, "reserved_bytes": reserved})


def _with_cores(profile: DeviceProfile, host: HostFacts) -> DeviceProfile:
    """Assumed peaks of the whole CPU follow the core count: cores × the peak of the one-thread accelerator."""
    single = next((a for a in profile.accelerators if a.kind == "cpu" and a.threads == 1), None)
    cores = host.physical_cores
    accelerators: list[Accelerator] = []
    for accelerator in profile.accelerators:
        if accelerator.kind != "cpu" or accelerator.threads is not None or single is None:
            accelerators.append(accelerator)
            continue
        peaks = {p: _scaled(p, q, single, cores) for p, q in accelerator.peak_flops_per_s.items()}
        # Hyper-threads share their core's multipliers: one thread per core.
        threads = cores if cores < host.logical_cpus else None
        accelerators.append(accelerator.model_copy(update={"peak_flops_per_s": peaks, "threads": threads}))
    return profile.model_copy(update={"accelerators": tuple(_with_cache(a, host) for a in accelerators)})


def _with_cache(accelerator: Accelerator, host: HostFacts) -> Accelerator:
    """The cache that the kernel reports, where the profile knows none."""
    if accelerator.kind != "cpu" or accelerator.cache_bytes is not None or host.cache_bytes is None:
        return accelerator
    source = "/sys/devices/system/cpu/cpu0/cache, shared levels counted up to 8 MiB per CPU"
    cache = Quantity(value=float(host.cache_bytes), provenance="measured", source=source)
    return accelerator.model_copy(update={"cache_bytes": cache})


def _scaled(precision: Precision, peak: Quantity, single: Accelerator, cores: int) -> Quantity:
    one = single.peak_flops_per_s.get(precision)
    if one is None or peak.provenance != "assumed":
        return peak
    return peak.model_copy(update={"value": one.value * cores, "source": f"{cores} cores × {one.value:g} assumed each"})


# ---------------------------------------------------------------------------------------------- runtimes


def _with_added(profile: DeviceProfile, inventory: RuntimeInventory) -> DeviceProfile:
    """A generic board's CPUs run what was added here, too: nobody wrote a profile that could name it."""
    added = [backend for backend in registry.backends() if backend.name in inventory.others]
    new = tuple(Runtime(backend=backend.name, provider=backend.host_provider) for backend in added)
    accelerators = (
        a.model_copy(update={"runtimes": (*a.runtimes, *new)}) if a.kind == "cpu" else a for a in profile.accelerators
    )
    return profile.model_copy(update={"accelerators": tuple(accelerators)})


def with_runtimes(profile: DeviceProfile, inventory: RuntimeInventory, root: Path, notes: list[str]) -> DeviceProfile:
    """The profile without the runtimes that are not here, and without accelerators that have none left."""
    kept: list[Accelerator] = []
    for accelerator in profile.accelerators:
        lacking = [
            (r, lack) for r in accelerator.runtimes if (lack := missing_runtime(r, accelerator.kind, inventory, root))
        ]
        usable = tuple(r for r in accelerator.runtimes if r not in [lost for lost, _ in lacking])
        why = "; ".join(lack for _, lack in lacking) or "the profile names no runtime for it"
        if usable:
            kept.append(accelerator.model_copy(update={"runtimes": usable}))
            notes += [f"{accelerator.name}: {lack}" for _, lack in lacking]
        else:
            notes.append(f"{accelerator.name} is left out: {why}")
    if not kept:
        cpu = next((a for a in profile.accelerators if a.kind == "cpu"), profile.accelerators[0])
        notes.append(f"no runtime at all: nothing can run yet; {cpu.name} stays so that the profile is complete")
        kept = [cpu]
    names = {a.name for a in kept}
    rails = tuple(
        rail.model_copy(update={"covers": tuple(c for c in rail.covers if c in names)}) for rail in profile.rails
    )
    domains = {d.name for d in profile.memory_domains}
    links = tuple(link for link in profile.links if set(link.between) <= domains | names)
    return profile.model_copy(update={"accelerators": tuple(kept), "rails": rails, "links": links})


# ---------------------------------------------------------------------------------------------- sensors


def _with_sensors(profile: DeviceProfile, reader: SysfsReader, notes: list[str], *, generic: bool) -> DeviceProfile:
    found = zones_of(reader)
    if generic:
        cpus = [a.name for a in profile.accelerators if a.kind == "cpu"]
        return profile.model_copy(update={"zones": found, "rails": rails_of(reader, cpus)})
    nvidia = any(zone.source == "nvml" for zone in profile.zones) and reader.exists("proc/driver/nvidia")
    if profile.zones and not found and not nvidia:
        notes.append(f"{profile.name} declares temperature sensors, but this machine shows none: they are left out")
        return profile.model_copy(update={"zones": ()})
    return profile


def _loaded_nvml(reader: SysfsReader, make_nvml: Callable[[], Nvml | None]) -> Nvml | None:
    return make_nvml() if reader.exists("proc/driver/nvidia") else None


def _without_dead_rails(
    profile: DeviceProfile, findings: Sequence[SensorFinding], notes: list[str]
) -> tuple[DeviceProfile, tuple[SensorFinding, ...]]:
    dead = {f.name: f.detail for f in findings if f.what == "rail" and f.fault == "implausible"}
    notes += [
        f"the power sensor {name} is left out: {detail}; joules will be modelled" for name, detail in dead.items()
    ]
    rails = tuple(rail for rail in profile.rails if rail.name not in dead)
    return profile.model_copy(update={"rails": rails}), tuple(
        f for f in findings if f.what != "rail" or f.name not in dead
    )


def _sensor_notes(profile: DeviceProfile, findings: Sequence[SensorFinding], reader: SysfsReader) -> list[str]:
    notes = [f"{f.what} {f.name}: {f.detail}; {f.consequence}" for f in findings if f.value is None]
    if not profile.zones:
        notes.append("no temperature sensor: heat is not watched; the policy's no_thermal_sensor decides what runs")
    if not profile.rails:
        notes.append("no power sensor: joules will be modelled")
        if reader.exists("sys/bus/event_source/devices/power/events/energy-psys"):
            notes.append("the kernel's power counter energy-psys is not used: in virtual machines it stays at 0 J")
    return notes


def _strangers(profile: DeviceProfile, inventory: RuntimeInventory, nvml: Nvml | None) -> list[str]:
    """Hardware that is here and that the profile does not describe."""
    described = {r.provider for a in profile.accelerators for r in a.runtimes if a.kind != "cpu"}
    notes = [
        f"{device.provider} offers a {device.kind} that {profile.name} does not describe: not used"
        for device in inventory.devices
        if device.kind in {"GPU", "NPU"} and device.provider not in described
    ]
    if nvml is not None and not any(a.kind == "gpu" for a in profile.accelerators):
        for index in range(nvml.count()):
            name = nvml.gpu_name(index)
            shown = f"GPU {index}" if isinstance(name, NvmlFault) else name
            notes.append(f"{shown} is here, but no runtime or profile uses it")
    return notes
