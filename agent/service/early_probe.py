"""Early start: what runs in processes of its own while the rest of the agent is being imported.

The machine's runtimes are looked at, a first lane's process imports its runtime, and models that were never seen are
read. Imports little on purpose.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from agent.backends.head_start import Spare, start_probe

if TYPE_CHECKING:
    from agent.backends.probe import RuntimeInventory
    from agent.workload.read_ahead import ReadAhead

PROBE_TIMEOUT_S = 60.0


class EarlyProbe:
    """Starts at once; `result` waits for it."""

    def __init__(self, timeout_s: float = PROBE_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._refusal: str | None = None
        try:
            self._looking = start_probe(timeout_s)
        except OSError as error:
            self._refusal = str(error.strerror)

    def result(self) -> RuntimeInventory:
        """What is here. Asked once."""
        from agent.backends import probe  # noqa: PLC0415 - takes time that the process has used

        if self._refusal is not None:
            return probe.nothing(self._refusal)
        return probe.read_inventory(self._looking, self._timeout_s)

    def end(self) -> None:
        """Nobody will ask."""
        if self._refusal is None:
            self._looking.kill()
            self._looking.communicate()


class EarlyStart:
    """All of them, begun at once but the models, whose names the settings tell."""

    def __init__(self) -> None:
        self.probe = EarlyProbe()
        try:
            self.spare: Spare | None = Spare(len(os.sched_getaffinity(0)))
        except OSError:
            self.spare = None  # the lane will meet the reason and tell it
        self.ahead: ReadAhead | None = None

    def read(self, paths: Sequence[Path], known: Path) -> None:
        """Begin to read these model files; `known` is the folder of what is remembered of files."""
        from agent.workload.read_ahead import ReadAhead  # noqa: PLC0415 - after the others have begun

        if paths:
            with suppress(OSError):  # they are read later, in the usual way
                self.ahead = ReadAhead(paths, known)

    def end(self) -> None:
        """The agent does not start after all."""
        self.probe.end()
        if self.spare is not None:
            self.spare.end()
        if self.ahead is not None:
            self.ahead.end()
