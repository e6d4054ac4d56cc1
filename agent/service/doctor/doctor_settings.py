"""Doctor's look at the settings: valid files, state folder, calibration, disk."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from agent.errors import ConfigError, StorageError
from agent.schema.policy import Policy
from agent.schema.settings import Settings
from agent.service import assembly
from agent.service.calibration import calibration
from agent.service.check_result import CheckResult, fail, ok, warn
from agent.service.detection import Detected
from agent.service.doctor import settings_rest
from agent.storage import environment, share, state_file, yaml_files
from agent.storage.problem import problems_of

SERVICE_USER = "qeil"
SPARE_BYTES = 64 * 2**20
"""Disk that state, logs and calibration need beside the outbox."""
MOST_FILES = 2000
"""Of the state folder that are looked at."""
MOST_LINES = 12
"""Of mistakes in the settings; the rest is a number."""
CALIBRATION_OLD_S = 180 * 86400.0
"""Half a year: drivers and runtimes have changed by then."""


def load(config: Path | None, environ: Mapping[str, str], results: list[CheckResult]) -> Settings | None:
    """The settings as `qeil run` would use them; results about them are added.

    Of a file with mistakes, what remains without them; None where that is nothing valid.
    """
    try:
        settings = yaml_files.load_settings(config, environ) if config else yaml_files.default_settings(environ)
    except ConfigError as error:
        mend = "correct the file; qeil check FILE names every mistake"
        remaining = None if config is None else settings_rest.rest(config, environ, error)
        lines = [problem.text() for problem in problems_of(error)] if remaining else [error.message]
        variable = f"{environment.FILE}: "
        results += [
            fail("settings", line, "unset that variable, or correct it" if line.startswith(variable) else mend)
            for line in lines[:MOST_LINES]
        ]
        if len(lines) > MOST_LINES:
            results.append(fail("settings", f"{len(lines) - MOST_LINES} more mistakes", mend))
        if remaining is not None:
            results.append(warn("settings", "what follows looks at the settings without these mistakes", mend))
        return remaining
    results.append(ok("settings", str(config) if config else "defaults (no file)"))
    return settings


def isolation(settings: Settings) -> CheckResult:
    """Whether a crash of a runtime costs one accelerator or the agent."""
    cause, consequence, mend = assembly.unprotected(settings, False)
    if cause is None:
        return ok("isolation", "every accelerator has a process of its own")
    return warn("isolation", f"{cause}: {consequence}", mend)


def policy(settings: Settings) -> CheckResult:
    """The policy exists and is valid."""
    try:
        path = share.find_policy(settings.policy)
        return ok("policy", f"{yaml_files.load_policy(path).name} ({path})")
    except ConfigError as error:
        return fail("policy", error.message, "correct the file, or name another policy in the settings")


def policy_in_force(settings: Settings) -> Policy | None:
    """The policy, where it can be read; `policy` says why it cannot."""
    try:
        return yaml_files.load_policy(share.find_policy(settings.policy))
    except ConfigError:
        return None


def profile(settings: Settings, detected: Detected | None) -> CheckResult:
    """The device profile is valid and is this board's."""
    if settings.profile == "auto":
        if detected is None:
            return fail("profile", "auto, but no profile fits this machine", "name one in the settings (profile: PATH)")
        how = "nearest generic one" if detected.generic else "this board"
        return ok("profile", f"auto: {detected.matched} ({how})")
    try:
        loaded = yaml_files.load_profile(share.find_profile(settings.profile))
    except ConfigError as error:
        return fail("profile", error.message, "correct the file, or set profile: auto")
    if detected is not None and not detected.generic and detected.matched != loaded.name:
        message = f"{loaded.name} is set, but this machine looks like {detected.matched}"
        return warn("profile", message, "set profile: auto, unless that is what you want")
    wanted = loaded.match.machine
    if detected is not None and wanted is not None and not fnmatchcase(detected.host.machine, wanted):
        message = f"{loaded.name} is set, a board with {wanted}, but this machine is {detected.host.machine}"
        return warn("profile", message, "set profile: auto, unless that is what you want")
    return ok("profile", loaded.name)


