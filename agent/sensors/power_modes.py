"""Power modes: a Jetson's operating points, set by nvpmodel, read back, put back at the end and after a crash.

A mode belongs to the whole module and outlasts a power cycle, so the one found is kept in a file before the first
change. The program takes up to seconds: it is started and looked at again at the next tick, and waited for only at the
start and at the end.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import field
from pathlib import Path

from agent.records import record
from agent.schema.device import Accelerator, OperatingPoint
from agent.sensors import power_mode_door
from agent.sensors.sysfs import Missing, SysfsReader

PROGRAM = "usr/sbin/nvpmodel"
DOOR = "run/qeil-power-mode.sock"
"""Socket of the root service that calls the program for an agent that is not root, where the owner has enabled it."""
MAX_TABLE_BYTES = 1 << 20
MAX_OUTPUT_BYTES = 4096
LIMIT_S = 10.0
"""Longest that one call may take."""
_WHO = "only root may set it: systemctl enable --now qeil-power-mode.socket lets the agent ask"
_MODE = re.compile(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", re.MULTILINE)
_IN_FORCE = re.compile(r"NV Power Mode:\s*(\S+)\s*\n\s*(\d+)\s*$", re.MULTILINE)


@record
class _Change:
    """One change under way: the mode is asked for, then asked after."""

    point: str
    mode: int
    program: subprocess.Popen[bytes]
    until_s: float
    asking: bool = False


@record
class PowerModeActuator:
    """One accelerator's; a mode of the table belongs to the point whose name it bears (MODE_15W and 15W to 15w).

    Not thread-safe: it belongs to the supervisor's thread. A mode that cannot be set (some need a reboot) is offered no
    more; the others stay.
    """

    accelerator: Accelerator
    root: Path
    """Folder that holds the table (`actuator.path`) and the program."""
    memo: Path
    now_s: Callable[[], float] = time.monotonic
    problem: str = ""
    _modes: dict[str, int] = field(default_factory=dict)
    """Mode by the point's name."""
    _found: int | None = None
    _now: str = ""
    _refused: dict[str, str] = field(default_factory=dict)
    _change: _Change | None = None

    def __post_init__(self) -> None:
        left = remembered_mode(self.memo)
        if left is not None:
            self.problem = put_back(self.root, left, self.memo)
        if self.problem:
            return
        self._modes = self._table()
        mode = _in_force(_run(self.root, "-q"))
        if isinstance(mode, int):
            self._found = mode
        elif not self.problem:
            self.problem = mode

    def points(self) -> tuple[OperatingPoint, ...]:
        """Points below the mode that was found, the fastest first, as shares of that one; none if it is unknown."""
        known = {p.name: p for p in self.accelerator.operating_points if p.name in self._modes}
        found = next((p for p in known.values() if self._modes[p.name] == self._found), None)
        if self.problem or found is None:
            return ()
        below = [
            _relative(p, found) for p in known.values() if p.name not in self._refused and _speed(p) < _speed(found)
        ]
        return tuple(sorted(below, key=_speed, reverse=True))

    def plan(self, point: str) -> tuple[str, ...]:
        """What `set` would do, in one line; changes nothing."""
        return (f"{self.root / PROGRAM} -m {self._mode(point)}",)

    def set(self, point: str) -> str:
        """Begin to set a point by its name, "" for the mode found; returns what could not be set so far, or ""."""
        if self.problem or self._found is None:
            return self.problem
        if self._change is not None:
            self._look(self._change)
        elif point != self._now and point not in self._refused:
            self.problem = self._begin(point)
        return self.problem or next(iter(self._refused.values()), "")

    def restore(self) -> str:
        """Put back the mode found, waiting for it; returns why it could not, or ""."""
        if self._change is not None:
            _end(self._change.program)
            self._change = None
        if self._found is None or not self.memo.exists():
            return ""
        self._now = ""
        return put_back(self.root, self._found, self.memo)

    # ------------------------------------------------------------------ changes

    def _mode(self, point: str) -> int | None:
        return self._modes[point] if point else self._found

    def _begin(self, point: str) -> str:
        mode = self._mode(point)
        assert mode is not None and self._found is not None  # noqa: S101, PT018  (`set` looked)
        why = _remember(self.memo, self._found)
        if why:
            return why
        program = _started(self.root, "-m", str(mode))
        if isinstance(program, str):
            return program
        self._change = _Change(point, mode, program, self.now_s() + LIMIT_S)
        return ""

    def _look(self, change: _Change) -> None:
        if change.program.poll() is None:
            if self.now_s() >= change.until_s:
                _end(change.program)
                self._failed(change, f"{self.root / PROGRAM}: no end after {LIMIT_S:g} s")
            return
        said = _said(self.root, change.program)
        if not change.asking:
            if change.program.returncode != 0:
                self._failed(change, said)
                return
            program = _started(self.root, "-q")
            if isinstance(program, str):
                self._failed(change, program)
            else:
                change.program, change.asking, change.until_s = program, True, self.now_s() + LIMIT_S
            return
        mode = _in_force(said)
        if mode != change.mode:
            held = f"the mode stays {mode}; it may need a reboot" if isinstance(mode, int) else mode
            self._failed(change, f"{self.root / PROGRAM} -m {change.mode}: {held}")
            return
        self._change, self._now = None, change.point
        if not change.point:
            _forget(self.memo)

    def _failed(self, change: _Change, why: str) -> None:
        """A lower mode is not tried again; without the way back to the one found, nothing is set any more."""
        self._change = None
        if change.point:
            self._refused[change.point] = why
        else:
            self.problem = why

    def _table(self) -> dict[str, int]:
        assert self.accelerator.actuator is not None  # noqa: S101  (the caller chose those that have one)
        path = self.accelerator.actuator.path
        text = SysfsReader(self.root).read_text(path, MAX_TABLE_BYTES)
        if isinstance(text, Missing):
            self.problem = text.text()
            return {}
        modes = {_plain(name): int(number) for number, name in _MODE.findall(text)}
        points = {p.name: modes[_plain(p.name)] for p in self.accelerator.operating_points if _plain(p.name) in modes}
        if not points:
            self.problem = f"{self.root / path}: no power mode bears the name of an operating point"
        return points


