"""Actuators: the files of the kernel that hold an accelerator's highest clock or power, set, read back and put back.

Before the first change the values found are kept in a file of the agent's state folder; they are put back at the end,
or by the next start where there was no end. Owns no decision: the governor says which point.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from agent.records import record
from agent.schema.device import Accelerator, OperatingPoint
from agent.sensors.sysfs import Missing, SysfsReader

MAX_FILES = 64
"""Files that one actuator may set."""
CLOCK_STEP = 0.02
"""Kernels round to the clocks that exist; a value read back within this share below what was asked is that one."""


@record(frozen=True)
class _Setting:
    path: str
    original: int
    reference: int
    """What a share of 1 is: the fastest clock, or the cap that was found."""


class SysfsActuator:
    """One accelerator's. Not thread-safe: it belongs to the supervisor's thread."""

    def __init__(self, accelerator: Accelerator, root: Path, memo: Path) -> None:
        """root: folder that holds `sys`; memo: file that keeps the values found. Puts back what a crash left."""
        assert accelerator.actuator is not None  # noqa: S101  (the caller chose those that have one)
        self._root, self._memo, self._actuator = root, memo, accelerator.actuator
        self._reader = SysfsReader(root)
        self._points = {p.name: p for p in accelerator.operating_points if self._lower(p)}
        self._now = ""
        self.problem = self._put_back(_remembered(self._memo))
        self._settings = self._found()

    def points(self) -> tuple[OperatingPoint, ...]:
        """The points below the fastest that it can set, the fastest first; none where it cannot set any."""
        if self.problem or not self._settings:
            return ()
        return tuple(sorted(self._points.values(), key=lambda point: -point.clock_share * point.active_units_share))

    def plan(self, point: str) -> tuple[str, ...]:
        """What `set` would do, a line for each file; changes nothing."""
        return tuple(
            f"{self._shown(s.path)}: {s.original} → {self._value(s, point)}" for s in self._settings
        )  # fmt: skip

    def set(self, point: str) -> str:
        """Set a point by its name, "" for the fastest; returns why it could not, in one line, or ""."""
        if point == self._now or self.problem:
            return self.problem
        why = "" if self._now else self._remember()
        if why:
            return why
        for setting in self._settings:
            why = _write(self._reader, setting.path, self._value(setting, point))
            if why:
                self.problem = why
                self._put_back({s.path: s.original for s in self._settings})
                return why
        self._now = point
        if not point:
            _forget(self._memo)
        return ""

    def restore(self) -> str:
        """Put back what was found at the start; returns why it could not, or ""."""
        if not self._memo.exists():
            return ""
        self._now = ""
        return self._put_back({s.path: s.original for s in self._settings})

    # ------------------------------------------------------------------ values

    def _lower(self, point: OperatingPoint) -> bool:
        return point.clock_share < 1.0 if self._actuator.kind == "cpufreq" else point.power_cap_w is not None

    def _value(self, setting: _Setting, point: str) -> int:
        if not point:
            return setting.original
        wanted = self._points[point]
        if self._actuator.kind == "cpufreq":
            return min(setting.original, round(setting.reference * wanted.clock_share))
        assert wanted.power_cap_w is not None  # noqa: S101  (`_lower` chose those that have one)
        return min(setting.original, round(wanted.power_cap_w.value * 1e6))

    def _found(self) -> tuple[_Setting, ...]:
        paths = _matching(self._reader, self._actuator.path)[:MAX_FILES]
        found = []
        for path in paths:
            folder = path if self._actuator.kind == "cpufreq" else ""
            file = f"{folder}/scaling_max_freq" if folder else path
            original = self._reader.read_int(file)
            reference = self._reader.read_int(f"{folder}/cpuinfo_max_freq") if folder else original
            for value in (original, reference):
                if isinstance(value, Missing):
                    self.problem = self.problem or value.text()
                    return ()
            assert isinstance(original, int)  # noqa: S101  (narrowing)
            assert isinstance(reference, int)  # noqa: S101
            found.append(_Setting(file, original, reference))
        if not found and not self.problem:
            self.problem = f"{self._root / self._actuator.path}: there is no such file on this board"
        if found and not os.access(self._root / found[0].path, os.W_OK):
            self.problem = self.problem or _denied(self._shown(found[0].path))
        return tuple(found)

    # ------------------------------------------------------------------ files

    def _remember(self) -> str:
        """Why the values found could not be kept, which a crash would leave changed for good; "" when they are."""
        fresh = self._memo.with_suffix(".new")
        try:
            self._memo.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(json.dumps({s.path: s.original for s in self._settings}))
            fresh.replace(self._memo)
        except OSError as error:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)
            cause = (error.strerror or str(error)).lower()
            return f"{self._memo}: {cause}; the clock stays, because a crash would leave it changed"
        return ""

    def _put_back(self, values: Mapping[str, int]) -> str:
        return _put_back(self._reader, self._memo, values)

    def _shown(self, path: str) -> str:
        return str(self._root / path)


def put_back_files(root: Path, memo: Path) -> str:
    """Write back the values that `memo` keeps and remove it; why it could not, in one line, or ""."""
    return _put_back(SysfsReader(root), memo, _remembered(memo))


def _put_back(reader: SysfsReader, memo: Path, values: Mapping[str, int]) -> str:
    whys = [_write(reader, path, value) for path, value in values.items()]
    why = next((w for w in whys if w), "")
    if not why:
        _forget(memo)
    return why


def _write(reader: SysfsReader, path: str, value: int) -> str:
    """Set one file and read it back; why it does not hold the value, or ""."""
    shown = str(reader.root / path)
    try:
        descriptor = os.open(shown, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, f"{value}\n".encode())
        finally:
            os.close(descriptor)
    except PermissionError:
        return _denied(shown)
    except OSError as error:
        return f"{shown}: could not be set to {value}: {os.strerror(error.errno or 0).lower()}"
    read = reader.read_int(path)
    if isinstance(read, Missing):
        return read.text()
    if not value * (1.0 - CLOCK_STEP) <= read <= value:
        return f"{shown}: was set to {value} and reads {read}: another program or the firmware holds it"
    return ""


def _remembered(memo: Path) -> Mapping[str, int]:
    with suppress(OSError, ValueError):
        kept = json.loads(memo.read_text())
        if isinstance(kept, dict):
            return {p: v for p, v in kept.items() if isinstance(v, int) and p.startswith("sys/") and ".." not in p}
    return {}


def _forget(memo: Path) -> None:
    with suppress(OSError):  # a disk that takes nothing; what is kept is what is set now
        memo.unlink(missing_ok=True)


def _denied(path: str) -> str:
    return f"{path}: not allowed; let the agent's user write it (a udev rule), or operating_points: false in the policy"


def _matching(reader: SysfsReader, pattern: str) -> list[str]:
    """Paths below the reader's root that a pattern names, sorted."""
    found = [""]
    for part in pattern.split("/"):
        found = [
            f"{folder}/{name}".lstrip("/")
            for folder in found
            for name in (reader.list_dir(folder or ".") if "*" in part else (part,))
            if fnmatchcase(name, part) and reader.exists(f"{folder}/{name}".lstrip("/"))
        ]
    return found
