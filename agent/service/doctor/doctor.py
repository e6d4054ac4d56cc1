"""Doctor: looks at everything the agent needs before it runs, and says what mends what is wrong.

Every check is one small function that returns results and raises nothing; what the machine is comes in as arguments.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from pathlib import Path

from agent.backends.lane import ProcessLane
from agent.backends.probe import RuntimeInventory
from agent.errors import ConfigError
from agent.records import record
from agent.schema.device import DeviceProfile
from agent.schema.settings import Settings
from agent.sensors.nvml import open_nvml
from agent.service.check_result import CheckResult, fail
from agent.service.clock import SystemClock
from agent.service.detection import Detected, detect
from agent.service.doctor import (
    doctor_board,
    doctor_canary,
    doctor_guard,
    doctor_links,
    doctor_machine,
    doctor_models,
    doctor_service,
    doctor_settings,
)


@record(frozen=True)
class Surroundings:
    """What the checks look at; every default is this machine."""

    inventory: RuntimeInventory
    root: Path = Path("/")
    machine: str | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    profiles: Mapping[str, DeviceProfile] | None = None
    wall_s: float = field(default_factory=time.time)
    python: tuple[int, int] = field(default_factory=lambda: (sys.version_info.major, sys.version_info.minor))
    distributions: frozenset[str] | None = None
    """Installed packages; None: ask the package metadata."""
    canaries: Callable[[DeviceProfile], Sequence[CheckResult]] | None = None
    """Runs something on every accelerator of the profile; None: nothing is run."""


def examine(config: Path | None, around: Surroundings) -> tuple[CheckResult, ...]:
    """Every check, in reading order: the machine, its sensors, then what the settings ask for."""
    installed = around.distributions if around.distributions is not None else installed_distributions()
    results: list[CheckResult] = [
        doctor_machine.python_version(around.python),
        doctor_machine.clock(around.wall_s, around.root),
        doctor_machine.memory(around.root),
        *doctor_machine.runtimes(around.inventory),
        doctor_machine.runtime_conflict(installed),
        doctor_machine.device_nodes(around.root),
    ]
    detected = _detected(around, results)
    about_settings: list[CheckResult] = []
    settings = doctor_settings.load(config, around.environ, about_settings)
    named = doctor_board.named(settings, detected)
    results += doctor_board.runtimes(named, around.inventory, around.root)
    board = detected.profile if detected is not None else None
    if named is not None:
        board = doctor_board.usable(named, around.inventory, around.root)
        results += doctor_machine.sensors(doctor_board.findings(named, around.root))
    elif detected is not None:
        results += doctor_machine.sensors(detected.sensors)
    if detected is not None:
        results.append(doctor_machine.energy_counter(around.root, detected))
    if board is not None and around.canaries is not None:
        results += around.canaries(board)
    results += about_settings
    if settings is not None:
        results += _for_settings(settings, config, around, detected, board)
    return tuple(results)


def installed_distributions() -> frozenset[str]:
    """Names of the installed packages, lower case with hyphens."""
    names = (d.metadata["Name"] for d in importlib.metadata.distributions())
    return frozenset(str(name).lower().replace("_", "-") for name in names if name)


def _detected(around: Surroundings, results: list[CheckResult]) -> Detected | None:
    try:
        return detect(around.root, around.inventory, around.profiles, around.machine, open_nvml)
    except ConfigError as error:
        results.append(fail("board", error.message, "see docs of device profiles; qeil schema board"))
        return None


def _for_settings(
    settings: Settings,
    config: Path | None,
    around: Surroundings,
    detected: Detected | None,
    board: DeviceProfile | None,
) -> Sequence[CheckResult]:
    policy = doctor_settings.policy_in_force(settings)
    return [
        doctor_settings.policy(settings),
        doctor_settings.isolation(settings),
        *doctor_board.asked(settings, board, policy),
        doctor_settings.profile(settings, detected),
        *doctor_models.models(settings, around.inventory),
        *doctor_guard.refused(settings, policy),
        doctor_settings.state_folder(settings),
        doctor_settings.disk_space(settings),
        doctor_settings.calibrated(settings, detected, around.wall_s, doctor_service.serves(config, around.root)),
        doctor_links.http_port(settings),
        *doctor_links.certificates(settings, around.wall_s),
        doctor_links.broker(settings),
        *doctor_links.collector(settings),
        *doctor_service.service(settings, config, around.root),
    ]


def current_surroundings(inventory: RuntimeInventory, canary: bool = False) -> Surroundings:
    """This machine and this process; `canary`: also run something on every accelerator."""
    return Surroundings(inventory, environ=dict(os.environ), canaries=_run_canaries if canary else None)


def _run_canaries(profile: DeviceProfile) -> Sequence[CheckResult]:
    clock = SystemClock()
    return doctor_canary.canaries(profile, lambda spec: ProcessLane(spec, clock), clock)