def remembered_mode(memo: Path) -> int | None:
    """The mode that a run which did not end in order found; None where there is none."""
    with suppress(OSError, ValueError):
        kept = json.loads(memo.read_text())
        if isinstance(kept, dict) and isinstance(kept.get("mode"), int):
            return int(kept["mode"])
    return None


def put_back(root: Path, mode: int, memo: Path) -> str:
    """Set a mode, wait for it, ask after it, forget it; why it could not, or ""."""
    if _in_force(_run(root, "-q")) != mode:
        said = _run(root, "-m", str(mode))
        now = _in_force(_run(root, "-q"))
        if now != mode:
            return f"{root / PROGRAM} -m {mode}: {said or now}"
    _forget(memo)
    return ""


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").removeprefix("mode-")


def _speed(point: OperatingPoint) -> float:
    return point.clock_share * point.active_units_share


def _relative(point: OperatingPoint, found: OperatingPoint) -> OperatingPoint:
    """What is modelled as full is the mode that was found."""
    units = min(1.0, point.active_units_share / found.active_units_share)
    return point.model_copy(update={"active_units_share": units, "clock_share": _speed(point) / _speed(found) / units})


def _started(root: Path, *words: str) -> subprocess.Popen[bytes] | str:
    program, door = root / PROGRAM, root / DOOR
    command = [str(program)]
    if door.is_socket():
        command = [sys.executable, "-I", power_mode_door.__file__, str(door)]
    try:
        return subprocess.Popen(
            [*command, *words], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
        )  # fmt: skip
    except OSError as error:
        return (
            f"{program}: {(error.strerror or str(error)).lower()}; operating_points: false in the policy does without"
        )


def _said(root: Path, program: subprocess.Popen[bytes]) -> str:
    """What an ended program wrote; where it failed, why, in one line."""
    text = ""
    assert program.stdout is not None  # noqa: S101  (`_started` asked for it)
    with program.stdout as output:
        os.set_blocking(output.fileno(), False)  # what it left running may hold the pipe open
        with suppress(BlockingIOError):
            text = os.read(output.fileno(), MAX_OUTPUT_BYTES).decode("utf-8", "replace")
    if program.returncode == 0:
        return text
    line = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no reason given")
    return f"{root / PROGRAM}: {line[:200]} (exit {program.returncode}); {_WHO}"


def _run(root: Path, *words: str) -> str:
    """Run to the end, at most `LIMIT_S`; what it wrote, or why it failed."""
    program = _started(root, *words)
    if isinstance(program, str):
        return program
    try:
        program.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        _end(program)
        return f"{root / PROGRAM}: no end after {LIMIT_S:g} s"
    return _said(root, program)


def _end(program: subprocess.Popen[bytes]) -> None:
    program.kill()
    program.wait()
    if program.stdout is not None:
        program.stdout.close()


def _in_force(said: str) -> int | str:
    """The mode's number in what -q wrote, else that in one line."""
    match = _IN_FORCE.search(said)
    return int(match[2]) if match else (said.strip().splitlines() or ["it tells no power mode"])[-1]


def _remember(memo: Path, mode: int) -> str:
    fresh = memo.with_suffix(".new")
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps({"mode": mode}))
        fresh.replace(memo)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        return (
            f"{memo}: {(error.strerror or str(error)).lower()}; the mode stays, because a crash would leave it changed"
        )
    return ""


def _forget(memo: Path) -> None:
    with suppress(OSError):  # a disk that takes nothing; what is kept is what is set now
        memo.unlink(missing_ok=True)
