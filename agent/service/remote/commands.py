"""Commands: takes them in on one thread and runs them, one after the other, on a second; neither is anybody else's.

Order of what is on disk: taken on, then acknowledged to the broker; begun, then run; ended, then told. A power cut
anywhere leaves a row from which the next start goes on: begun and repeatable is begun once more, begun and not
repeatable ends as `interrupted`, ended and not told is told.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import structlog

from agent.errors import QeilError, StorageError
from agent.mqtt.inbound import Inbound
from agent.ports import Clock
from agent.records import record
from agent.schema.base import FileModel
from agent.schema.command import KINDS, CommandState
from agent.service.conditions import iso
from agent.service.remote.command_intake import CommandIntake, Refusal
from agent.service.remote.command_reports import CommandReports
from agent.storage import yaml_files
from agent.storage.command_table import CommandRow, CommandTable
from agent.storage.yaml_text import Document

MAX_ATTEMPTS = 2
QUEUE, QUEUE_BYTES = 1024, 8 * 1024 * 1024
"""Messages in memory that were not judged yet: brokers send a returning board more at once than it asked for."""
POLL_S, RETRY_S, PROGRESS_S = 0.05, 5.0, 1.0

_log = structlog.get_logger("commands")


class CommandFailed(QeilError):
    """The command could not do what it says; the instance's code goes into the result."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.reason = code


class Interrupted(Exception):
    """The agent stops while the command runs."""


