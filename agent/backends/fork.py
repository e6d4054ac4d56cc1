"""Fork: one function run in a copy of this process, so that native code which it loads cannot end this one.

For a process with a single thread, which has imported what all its copies need: a new interpreter imports it again.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Final, NoReturn

from agent.child import end_with_parent

READ_BYTES: Final = 65536


class Fork:
    """Begins at once; `result` ends it."""

    def __init__(self, function: Callable[[], dict[str, Any]]) -> None:
        """`function` returns what JSON can say; what it raises or leaves with are its last words. Raises OSError."""
        self._words = os.memfd_create("words")
        self._answer, theirs = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _run(function, theirs, self._words)
        os.close(theirs)

    def result(self, until_s: float) -> tuple[int | None, dict[str, Any] | None, str]:
        """(exit status as of `subprocess`, None where it had to be killed at `until_s`; what was returned; last line).

        Where nothing was returned, as a library ended the copy, that is None, whatever the status.
        """
        answer = self._read(until_s)
        if answer is None:
            os.kill(self._pid, signal.SIGKILL)
        _, status = os.waitpid(self._pid, 0)
        code = None if answer is None else os.waitstatus_to_exitcode(status)
        with os.fdopen(self._words, "rb") as words:
            words.seek(max(0, words.seek(0, os.SEEK_END) - READ_BYTES))
            lines = words.read().decode(errors="replace").strip().splitlines()
        return code, _returned(answer or b"") if code == 0 else None, lines[-1] if lines else ""

    def _read(self, until_s: float) -> bytes | None:
        """What it answered before it ended; None where it had not ended by then."""
        answer = b""
        ready = select.poll()
        ready.register(self._answer, select.POLLIN)
        with contextlib.closing(os.fdopen(self._answer, "rb", buffering=0)) as pipe:
            while ready.poll(max(0.0, until_s - time.monotonic()) * 1000.0):
                some = pipe.read(READ_BYTES)
                if not some:
                    return answer
                answer += some
        return None


def _returned(answer: bytes) -> dict[str, Any] | None:
    try:
        return dict(json.loads(answer))
    except ValueError:
        return None


def _run(function: Callable[[], dict[str, Any]], answer: int, words: int) -> NoReturn:
    """In the copy, which ends without looking back: a library may crash while it is unloaded."""
    code = 1
    try:
        end_with_parent()  # nobody else would end it
        os.dup2(words, 1)
        os.dup2(words, 2)
        with os.fdopen(answer, "wb") as pipe:
            pipe.write(json.dumps(function()).encode())
        code = 0
    except SystemExit as end:
        sys.stderr.write(f"{end.code}\n")
    except BaseException:  # noqa: BLE001 - the root of a process
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
