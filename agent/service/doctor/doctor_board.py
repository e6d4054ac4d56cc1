"""Doctor's look at the board in force – detected, or named in the settings – and at what is asked of it."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from time import sleep

from agent.backends.probe import RuntimeInventory
from agent.errors import ConfigError
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.schema.settings import LaneSettings, Settings, SimulatedAccelerator
from agent.sensors.nvml import open_nvml
from agent.sensors.sysfs import SysfsReader
from agent.service.board import make_board
from agent.service.check_result import CheckResult, fail, ok, warn
from agent.service.detection import Detected, with_runtimes
from agent.service.doctor import doctor_guard
from agent.service.found_sensors import SensorFinding, survey
from agent.service.serving import model_store
from agent.storage import share, yaml_files

TELEMETRY_ROW_BYTES = 400
"""Least that a row of telemetry writes: a board without models, packed. What is below that cannot be kept."""
SECONDS_PER_DAY = 86_400


def named(settings: Settings | None, detected: Detected | None) -> DeviceProfile | None:
    """The profile that the settings name; None for `auto`, where it cannot be read and where this machine is known to
    be another board, which other checks say: then what is here counts."""
    if settings is None or settings.profile == "auto":
        return None
    try:
        profile = _load(settings.profile)
    except ConfigError:
        return None
    known = detected is not None and not detected.generic and detected.matched != profile.name
    return None if known else profile


def usable(profile: DeviceProfile, inventory: RuntimeInventory, root: Path) -> DeviceProfile:
    """The profile with the runtimes that are here."""
    return with_runtimes(profile, inventory, root, [])


def findings(profile: DeviceProfile, root: Path) -> tuple[SensorFinding, ...]:
    """What each sensor that the profile names gives now."""
    reader = SysfsReader(root)
    return survey(profile, reader, lambda: open_nvml() if reader.exists("proc/driver/nvidia") else None, sleep)


def runtimes(declared: DeviceProfile | None, inventory: RuntimeInventory, root: Path) -> list[CheckResult]:
    """Accelerators of the profile that no installed runtime can use: the agent would leave them out."""
    if declared is None:
        return []
    kept = {a.name for a in usable(declared, inventory, root).accelerators}
    results = []
    for accelerator in declared.accelerators:
        lacks = _lacks(declared, accelerator.name, inventory, root)
        if accelerator.name not in kept:
            message = f"{accelerator.name} cannot be used: {'; '.join(lacks) or 'the profile names no runtime for it'}"
            mend = "install the runtime build and the driver that go together, or take it out of the profile"
            results.append(fail("accelerators", message, mend))
    return results or [ok("accelerators", ", ".join(a.name for a in declared.accelerators))]


def _lacks(declared: DeviceProfile, name: str, inventory: RuntimeInventory, root: Path) -> list[str]:
    notes: list[str] = []
    with_runtimes(declared, inventory, root, notes)
    begin = f"{name} is left out: "
    return [note.removeprefix(begin) for note in notes if note.startswith(begin)]


def asked(settings: Settings, board: DeviceProfile | None, policy: Policy | None) -> list[CheckResult]:
    """What settings and policy ask of accelerators, models and sensors that are not there."""
    if board is None:
        return []
    whole, wrong = _whole(settings, board)
    names = [a.name for a in whole.accelerators]
    splits = _splits(settings, names)
    if policy is None:
        return [*wrong, *splits]
    rules = _rules(settings, policy, names)
    return [
        *wrong,
        *splits,
        *rules,
        *doctor_guard.nowhere(settings, policy, whole),
        *_heat(whole, policy),
        *_write_budget(settings, policy),
    ]


def _whole(settings: Settings, board: DeviceProfile) -> tuple[DeviceProfile, list[CheckResult]]:
    """The board with what is simulated, and what is wrong with that or with the lanes, which hides nothing else."""
    wrong: list[CheckResult] = []
    for simulated, lanes in (
        (settings.simulated_accelerators, settings.lanes), (settings.simulated_accelerators, {}), ((), settings.lanes)
    ):  # fmt: skip
        made = _made(board, simulated, lanes)
        if isinstance(made, DeviceProfile):
            return made, wrong
        wrong += [made] if made not in wrong else []
    return board, wrong


def _made(
    board: DeviceProfile, simulated: tuple[SimulatedAccelerator, ...], lanes: Mapping[str, LaneSettings]
) -> DeviceProfile | CheckResult:
    try:
        return make_board(board, simulated, _load, lanes=lanes).profile
    except ConfigError as error:
        return fail("board", error.message, "correct the settings; qeil check FILE")


def _splits(settings: Settings, names: list[str]) -> list[CheckResult]:
    """Splits over accelerators that are not here, and those beside variants."""
    results = []
    for model in settings.models:
        mend = f"correct splits of {model.name} in the settings"
        for label in model.splits:
            lacking = next((part for part in label.split("+") if part not in names), None)
            if lacking is not None:
                has = f"there is no accelerator {lacking}{_close(lacking, names)}"
                results.append(warn("splits", f"{model.name} is to be split over {label}: {has}", mend))
        if model.splits and model.variants:
            message = f"{model.name} has splits and variants: stages are cut from the model file, so no split is ready"
            results.append(warn("splits", f"{message} while a variant serves", mend))
    return results


def _rules(settings: Settings, policy: Policy, names: list[str]) -> list[CheckResult]:
    file = share.find_policy(settings.policy)
    check, mend = "policy", f"correct {file}; qeil check {file}"
    models = [m.name for m in model_store.configured(settings)]
    results = []
    for verb, rules, judge in (("pins {} to {}", policy.pinned, fail), ("forbids {} on {}", policy.forbidden, warn)):
        for rule in rules:
            if rule.accelerator not in names:
                has = f"there is no accelerator {rule.accelerator}{_close(rule.accelerator, names)}"
                what = verb.format(rule.model, rule.accelerator)
                results.append(judge(check, f"{policy.name} {what}: {has}", mend))
            if models and rule.model not in ("*", *models):
                what = verb.format(rule.model, rule.accelerator)
                message = f"{policy.name} {what}: no model of that name is configured{_close(rule.model, models)}"
                results.append(warn(check, message, mend))
    return results


def _heat(board: DeviceProfile, policy: Policy) -> list[CheckResult]:
    results = []
    if policy.no_thermal_sensor == "refuse" and not board.zones:
        message = f"{policy.name} refuses to run without a temperature sensor, and there is none: nothing will run"
        results.append(fail("policy", message, "connect a sensor, or set no_thermal_sensor: derate in the policy"))
    critical = [(z.name, t.temperature_c.value) for z in board.zones for t in z.trips if t.kind == "critical"]
    for name, at_c in critical:
        if at_c <= policy.thermal.hard_c:
            message = (
                f"{policy.name} lets {name} reach {policy.thermal.hard_c:g} °C, the board shuts down at {at_c:g} °C"
            )
            results.append(warn("policy", message, f"set thermal.hard_c below {at_c:g} in the policy"))
    return results


def _write_budget(settings: Settings, policy: Policy) -> list[CheckResult]:
    least = SECONDS_PER_DAY / policy.telemetry.window_s * TELEMETRY_ROW_BYTES
    most = settings.outbox.max_daily_bytes
    if most is None or least <= most:
        return []
    message = (
        f"telemetry each {policy.telemetry.window_s:g} s writes at least {least / 1e6:.0f} MB a day, the budget is "
        f"{most / 1e6:.0f} MB: it will get slower"
    )
    return [warn("write budget", message, "raise telemetry.window_s, or outbox.max_daily_bytes")]


def _load(name: str) -> DeviceProfile:
    return yaml_files.load_profile(share.find_profile(name))


def _close(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, 1)
    return f" (did you mean {near[0]}?)" if near else f" (it has {', '.join(known[:8])})" if known else ""
