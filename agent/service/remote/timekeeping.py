"""Timekeeping: what is known of the wall clock, and telling it whenever more is known than before.

Boards often start without the time, or with that of their last shutdown, and may be restarted before it arrives. What
was stamped until then is dated later: the monotonic clock goes on through restarts of the agent, for as long as the
machine runs, so one difference between the clocks dates everything since the machine's start. That difference is kept
on disk, so that a kill between the arrival of the time and the event that tells it loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import structlog

from agent.errors import StorageError
from agent.ports import Clock
from agent.service.clock import CLOCK_SET_S
from agent.storage import state_file

FILE = "clock.json"
RETRY_S = 60.0
"""Pause after an attempt to keep it that the disk did not take."""
STEP_S = 5.0
"""Time services correct less than that by running the clock faster or slower for a while."""
BOOT_ID, ID_DIGITS = Path("proc/sys/kernel/random/boot_id"), 8

_log = structlog.get_logger("timekeeping")

Quality = Literal["ntp", "rtc", "none"]
_RANKS = {"none": 0, "rtc": 1, "ntp": 2}


class Known(NamedTuple):
    """What is known of the wall clock: its quality, and how much it is ahead of the monotonic one."""

    quality: Quality
    offset_s: float


def machine_start(root: Path = Path("/")) -> str | None:
    """A name of this start of the machine; None where the kernel is not asked (ProcSubset=pid)."""
    with suppress(OSError):
        return (root / BOOT_ID).read_text()[:ID_DIGITS]
    return None


class Timekeeping:
    """`stamp` and `quality` may be called from any thread, `look` from one."""

    def __init__(self, state_dir: Path, clock: Clock, machine: str | None) -> None:
        """`machine`: names this start of the machine; None where nobody knows, then nothing outlives the agent's."""
        self._path = state_dir / FILE
        self._clock = clock
        self._machine = machine
        self._told = self._remembered() or self._known()
        self._kept: Known | None = None
        self._again_s = float("-inf")

    def _remembered(self) -> Known | None:
        """What an earlier start of the agent told, on the same start of the machine."""
        try:
            found = state_file.read_json(self._path)
        except StorageError as error:
            _log.warning("what was known of the clock cannot be read", cause=error.message)
            return None
        if not isinstance(found, dict) or self._machine is None or found.get("machine") != self._machine:
            return None
        quality, offset_s = found.get("tq"), found.get("offset_s")
        if not isinstance(quality, str) or quality not in _RANKS or not isinstance(offset_s, int | float):
            return None
        return Known(cast(Quality, quality), float(offset_s))

    def _known(self) -> Known:
        return Known(self.quality(), self._clock.wall_s() - self._clock.monotonic_s())

    def quality(self) -> Quality:
        """Whether a time service keeps the wall clock, it is merely set, or never was."""
        if self._clock.wall_s() < CLOCK_SET_S:
            return "none"
        kept = Path("/run/systemd/timesync/synchronized").exists() or Path("/run/chrony").is_dir()
        return "ntp" if kept else "rtc"

    def marks(self) -> dict[str, Any]:
        """What a row carries of it: until a time service keeps the clock also which start of the machine it is of."""
        quality = self.quality()
        return {"tq": quality, **({} if quality == "ntp" else self._name())}

    def _name(self) -> dict[str, str]:
        return {} if self._machine is None else {"machine": self._machine}

    def stamp(self) -> dict[str, Any]:
        """Wall clock, monotonic clock, and what is known of the former."""
        return {"ts": round(self._clock.wall_s(), 3), "mono": round(self._clock.monotonic_s(), 3), **self.marks()}

    def look(self, record: Callable[[str, Mapping[str, Any]], bool], flushed: Callable[[], bool]) -> None:
        """Where more is known of the time since the last look, or it stepped: record by how much the clocks differ.

        `flushed` says whether what was recorded is on disk; only then the next start need not record it again.
        """
        now = self._known()
        better = _RANKS[now.quality] > _RANKS[self._told.quality]
        stepped = now.quality != "none" and abs(now.offset_s - self._told.offset_s) >= STEP_S
        if better or stepped:
            if record("clock_set", {"offset_s": round(now.offset_s, 3), **self._name()}):
                self._told = now
        elif now.quality != self._told.quality:
            self._told = now
        due = self._told is not self._kept and self._clock.monotonic_s() >= self._again_s
        if due and (self._told.quality == "none" or flushed()):
            self._keep(self._told)

    def _keep(self, known: Known) -> None:
        """Once for each change; until the disk takes it a restart knows less, and now and then it is tried again."""
        if self._machine is None:
            self._kept = known
            return
        document = {"version": 1, **self._name(), "tq": known.quality, "offset_s": round(known.offset_s, 3)}
        try:
            state_file.write_json(self._path, document)
        except StorageError as error:
            if self._again_s < 0:
                _log.warning("what is known of the clock is not kept", cause=error.message)
            self._again_s = self._clock.monotonic_s() + RETRY_S
        else:
            self._kept, self._again_s = known, float("-inf")
