"""Search process: searches placements beside the agent, so that no search ever holds the agent's interpreter.

A thread that searches holds the interpreter most of the time, and on a busy machine it is put aside while it holds it;
every other thread, the supervisor's too, then waits for a core to come free. A process of its own cannot do that.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from agent.backends.head_start import environment
from agent.errors import PlacementError
from agent.placement.problem import Problem
from agent.placement.solve import Result
from agent.placement.warm import replan
from agent.service.planning.search_child import receive, send

PATIENCE_S = 10.0
"""Longest wait beyond the budget: a board that is slow and busy may take seconds to start an interpreter."""
CHILD = "agent.service.planning.search_child"
_END_S = 2.0


class Search(Protocol):
    """Searches a front from placements that were good before, within `budget_s` seconds."""

    def __call__(self, problem: Problem, warm: NDArray[np.int8], budget_s: float) -> Result: ...  # noqa: D102


class HereSearch:
    """Searches on the caller's own thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock

    def __call__(self, problem: Problem, warm: NDArray[np.int8], budget_s: float) -> Result:
        """As `agent.placement.warm.replan`; PlacementError where nothing fits."""
        return replan(problem, warm, budget_s=budget_s, clock=self._clock)


class _Gone(Exception):
    """There is no process, it ended, or it does not answer."""


class SearchProcess:
    """Called by one thread; `start` and `close` from any. A process that dies is replaced at the next call."""

    def __init__(self, program: str = CHILD, patience_s: float = PATIENCE_S) -> None:
        self._program = program
        self._patience_s = patience_s
        self._here = HereSearch()
        self._lock = threading.Lock()
        self._use = threading.Lock()
        """Held by whoever uses the pipes."""
        self._popen: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._log = structlog.get_logger("search")

    def start(self) -> None:
        """Begin to start it; the first search then need not wait for an interpreter."""
        with self._use:
            try:
                self._running()
            except _Gone as error:
                self._log.warning("no search process", why=str(error))

    def __call__(self, problem: Problem, warm: NDArray[np.int8], budget_s: float) -> Result:
        """As `agent.placement.warm.replan`. Where there is no process, searched on this thread, which is logged.

        Raises PlacementError where nothing fits, or the agent stops.
        """
        with self._use:
            try:
                found = self._asked(self._running(), (problem, warm, budget_s), budget_s + self._patience_s)
            except _Gone as error:
                if self._closed:
                    raise PlacementError("the agent is stopping") from error
                self._log.warning("searching in the agent itself", why=str(error))
                return self._here(problem, warm, budget_s)
        if isinstance(found, str):
            raise PlacementError(found)
        if not isinstance(found, Result):
            raise TypeError(f"the search process answered with {type(found).__name__}")
        return found

    def close(self) -> None:
        """End it; a search in progress ends with PlacementError."""
        with self._lock:
            self._closed = True
            popen, self._popen = self._popen, None
            if popen is not None:
                popen.kill()
        with self._use:  # whoever waits for its answer has seen its end by then, and leaves the pipes
            if popen is not None:
                _end(popen)

    @property
    def pid(self) -> int | None:
        """Process id; None where there is none."""
        with self._lock:
            return None if self._popen is None else self._popen.pid

    def _running(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise _Gone("closed")
            if self._popen is not None and self._popen.poll() is not None:
                _end(self._popen)
                self._popen = None
            if self._popen is None:
                try:
                    self._popen = subprocess.Popen(
                        [sys.executable, "-m", self._program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                        bufsize=0,
                        env=environment(dict(os.environ), 1), start_new_session=True,
                    )  # fmt: skip
                except OSError as error:
                    raise _Gone(f"it cannot be started: {error.strerror}") from error
            return self._popen

    def _asked(self, popen: subprocess.Popen[bytes], request: object, limit_s: float) -> object:
        deadline_s = time.monotonic() + limit_s
        if popen.stdin is None or popen.stdout is None:
            raise TypeError("a process without pipes")
        given, output = popen.stdin.fileno(), popen.stdout.fileno()
        os.set_blocking(given, False)

        def wait(readable: list[int], writable: list[int]) -> None:
            if not any(select.select(readable, writable, [], max(deadline_s - time.monotonic(), 0.0))):
                popen.kill()
                raise _Gone(f"it did not answer for {limit_s:g} s")

        def write(data: bytes) -> None:
            left = memoryview(data)
            while left:
                wait([], [given])
                left = left[os.write(given, left) :]

        def read(size: int) -> bytes:
            found = bytearray()
            while len(found) < size:
                wait([output], [])
                data = os.read(output, size - len(found))
                if not data:
                    raise _Gone("it ended")
                found += data
            return bytes(found)

        try:
            send(write, request)
            return receive(read)
        except OSError as error:
            raise _Gone("it ended") from error


def _end(popen: subprocess.Popen[bytes]) -> None:
    popen.kill()
    popen.wait(_END_S)
    for pipe in (popen.stdin, popen.stdout):
        if pipe is not None:
            pipe.close()
