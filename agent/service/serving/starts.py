"""Starts: counts ends that came soon after a start, over starts, in the state folder; and what safe mode leaves out."""

from __future__ import annotations

from pathlib import Path

import structlog

from agent.control import safe_mode
from agent.control.safe_mode import Begun
from agent.errors import StorageError
from agent.ports import Clock
from agent.service.board import Board
from agent.service.mail import ConditionEvent
from agent.storage import state_file

_log = structlog.get_logger("starts")

FILE = "starts.json"
CONDITION = "safe_mode"


class Starts:
    """One start of the agent. Where the file cannot be written the agent starts as usual."""

    def __init__(self, state_dir: Path, clock: Clock) -> None:
        self._path = state_dir / FILE
        self._clock = clock
        self._since_s = clock.monotonic_s()
        self._settled = False
        self.begun: Begun = safe_mode.begin(self._read())
        self._write(self.begun.quick_ends + 1)
        if self.begun.safe:
            _log.warning("safe mode", quick_ends=self.begun.quick_ends)

    @property
    def safe(self) -> bool:
        """Whether this start is one in safe mode."""
        return self.begun.safe

    def look(self) -> None:
        """Called now and then: once the start has lasted it does not count as quick any more."""
        if not self._settled and safe_mode.stable(self._clock.monotonic_s() - self._since_s):
            self.ended()

    def ended(self) -> None:
        """The agent ends in order, or has run long enough."""
        if not self._settled:
            self._settled = True
            self._write(0)

    def condition(self) -> ConditionEvent | None:
        """What status shows in safe mode."""
        if not self.begun.safe:
            return None
        times, seconds = self.begun.quick_ends, safe_mode.STABLE_S
        return ConditionEvent(
            CONDITION, f"the agent ended {times} times within {seconds:g} s of its start",
            "it runs with the last good policy on the CPU alone, every lane in a process of its own",
            "mend what the log says, then restart the agent: after a start that lasted it begins as usual",
        )  # fmt: skip

    def _read(self) -> int:
        try:
            document = state_file.read_json(self._path)
            return 0 if document is None else int(document["quick_ends"])
        except (StorageError, KeyError, TypeError, ValueError):
            return 0

    def _write(self, quick_ends: int) -> None:
        try:
            state_file.write_json(self._path, {"quick_ends": quick_ends})
        except StorageError as error:
            _log.warning("starts not counted", cause=error.message)


def cpu_only(board: Board) -> Board:
    """The board without its accelerators; as it is where it has no CPU entry. Simulated units are left out too."""
    kept = tuple(a for a in board.profile.accelerators if a.kind == "cpu" and a.name not in board.simulated)
    if not kept:
        return board
    return Board(board.profile.model_copy(update={"accelerators": kept}), frozenset(), board.cores, board.lanes)