@record
class Run:
    """What a running command may ask for: time, news of a stop, and to tell how far it is."""

    clock: Clock
    limit_s: float
    stopping: threading.Event
    tell: Callable[[str, float | None], None]
    _told_s: float = float("-inf")

    def __post_init__(self) -> None:
        self._end_s = self.clock.monotonic_s() + self.limit_s

    def progress(self, message: str, share: float | None = None) -> None:
        """Tell it, at most once a second. Raises when the command has to end: call it often."""
        if self.stopping.is_set():
            raise Interrupted
        now_s = self.clock.monotonic_s()
        if now_s >= self._end_s:
            raise CommandFailed("timed_out", f"not done within {self.limit_s:g} s ({message})")
        if now_s - self._told_s >= PROGRESS_S:
            self._told_s = now_s
            self.tell(message, share)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until it holds."""
        while not condition():
            self.progress(what)
            self.stopping.wait(POLL_S)


Action = Callable[[Any, Run], Mapping[str, Any]]
"""Takes the kind's arguments; its answer is the result's `out`. QeilError says why it could not."""


class Commands:
    """See module. `on_request` may be called from any thread and never waits."""

    def __init__(
        self,
        table: CommandTable,
        intake: CommandIntake,
        reports: CommandReports,
        actions: Mapping[str, Action],
        clock: Clock,
        again: Callable[[], None],
    ) -> None:
        """`again()` has the broker send once more what was not acknowledged."""
        self._table = table
        self._intake = intake
        self._reports = reports
        self._actions = dict(actions)
        self._clock = clock
        self._again = again
        self._inbox: queue.SimpleQueue[Inbound] = queue.SimpleQueue()
        self._inbox_bytes = 0
        self._inbox_lock = threading.Lock()
        self._missed = threading.Event()
        self._work = threading.Event()
        self._stopping = threading.Event()
        self._intake_thread = threading.Thread(target=self._run_intake, name="command-intake", daemon=True)
        self._worker = threading.Thread(target=self._run_worker, name="commands", daemon=True)
        self.counters = {"dropped": 0, "repeats": 0}

    def start(self) -> None:
        """Go on with what an earlier start left, then with what comes."""
        self._intake_thread.start()
        self._worker.start()

    def stop(self) -> None:
        """End; what runs is asked to, and is found interrupted by the next start where it does not heed that."""
        self._stopping.set()
        self._work.set()
        for thread in (self._intake_thread, self._worker):
            if thread.is_alive():
                thread.join(3.0)
        if not self._worker.is_alive():
            self._table.close()

    def alive(self) -> bool:
        """Whether both threads run; how long a command takes is its own business."""
        return self._intake_thread.is_alive() and self._worker.is_alive()

    # ------------------------------------------------------------------ taking in

    def on_request(self, inbound: Inbound) -> None:
        """Enqueue. What finds no room is not acknowledged: the broker keeps it and is asked for it once there is."""
        with self._inbox_lock:
            size = self._inbox_bytes + len(inbound.payload)
            fits = self._inbox.qsize() < QUEUE and size <= QUEUE_BYTES
            if fits:
                self._inbox_bytes = size
                self._inbox.put(inbound)
        if not fits:
            self.counters["dropped"] += 1
            self._missed.set()

    def _run_intake(self) -> None:
        try:
            while not self._stopping.is_set():
                self.take_next(0.5)
        except Exception:  # noqa: BLE001  (thread root: alive() turns false and the watchdog is not fed)
            _log.exception("command intake died")

    def take_next(self, timeout_s: float) -> None:
        """Judge the message that waits longest, or wait for one; what found no room comes again once none is left."""
        try:
            inbound = self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            self._reports.retry()
        else:
            with self._inbox_lock:
                self._inbox_bytes -= len(inbound.payload)
            self.take(inbound)
        if self._missed.is_set() and self._inbox.empty():
            self._missed.clear()
            _log.info("asking the broker again", dropped=self.counters["dropped"])
            self._again()

    def take(self, inbound: Inbound) -> None:
        """Judge one message, write it down, acknowledge it, answer."""
        verdict = self._intake.judge(inbound, self._clock.wall_s())
        inbound.acknowledge()
        if isinstance(verdict, Refusal):
            self._reports.refused(verdict)
        elif verdict.new:
            _log.info("command", id=verdict.row.id, command=verdict.row.name, state=verdict.row.state)
            self._reports.state(verdict.row)
            self._work.set()
        else:
            self.counters["repeats"] += 1
            self._reports.state(verdict.row, repeat=True)

    # ------------------------------------------------------------------ running

    def _run_worker(self) -> None:
        try:
            self._attempt(self.recover)
            while not self._stopping.is_set():
                self._attempt(self.round)
                self._work.wait(RETRY_S)
                self._work.clear()
        except Exception:  # noqa: BLE001  (thread root: alive() turns false and the watchdog is not fed)
            _log.exception("commands died")

    def _attempt(self, step: Callable[[], None]) -> None:
        """A disk that takes nothing leaves everything as it is until the next round."""
        try:
            step()
        except StorageError as error:
            _log.warning("commands wait for the disk", cause=error.message)

    def recover(self) -> None:
        """Settle what was cut off, and give the caller the ends that it may not have had before."""
        for row in self._table.untold():
            self._reports.state(row)
        for row in self._table.running():
            kind = KINDS.get(row.name)
            if kind is not None and kind.repeatable and row.attempts < MAX_ATTEMPTS:
                self._table.wait_again(row.id, self._clock.wall_s())
            else:
                self._end(row, "failed", "interrupted", f"the agent ended while it ran; begun {iso(row.changed_s)}")

    def round(self) -> None:
        """Run what waits, tell what is untold."""
        for row in self._table.waiting():
            if self._stopping.is_set():
                return
            self._one(row)
        for row in self._table.untold():
            if self._reports.recorded(row):
                self._table.told(row.id)

    def _one(self, row: CommandRow) -> None:
        if row.exp <= self._clock.wall_s():
            self._end(row, "expired", "expired", "its time was over before it could begin")
            return
        kind = KINDS.get(row.name)
        if kind is None or row.name not in self._actions:
            self._end(row, "rejected", "unsupported", f"{row.name} is not there in this version")
            return
        self._table.begin(row.id, self._clock.wall_s())
        row = replace(row, state="running", attempts=row.attempts + 1)
        _log.info("command begins", id=row.id, command=row.name, attempt=row.attempts)
        self._reports.state(row)
        run = Run(
            self._clock, kind.limit_s, self._stopping, lambda text, share: self._reports.progress(row, text, share)
        )
        try:
            out = dict(self._actions[row.name](_arguments(row, kind.args), run))
        except Interrupted:
            self._end(row, "failed", "interrupted", "the agent was stopped while it ran")
        except CommandFailed as failed:
            self._end(row, "failed", failed.reason, failed.message)
        except QeilError as error:
            self._end(row, "failed", error.code, error.message)
        except Exception as error:  # noqa: BLE001  (root of what a command does: its bug is its result)
            _log.exception("command failed", id=row.id, command=row.name)
            self._end(row, "failed", "bug", f"{type(error).__name__}: {error}")
        else:
            self._end(row, "ok", None, None, out)

    def _end(
        self,
        row: CommandRow,
        state: CommandState,
        code: str | None,
        message: str | None,
        out: dict[str, Any] | None = None,
    ) -> None:
        """Write the end down – for as long as the disk refuses – then tell it."""
        while True:
            try:
                self._table.finish(row.id, state, code, message, out, self._clock.wall_s())
                break
            except StorageError as error:
                _log.warning("the end of a command waits for the disk", id=row.id, cause=error.message)
                if self._stopping.wait(RETRY_S):
                    return
        _log.info("command ended", id=row.id, command=row.name, state=state, code=code)
        ended = self._table.get(row.id)
        if ended is not None and self._reports.ended(ended):
            self._table.told(row.id)


def _arguments(row: CommandRow, schema: type[FileModel]) -> FileModel:
    return yaml_files.validate(Document(row.args, {}), schema, "args")
