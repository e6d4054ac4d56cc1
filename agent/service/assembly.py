"""Assembly: finds the pieces an agent is built from – board profile, calibration, policy – before anything runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from pydantic import ValidationError

from agent.backends.probe import RuntimeInventory
from agent.errors import ConfigError, StorageError
from agent.records import record
from agent.schema.device import Accelerator, DeviceProfile
from agent.schema.policy import Policy
from agent.schema.settings import BatchingOptions, ModelEntry, Settings
from agent.sensors import power_modes
from agent.sensors.actuators import SysfsActuator, put_back_files
from agent.sensors.power_modes import PowerModeActuator
from agent.service.board import Board, make_board
from agent.service.board_figures import BoardFigures
from agent.service.calibration import calibration
from agent.service.detection import detect
from agent.service.early_probe import EarlyProbe
from agent.service.mail import Event, PolicyRejectedEvent
from agent.service.planning.planner_process import PlannerProcess
from agent.service.remote.bundle_layer import BundleLayer
from agent.service.serving import model_store
from agent.storage import share, state_file, yaml_files

if TYPE_CHECKING:
    from agent.workload.read_ahead import ReadAhead

_log = structlog.get_logger("assembly")


@record(frozen=True)
class FoundPolicy:
    """The policy to start with and what to tell about it."""

    policy: Policy
    events: tuple[Event, ...] = ()


def board(settings: Settings, inventory: Callable[[], RuntimeInventory] | None = None) -> Board:
    """The profile in use: detected or named, with this board's calibration, plus simulated accelerators.

    `inventory` gives the runtimes that are here, where somebody has begun to look at them already.
    """
    profile = base_profile(settings.profile, inventory)
    profile = calibration.apply_saved(profile, settings.state_dir)
    return make_board(profile, settings.simulated_accelerators, named_profile, lanes=settings.lanes)


def models(settings: Settings, ahead: ReadAhead | None) -> tuple[ModelEntry, ...]:
    """The models that the planner places, with what was read ahead of their files put where planning looks for it."""
    found = model_store.tensor_models(settings)
    if ahead is not None and found:
        from agent.service.serving import artifacts  # noqa: PLC0415 - an agent without models starts sooner

        artifacts.keep_ahead([m.path for m in found], settings.state_dir / "workloads", ahead)
    return found


def base_profile(name: str, inventory: Callable[[], RuntimeInventory] | None = None) -> DeviceProfile:
    """A profile by name or path, or what detection finds on this machine for `auto`.

    Efficiencies that the profile does not state come from the fit over published measurements, where it knows the
    board; a calibration of this machine overrides both.
    """
    if name != "auto":
        return _with_fitted(named_profile(name))
    detected = detect(Path("/"), (inventory or EarlyProbe().result)())
    for note in detected.notes:
        _log.info("detected", note=note)
    return detected.profile if detected.generic else _with_fitted(detected.profile)


def bundle_layer(board: Board, planner: PlannerProcess, state_dir: Path) -> tuple[BundleLayer, BoardFigures]:
    """What bundles bring into force, and the board with their figures, which plans follow from here on.

    What was fitted and measured counts over a bundle's profile as over the board's own.
    """

    def prepared(profile: DeviceProfile) -> DeviceProfile:
        return calibration.apply_saved(_with_fitted(profile), state_dir)

    layer = BundleLayer()
    figures = BoardFigures(board, lambda: layer.profile, prepared)
    planner.follow(figures.now)
    return layer, figures


def _with_fitted(profile: DeviceProfile) -> DeviceProfile:
    from agent.evaluation.catalogue import find_coefficients, load_catalogue  # noqa: PLC0415 - a known board needs them
    from agent.evaluation.coefficients_file import load_coefficients  # noqa: PLC0415
    from agent.evaluation.profile_efficiencies import with_fitted  # noqa: PLC0415

    return with_fitted(profile, load_catalogue(), load_coefficients(find_coefficients()))


def named_profile(name: str) -> DeviceProfile:
    """A shipped or own profile."""
    return yaml_files.load_profile(share.find_profile(name))


def _slug(path: str) -> str:
    """A file's name for what is kept of a path: the same whatever the accelerator is called."""
    return re.sub(r"[^a-z0-9]+", "-", path.lower()).strip("-")


