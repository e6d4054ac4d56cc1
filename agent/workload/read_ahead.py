"""Read-ahead: small model files are examined by one process while the agent still imports itself.

`python -m agent.workload.read_ahead FOLDER PATH…` prints a line of JSON per file: its digest and, where no file in the
folder is named after it, what `examine` reads of it. A file that ends the process is read again in the usual way.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from agent.child import NICENESS, child_command
from agent.errors import ModelLoadFailed
from agent.runtimes import registry
from agent.workload import examine
from agent.workload.examine import Examined
from agent.workload.reading_child import limit_memory

MAX_FILES: Final = 16
MOST_BYTES: Final = 8 * 1024 * 1024
"""Of a file that is read ahead. A larger one takes longer than the imports beside which it would be read."""
DIGITS: Final = 32
"""Of a digest, in the names of what is remembered of a file."""


class ReadAhead:
    """Starts at once; what it found is asked for later."""

    def __init__(self, paths: Sequence[Path], known: Path) -> None:
        """`known`: folder of what is remembered of files that were read before. Raises OSError."""
        self._popen = subprocess.Popen(
            child_command("agent.workload.read_ahead", str(known), *map(str, paths[:MAX_FILES])),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._found: dict[str, Any] | None = None

    def take(self, digest: str, timeout_s: float) -> Examined | None:
        """What was read of the file with that content; None where it was not. The first call waits for the process."""
        if self._found is None:
            self._found = self._wait(timeout_s)
        document = self._found.get(digest)
        try:
            return None if document is None else examine.parsed(document, digest)
        except (KeyError, TypeError, ValueError):
            return None  # the usual way says what is wrong

    def end(self) -> None:
        """Nobody will ask."""
        self._popen.kill()
        self._popen.communicate()

    def _wait(self, timeout_s: float) -> dict[str, Any]:
        try:
            output, _ = self._popen.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.end()
            return {}
        return dict(filter(None, map(_line, output.splitlines())))


def _line(line: bytes) -> tuple[str, Any] | None:
    try:
        digest, document = json.loads(line)
    except (TypeError, ValueError):
        return None  # it ended in the middle of it
    return str(digest), document


def main(arguments: list[str]) -> None:
    """Entry of the child process."""
    os.nice(NICENESS)
    known, *names = arguments
    limit_memory()
    for path in map(Path, names):
        try:
            line = _read(path, Path(known))
        except (ModelLoadFailed, ImportError, MemoryError, OSError, RecursionError):
            continue  # whoever reads it in the usual way says what is wrong with it
        if line is not None:
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()


def _read(path: Path, known: Path) -> tuple[str, dict[str, Any]] | None:
    backend = registry.of_file(path)
    if backend is None or not path.is_file() or path.stat().st_size > MOST_BYTES:
        return None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if any(known.glob(f"{digest[:DIGITS]}*")):
        return None
    return digest, examine.read(path, backend.format)


if __name__ == "__main__":
    main(sys.argv[1:])
    # The agent waits for the end of this process; to tidy up what was imported takes a tenth of a second.
    os._exit(0)
