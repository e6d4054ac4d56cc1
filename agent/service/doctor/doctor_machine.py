"""Doctor's look at the machine: interpreter, clock, memory, runtimes, device nodes, sensors."""

from __future__ import annotations

import grp
import os
from collections.abc import Sequence
from pathlib import Path

from agent import extras
from agent.backends.probe import RuntimeInventory
from agent.runtimes import registry
from agent.runtimes.entry import Backend
from agent.sensors.host import available_bytes
from agent.sensors.rapl import MEND as RAPL_MEND
from agent.sensors.rapl import find_domains
from agent.sensors.sysfs import Missing, SysfsReader
from agent.service.check_result import CheckResult, fail, ok, warn
from agent.service.detection import Detected
from agent.service.found_sensors import SensorFinding

MIN_PYTHON = (3, 10)
MIN_WALL_S = 1_735_689_600.0
"""2025-01-01: before it, the clock was never set (boards without a battery start in 1970 or at their image's date)."""
MAX_WALL_S = 4_102_444_800.0
"""2100-01-01."""
DAY_S = 86_400.0
WITNESSES = (
    "usr/lib/clock-epoch", "var/lib/systemd/timesync/clock", "var/lib/dpkg/status", "etc/qeil/agent.yaml",
    "var/lib/qeil/outbox.db",
)  # fmt: skip
"""Files that some hand or program wrote when it was later than a clock that was set back shows."""
LOW_MEMORY_BYTES = 512 * 2**20
MIN_MEMORY_BYTES = 128 * 2**20
SHARED_IMPORT = frozenset({
    "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-qnn",
    "onnxruntime-rocm", "onnxruntime-migraphx", "onnxruntime-training", "onnxruntime-vitisai", "onnxruntime-cann",
})  # fmt: skip
"""Distributions that install into the same folder `onnxruntime`, so that the last one wins silently."""
UNUSED_COUNTER = ("the kernel's power counter", "the power sensor")
"""How detection's notes begin on a counter that is there and not used: both commands tell the same."""
NODES = (
    ("dev/dri", "renderD"), ("dev/accel", "accel"), ("dev", "nvidia0"), ("dev", "nvhost-gpu"), ("dev", "apex_"),
    ("dev", "hailo"), ("dev", "galcore"), ("dev", "kfd"), ("dev", "mali"),
)  # fmt: skip
"""(folder, how the name begins) of device nodes through which accelerators are used."""


def python_version(version: tuple[int, int]) -> CheckResult:
    """The interpreter is new enough."""
    shown = ".".join(str(part) for part in version)
    if version < MIN_PYTHON:
        return fail(
            "python", f"Python {shown} is too old", "install Python 3.10 or newer and make the environment again"
        )
    return ok("python", f"Python {shown}")


def clock(wall_s: float, root: Path) -> CheckResult:
    """The clock was set, and something keeps it right: certificates and telemetry need it."""
    if wall_s < MIN_WALL_S:
        return fail("clock", "the clock was never set (before 2025)", "sudo timedatectl set-ntp true, and wait for it")
    later_s, witness = _newest(root)
    if later_s - wall_s > DAY_S:
        behind = f"the clock is at least {(later_s - wall_s) / DAY_S:.0f} days behind: {witness} is from later"
        return fail("clock", behind, "sudo timedatectl set-ntp true, and wait for it")
    if wall_s > MAX_WALL_S:
        return fail("clock", "the clock is far in the future (after 2100)", "sudo timedatectl set-ntp true")
    if (root / "run/systemd/timesync/synchronized").exists() or (root / "run/chrony").is_dir():
        return ok("clock", "set, and kept by a time service")
    return warn("clock", "set, but nothing shows that it is synchronised", "sudo timedatectl set-ntp true")


def _newest(root: Path) -> tuple[float, str]:
    """The latest time that something here has seen, and what: a clock that is before it goes wrong."""
    names = (*WITNESSES, str(Path(__file__).absolute())[1:])
    return max((_modified_s(root / name), f"/{name}") for name in names)


def _modified_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def memory(root: Path) -> CheckResult:
    """Enough is free for the agent and a small model."""
    available = available_bytes(SysfsReader(root))
    if available is None:
        return warn("memory", "the kernel does not say how much memory is available", "mount /proc")
    shown = f"{available / 2**30:.1f} GiB available"
    if available < MIN_MEMORY_BYTES:
        return fail("memory", shown + ", too little to load a model", "stop other programs")
    if available < LOW_MEMORY_BYTES:
        return warn("memory", shown + ": only small models fit", "stop other programs, or serve fewer models")
    return ok("memory", shown)


