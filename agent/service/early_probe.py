"""Early start: what runs in processes of its own while the rest of the agent is being imported.

The machine's runtimes are looked at, and a first lane's process imports its runtime. Imports little on purpose.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from agent.backends.head_start import Spare, start_probe

if TYPE_CHECKING:
    from agent.backends.probe import RuntimeInventory

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
    """Both, begun at once."""

    def __init__(self) -> None:
        self.probe = EarlyProbe()
        try:
            self.spare: Spare | None = Spare(len(os.sched_getaffinity(0)))
        except OSError:
            self.spare = None  # the lane will meet the reason and tell it

    def end(self) -> None:
        """The agent does not start after all."""
        self.probe.end()
        if self.spare is not None:
            self.spare.end()
