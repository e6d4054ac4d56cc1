"""Early start: what runs in processes of its own while the rest of the agent is being imported.

The machine's runtimes are looked at, a first lane's process imports its runtime, and models that were never seen are
read. Imports little on purpose.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.backends.head_start import Spare, start_probe
from agent.service import known_runtimes

if TYPE_CHECKING:
    import subprocess

    from agent.backends.probe import RuntimeInventory
    from agent.workload.read_ahead import ReadAhead

PROBE_TIMEOUT_S = 60.0
STATE_DIR: Final = "QEIL_STATE_DIR"
"""The variable that tells the state folder before any file is read; the packaged unit sets it."""


class EarlyProbe:
    """Begins at once, unless what the last start found still holds; `result` waits for it."""

    def __init__(self, state_dir: Path | None = None, timeout_s: float = PROBE_TIMEOUT_S) -> None:
        """state_dir: where the last start's result lies; None: look in any case."""
        self._timeout_s = timeout_s
        self._state_dir = state_dir
        self._stamp = "" if state_dir is None else known_runtimes.stamp()
        self._known = None if state_dir is None else known_runtimes.take(state_dir, self._stamp)
        self._refusal: str | None = None
        self._looking: subprocess.Popen[bytes] | None = None
        self._found: RuntimeInventory | None = None
        if self._known is None:
            self._begin()

    def _begin(self) -> None:
        try:
            self._looking = start_probe(self._timeout_s)
        except OSError as error:
            self._refusal = str(error.strerror)

    def result(self) -> RuntimeInventory:
        """What is here. Asked once."""
        from agent.backends import probe  # noqa: PLC0415 - takes time that the process has used

        if self._known is not None:
            try:
                self._found = probe.inventory_of(self._known)
            except (KeyError, TypeError):  # of another version
                self._known = None
                self._begin()
            else:
                return self._found
        if self._looking is None:
            return probe.nothing(self._refusal or "it was not begun")
        self._found = probe.read_inventory(self._looking, self._timeout_s)
        return self._found

    def settle(self, tell: Callable[[str], None]) -> None:
        """Once the agent is up: keep the result for the next start; one that was kept is compared with a new look.

        `tell(difference)` where they differ: this agent goes on with what it has, the next start takes the new one.
        """
        from dataclasses import asdict  # noqa: PLC0415 - see result

        from agent.backends import probe  # noqa: PLC0415
        from agent.errors import StorageError  # noqa: PLC0415
        from agent.storage.state_file import write_json  # noqa: PLC0415

        if self._state_dir is None or self._found is None:
            return
        used = now = self._found
        if self._known is not None:
            self._stamp = known_runtimes.stamp()
            now = probe.probe_runtimes(self._timeout_s)
        if now != used:
            tell(difference(used, now))
        if now.onnxruntime is not None or now.litert is not None:
            with suppress(StorageError):  # the next start looks again
                write_json(self._state_dir / known_runtimes.FILE, {"stamp": self._stamp, "found": asdict(now)})

    def end(self) -> None:
        """Nobody will ask."""
        if self._looking is not None:
            self._looking.kill()
            self._looking.communicate()


def difference(used: RuntimeInventory, now: RuntimeInventory) -> str:
    """In which facts two looks differ, in words."""
    one, other = vars(used), vars(now)
    return ", ".join(f"{key} {one[key]!r} became {other[key]!r}" for key in one if one[key] != other[key])


class EarlyStart:
    """All of them, begun at once but the models, whose names the settings tell."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        try:
            self.spare: Spare | None = Spare(len(os.sched_getaffinity(0)))
        except OSError:
            self.spare = None  # the lane will meet the reason and tell it
        self.probe = EarlyProbe(Path(environ[STATE_DIR]) if environ.get(STATE_DIR) else None)
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