def runtimes(inventory: RuntimeInventory) -> list[CheckResult]:
    """Something can run models."""
    known = registry.backends()
    if not any(inventory.version(backend.name) for backend in known):
        why = f" ({inventory.notes[0]})" if inventory.notes else ""
        return [fail("runtimes", f"no runtime is usable{why}", install(",".join(b.extra for b in known if b.extra)))]
    results = []
    for backend in known:
        check, version = backend.title.lower().replace(" ", ""), inventory.version(backend.name)
        if version is None:
            results.append(warn(check, f"not usable: {backend.endings} models cannot run", remedy(backend)))
        else:
            results.append(ok(check, version))
    results += [warn("backends", wrong, "mend the file, or remove it") for wrong in registry.problems()]
    results += [
        warn("plugins", note, "reinstall or remove the package") for note in inventory.notes if "plugin" in note
    ]
    return results


def remedy(backend: Backend) -> str:
    """What brings a backend's runtime."""
    return f"install what {backend.title} needs" if backend.extra is None else install(backend.extra)


def install(extra: str, program: Path | None = None) -> str:
    """The command that installs a runtime beside this program; a packaged one is a service that looks again."""
    command = extras.command(extra, program)
    return f"{command} && sudo systemctl restart qeil" if command.startswith("sudo") else command


def runtime_conflict(distributions: frozenset[str]) -> CheckResult:
    """Only one build of ONNX Runtime is installed: two share one import folder, and pip does not notice."""
    both = sorted(distributions & SHARED_IMPORT)
    if len(both) > 1:
        message = f"{' and '.join(both)} overwrite each other's files: which one runs is chance"
        return fail("onnxruntime builds", message, f"pip uninstall -y {' '.join(both)}, then install the one you want")
    return ok("onnxruntime builds", "one" if both else "none installed by pip")


def device_nodes(root: Path) -> CheckResult:
    """This user may open the accelerators' device nodes."""
    found = nodes(root)
    closed = [node for node in found if not os.access(node, os.R_OK | os.W_OK)]
    if closed:
        groups = sorted({group_of(node) for node in closed})
        mend = f"sudo usermod -aG {','.join(groups)} $USER, then log in again"
        return warn("device nodes", f"no permission for {', '.join(str(n) for n in closed)}", mend)
    if not found:
        return ok("device nodes", "none: this machine shows no accelerator but the CPU")
    return ok("device nodes", f"{', '.join(node.name for node in found)} open to this user")


def nodes(root: Path) -> list[Path]:
    """Device nodes of accelerators that are here."""
    return [
        root / folder / name
        for folder, prefix in NODES
        for name in _names(root / folder)
        if name.startswith(prefix)
    ]  # fmt: skip


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []


def group_of(node: Path) -> str:
    """The group that owns a device node, as `usermod -aG` takes it."""
    try:
        return grp.getgrgid(node.stat().st_gid).gr_name
    except (KeyError, OSError):
        return "render"


def sensors(survey: Sequence[SensorFinding]) -> list[CheckResult]:
    """What is measured here, and what each missing sensor costs."""
    results = []
    for kind, check, cost, mend in (
        ("zone", "temperature", "heat is not watched", "set no_thermal_sensor in the policy as you want it"),
        ("rail", "power", "joules will be modelled", "nothing to do, or connect a power sensor and declare its rail"),
    ):
        found = [f for f in survey if f.what == kind]
        good = [f for f in found if f.value is not None]
        if good:
            results.append(ok(check, ", ".join(f"{f.name} {f.value:.1f} {f.unit}" for f in good)))
        for lost in (f for f in found if f.value is None):
            make = fail if lost.critical else warn
            results.append(make(check, f"{lost.name}: {lost.detail}; {lost.consequence}", _mend(lost.detail)))
        if not found:
            results.append(warn(check, f"no sensor: {cost}", mend))
    return results


def _mend(detail: str) -> str:
    if "permission denied" in detail:
        return detail.partition("; ")[2] or RAPL_MEND
    return "check the driver (dmesg), or correct the device profile's zones and rails"


def energy_counter(root: Path, detected: Detected | None = None) -> CheckResult:
    """The package's energy counter can be read without root, and detection uses it."""
    reader = SysfsReader(root)
    domains = find_domains(reader)
    unused = [note for note in detected.notes if note.startswith(UNUSED_COUNTER)] if detected is not None else []
    if unused:
        return warn("energy counter", unused[0], "nothing to do, or connect a power sensor and declare its rail")
    if not domains:
        return ok("energy counter", "no RAPL here")
    denied = [d.name for d in domains if _denied(reader.read_int(f"{d.folder}/energy_uj"))]
    if denied:
        return warn("energy counter", f"no permission for {', '.join(denied)}: joules will be modelled", RAPL_MEND)
    return ok("energy counter", ", ".join(d.name for d in domains))


def _denied(result: int | Missing) -> bool:
    return isinstance(result, Missing) and result.cause == "denied"