def actuators(
    profile: DeviceProfile, state_dir: Path, root: Path = Path("/")
) -> dict[str, SysfsActuator | PowerModeActuator]:
    """What sets operating points, by accelerator, where the profile says how; puts back what a crash left."""
    memos = {
        a.name: state_dir / f"operating-point.{_slug(a.actuator.path)}.json"
        for a in profile.accelerators
        if a.actuator is not None
    }
    for memo in sorted(set(state_dir.glob("operating-point.*.json")) - set(memos.values())):
        left = put_back_left(root, memo)
        _log.info("an operating point that a former profile set is put back", file=str(memo), problem=left)
    found = {a.name: _actuator(a, root, memos[a.name]) for a in profile.accelerators if a.actuator is not None}
    for name, actuator in found.items():
        plans = {point.name: actuator.plan(point.name) for point in actuator.points()}
        _log.info("operating points that the policy may use", accelerator=name, plans=plans, problem=actuator.problem)
    return found


def _actuator(accelerator: Accelerator, root: Path, memo: Path) -> SysfsActuator | PowerModeActuator:
    assert accelerator.actuator is not None  # noqa: S101  (the caller chose those that have one)
    if accelerator.actuator.kind == "nvpmodel":
        return PowerModeActuator(accelerator, root, memo)
    return SysfsActuator(accelerator, root, memo)


def put_back_left(root: Path, memo: Path) -> str:
    """Undo what a run under another profile set and a crash left; why it could not, or ""."""
    mode = power_modes.remembered_mode(memo)
    return put_back_files(root, memo) if mode is None else power_modes.put_back(root, mode, memo)


def last_good_policy(path: Path, state_dir: Path, safe: bool = False) -> FoundPolicy:
    """The policy file, or where that is unusable the last one in force here; ConfigError without both.

    safe: prefer the last one in force here even to a file that can be used.
    """
    kept_policy = remembered_policy(state_dir) if safe else None
    if kept_policy is not None:
        return FoundPolicy(kept_policy)
    try:
        return FoundPolicy(yaml_files.load_policy(path))
    except ConfigError as error:
        kept = state_dir / "last-good-policy.json"
        remembered = state_file.read_json(kept)
        if remembered is None:
            raise
        return FoundPolicy(Policy.model_validate(remembered), (PolicyRejectedEvent(error.message),))


def remembered_policy(state_dir: Path) -> Policy | None:
    """The policy of the last run; None where there was none or it cannot be read any more."""
    try:
        kept = state_file.read_json(state_dir / "last-good-policy.json")
        return None if kept is None else Policy.model_validate(kept)
    except (StorageError, ValidationError):
        return None


def remember_policy(state_dir: Path, policy: Policy) -> None:
    """Keep the policy in force for a start with a broken file."""
    try:
        state_file.write_json(state_dir / "last-good-policy.json", policy.model_dump(mode="json"))
    except StorageError as error:
        _log.warning("policy not remembered", cause=error.message)


def batching(settings: Settings) -> dict[str, BatchingOptions]:
    """Models whose requests may share calls."""
    return {m.name: m.batching for m in settings.models if m.batching is not None}


def unprotected(settings: Settings, safe: bool) -> tuple[str | None, str, str]:
    """(cause, consequence, mend) of a condition where lanes are threads of the agent; cause None where they are not.

    safe: the agent starts in safe mode, in which lanes are processes whatever the settings say.
    """
    cause = "isolation: thread in the settings" if settings.isolation == "thread" and not safe else None
    consequence = "a runtime, plugin or delegate that crashes or hangs ends the whole agent, not one accelerator"
    return cause, consequence, "isolation: process, unless the board lacks the memory for it"
