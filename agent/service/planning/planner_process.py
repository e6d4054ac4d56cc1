"""Planner process: makes plans beside the agent, so that no plan ever holds the agent's interpreter.

A thread that costs stages and searches placements holds the interpreter most of the time, and on a busy machine it is
put aside while it holds it; every other thread, the supervisor's too, then waits for a core to come free. A process of
its own cannot do that.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog

from agent.backends.head_start import environment
from agent.child import child_command
from agent.errors import PlacementError
from agent.placement.state import State
from agent.schema.policy import Policy
from agent.schema.settings import ModelEntry
from agent.service.board import Board
from agent.service.planning.kept import APART_BYTES
from agent.service.planning.plan import ModelPlan, Plan
from agent.service.planning.planner_frames import Alive, Failed, Order, Setup, framed, receive, without_graph

if TYPE_CHECKING:
    from agent.service.planning.split_planner import Handovers, SplittingPlanner

PATIENCE_S = 15.0
"""Longest silence: a board that is slow and busy may take seconds to start an interpreter."""
LIMIT_S = 1800.0
"""Longest plan, whatever it says: models that are read and cut for the first time have limits of their own."""
CHILD = "agent.service.planning.planner_child"
_END_S = 2.0


class Plans(Protocol):
    """Makes plans; one thread at a time."""

    def plan(
        self, policy: Policy, digest: str, models: Sequence[ModelEntry], state: State | None = None,
        running: Plan | None = None,
    ) -> Plan:  # fmt: skip
        """As of `Planner.plan`."""


class Stopping(PlacementError):
    """Nobody wants the plan any more."""


class _Gone(Exception):
    """There is no process, it ended, or it does not answer."""


class PlannerProcess:
    """`plan` is called by one thread; `start` and `close` from any. A process that dies is replaced at the next plan.

    Where there is none, the agent plans itself as long as that lasts, and says so.
    """

    def __init__(
        self, board: Board, state_dir: Path, handovers: Handovers, told: Callable[[str | None], None] = lambda _: None,
        program: str = CHILD, patience_s: float = PATIENCE_S, apart_bytes: int = APART_BYTES,
    ) -> None:  # fmt: skip
        """`handovers()` is what was measured between accelerators so far; `told(why)` is called when the agent plans
        itself, `told(None)` when it need not any more."""
        self._setup = framed(Setup(board, state_dir, apart_bytes))
        self._here: SplittingPlanner | None = None
        self._board, self._state_dir, self._apart_bytes = board, state_dir, apart_bytes
        self._board_now: Callable[[], Board] = lambda: board
        self._handovers = handovers
        self._told = told
        self._program = program
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._use = threading.Lock()
        """Held by whoever uses the pipes."""
        self._popen: subprocess.Popen[bytes] | None = None
        self._greeted: subprocess.Popen[bytes] | None = None
        self._closed = self.uncut = False
        self._alone = False
        self._log = structlog.get_logger("planner")

    def follow(self, board: Callable[[], Board]) -> None:
        """`board()`: as it is to be planned with from the next plan on; another object is another board."""
        self._board_now = board

    def _renew(self) -> None:
        board = self._board_now()
        if board is not self._board:
            self._board, self._setup = board, framed(Setup(board, self._state_dir, self._apart_bytes))
            self._here = None
            self._drop()

    def _own(self) -> SplittingPlanner:
        """The planner in this process, made when it is needed: an agent without models never imports it."""
        if self._here is None:
            from agent.service.planning.split_planner import SplittingPlanner  # noqa: PLC0415

            self._here = SplittingPlanner(self._board, self._state_dir, self._handovers, self._apart_bytes)
        return self._here

    def start(self) -> None:
        """Begin to start it; the first plan then need not wait for an interpreter."""
        with self._use:
            try:
                self._running()
            except _Gone as error:
                self._log.warning("no planning process", why=str(error))

    def first(self, policy: Policy, digest: str, models: Sequence[ModelEntry], state: State | None = None) -> Plan:
        """A plan made by the agent itself, at once. state: the board before any lane.

        Splits that were never cut are not in it; `uncut` tells whether there are any, which the next plan cuts.
        """
        if not models and not any((self._state_dir / kept).exists() for kept in ("apart", "splits")):
            return Plan(digest, ())  # and nothing of former plans to forget
        plan, self.uncut = self._own().plan_uncut(policy, digest, models, state)
        return plan

    def plan(
        self, policy: Policy, digest: str, models: Sequence[ModelEntry], state: State | None = None,
        running: Plan | None = None,
    ) -> Plan:  # fmt: skip
        """As of `Planner.plan`.

        Raises PlacementError where the agent stops, RuntimeError with the reason where the planner itself failed.
        """
        graphs = {(m.name, m.digest): m for m in (running.models if running else ()) if m.workload is not None}
        known = frozenset(graphs)
        bare = running and replace(running, models=tuple(without_graph(m, known) for m in running.models))
        order = Order(policy, digest, tuple(models), state, bare, known, self._handovers())
        with self._use:
            self._renew()
            try:
                found = self._asked(self._running(), order)
            except _Gone as error:
                if self._closed:
                    raise Stopping("the agent is stopping") from error
                self._drop()
                self._tell(str(error))
                return self._own().plan(policy, digest, models, state, running)
        self._tell(None)
        if isinstance(found, Failed):
            raise PlacementError(found.message) if found.told else RuntimeError(found.message)
        if not isinstance(found, Plan):
            raise TypeError(f"the planning process answered with {type(found).__name__}")
        return replace(found, models=tuple(_with_graph(m, graphs.get((m.name, m.digest))) for m in found.models))

    def close(self) -> None:
        """End it; a plan in progress ends with PlacementError."""
        with self._lock:
            self._closed = True
            popen, self._popen = self._popen, None
            if popen is not None:
                _kill(popen)
        with self._use:  # whoever waits for its answer has seen its end by then, and leaves the pipes
            if popen is not None:
                _end(popen)

    @property
    def pid(self) -> int | None:
        """Process id; None where there is none."""
        with self._lock:
            return None if self._popen is None else self._popen.pid

    def _drop(self) -> None:
        """The next plan gets a process of its own."""
        with self._lock:
            popen, self._popen = self._popen, None
        if popen is not None:
            _kill(popen)
            _end(popen)

    def _tell(self, why: str | None) -> None:
        if why is not None:
            self._log.warning("planning in the agent itself", why=why)
        if why is not None or self._alone:
            self._told(why)
        self._alone = why is not None

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
                        child_command(self._program), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                        bufsize=0,
                        env=environment(dict(os.environ), 1), start_new_session=True,
                    )  # fmt: skip
                except OSError as error:
                    raise _Gone(f"it cannot be started: {error.strerror}") from error
            return self._popen

    def _asked(self, popen: subprocess.Popen[bytes], order: Order) -> object:
        pipes = _Pipes(popen, self._patience_s)
        try:
            if self._greeted is not popen:
                pipes.write(self._setup)
                self._greeted = popen
            pipes.write(framed(order))
            while isinstance(found := receive(pipes.read), Alive):
                pass
        except OSError as error:
            raise _Gone("it ended") from error
        return found


class _Pipes:
    """Both pipes for one plan. A process that is silent for `patience_s`, or busy for `LIMIT_S`, is killed: _Gone."""

    def __init__(self, popen: subprocess.Popen[bytes], patience_s: float) -> None:
        if popen.stdin is None or popen.stdout is None:
            raise TypeError("a process without pipes")
        self._popen = popen
        self._given, self._output = popen.stdin.fileno(), popen.stdout.fileno()
        os.set_blocking(self._given, False)
        self._patience_s = patience_s
        self._end_s = time.monotonic() + LIMIT_S

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            self._wait([], [self._given])
            left = left[os.write(self._given, left) :]

    def read(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            self._wait([self._output], [])
            data = os.read(self._output, size - len(found))
            if not data:
                raise _Gone("it ended")
            found += data
        return bytes(found)

    def _wait(self, readable: list[int], writable: list[int]) -> None:
        left_s = max(min(self._patience_s, self._end_s - time.monotonic()), 0.0)
        if not any(select.select(readable, writable, [], left_s)):
            _kill(self._popen)
            raise _Gone(f"it did not answer for {self._patience_s if left_s else LIMIT_S:g} s")


def _with_graph(model: ModelPlan, running: ModelPlan | None) -> ModelPlan:
    if model.workload is not None or running is None:
        return model
    return replace(model, workload=running.workload)


def _kill(popen: subprocess.Popen[bytes]) -> None:
    """With whatever reads or cuts a model for it: it leads a process group of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(popen.pid, signal.SIGKILL)


def _end(popen: subprocess.Popen[bytes]) -> None:
    popen.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):  # one that waits for a disk ends when it can
        popen.wait(_END_S)
    for pipe in (popen.stdin, popen.stdout):
        if pipe is not None:
            pipe.close()