def state_folder(settings: Settings) -> CheckResult:
    """The state folder can be written, or made."""
    folder = settings.state_dir
    mend = f"sudo install -d -o $USER {folder}, or set state_dir in the settings (QEIL_STATE_DIR)"
    if os.path.exists(folder) and not os.path.isdir(folder):  # noqa: PTH110, PTH112  (these never raise)
        return fail("state folder", f"{folder} is not a folder", "set state_dir in the settings to a folder")
    place = nearest(folder)
    below = place / folder.absolute().relative_to(place).parts[0] if place != folder.absolute() else place
    if os.path.lexists(below) and not os.path.isdir(below):  # noqa: PTH112
        return fail("state folder", f"{below} is not a folder", "set state_dir in the settings to a folder")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return fail("state folder", f"{place} cannot be written: {error.strerror or error}", mend)
    foreign = _of_others(folder)
    if foreign is not None:
        owner = owner_of(folder)
        message = f"{foreign} belongs to {owner_of(foreign)}, its folder to {owner}, who cannot write it"
        return fail("state folder", message, f"sudo chown -R {owner}: {folder}")
    aside = sorted(path.name for path in folder.glob("*.damaged-*")) if folder.is_dir() else []
    if aside:
        message = f"{aside[-1]}: a database was damaged and moved aside ({len(aside)} such files)"
        mend = f"what it held was not sent; look at the disk (dmesg, smartctl), then remove {folder}/*.damaged-*"
        return warn("state folder", message, mend)
    return ok("state folder", str(folder) if place == folder else f"{folder} (will be made)")


def calibrated(settings: Settings, detected: Detected | None, wall_s: float, in_service: bool = False) -> CheckResult:
    """Whether this board was measured, and when."""
    # What root would write there, the service's user could not read.
    by = f"sudo -u {SERVICE_USER} qeil calibrate --config /etc/qeil/agent.yaml" if in_service else "qeil calibrate"
    advice = f"{by} (about two minutes, with nothing else computing)"
    path = settings.state_dir / calibration.FILE
    try:
        data = state_file.read_json(path)
        found = None if data is None else calibration.Calibration.model_validate(data)
        age_s = (
            0.0
            if found is None
            else wall_s - datetime.fromisoformat(found.measured_at.replace("Z", "+00:00")).timestamp()
        )
    except StorageError as error:
        return fail("calibration", error.message, advice)
    except ValueError:
        return fail("calibration", f"{path} is damaged: the agent will not start with it", advice)
    if found is None:
        return warn("calibration", "this board was never measured: times are predicted from shares of peaks", advice)
    name = _board_name(settings, detected)
    if name is not None and found.profile != name:
        return fail("calibration", f"made for {found.profile}, this is {name}: not used", advice)
    age = f"{age_s / 86400:.0f} days" if age_s >= 2 * 86400 else f"{max(0.0, age_s) / 3600:.0f} hours"
    kernels = f"kernel times of {len(found.kernel_times)} runtimes"
    message = f"measured {age} ago: {len(found.coefficients)} coefficients, {kernels}"
    if found.refused:
        message += f", with {len(found.refused)} remark{'s' * (len(found.refused) > 1)} on what was measured"
    if age_s > CALIBRATION_OLD_S:
        return warn("calibration", message, advice)
    return ok("calibration", message)


def _of_others(folder: Path) -> Path | None:
    """The first file inside that the folder's owner cannot write, as a root's `qeil calibrate` leaves them."""
    try:
        uid = folder.stat().st_uid
        inside = sorted(islice(folder.rglob("*"), MOST_FILES)) if uid else []
        return next((path for path in inside if _closed_to(uid, path.lstat())), None)
    except OSError:
        return None


def _closed_to(uid: int, facts: os.stat_result) -> bool:
    return not stat.S_ISLNK(facts.st_mode) and facts.st_uid != uid and not facts.st_mode & stat.S_IWOTH


def owner_of(path: Path) -> str:
    """Name of the user, or the number where it has none."""
    uid = path.lstat().st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _board_name(settings: Settings, detected: Detected | None) -> str | None:
    """Of the profile in force; None where it cannot be told, which other checks say."""
    if settings.profile == "auto":
        return detected.matched if detected is not None else None
    try:
        return yaml_files.load_profile(share.find_profile(settings.profile)).name
    except ConfigError:
        return None


def disk_space(settings: Settings) -> CheckResult:
    """The outbox at its largest still fits."""
    try:
        free = shutil.disk_usage(nearest(settings.state_dir)).free
    except OSError as error:
        return warn("disk", f"free space is unknown: {error.strerror or error}", "check the file system")
    shown = f"{free / 2**30:.1f} GiB free at {settings.state_dir}"
    if free < SPARE_BYTES:
        return fail("disk", shown, "make room: state and telemetry cannot be kept")
    if free < settings.outbox.max_bytes + SPARE_BYTES:
        return warn("disk", shown + ", less than the outbox may take", "make room, or lower outbox.max_bytes")
    return ok("disk", shown)


def nearest(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    for place in (folder, *folder.absolute().parents):
        if os.path.isdir(place):  # noqa: PTH112  (never raises)
            return place
    return Path("/")
