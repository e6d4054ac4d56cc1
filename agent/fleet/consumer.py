"""Consumer: takes boards' messages from the broker, stores them in batches, and only then lets broker and board forget.

Order: committed, then the broker's acknowledgement, then the board's. Whatever dies in between comes again and is
known by its key. Any number of consumers share the messages of one group.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import structlog

from agent.errors import BadInput, StorageError
from agent.fleet.acknowledgements import Acknowledgements
from agent.fleet.messages import MessageRefused, Rows, Told, parse
from agent.fleet.store import Stored
from agent.mqtt.inbound import Inbound
from agent.ports import Clock

BATCH = 1000
"""Messages in one transaction."""
WAIT_S, RETRY_S, MAX_RETRY_S = 0.02, 0.5, 10.0
"""Least time from the begin of a batch to that of the next; pauses while the database takes nothing."""
HOLD_BACK_S = 5.0
"""Longest time that the link's thread waits for room; far below what counts as a hang."""
MAX_NAMED = 1000
"""Boards whose refusals are counted by name."""

_log = structlog.get_logger("consumer")


class Sink(Protocol):
    """Where a batch goes."""

    def take(self, batch: list[Rows | Told], now_s: float) -> Stored:
        """Store everything or nothing; StorageError, BadInput where it can never hold something of it."""
        ...


class Consumer:
    """One thread; `on_request` is called by the link's, and waits only where the broker sends more than it may."""

    def __init__(
        self,
        sink: Sink,
        send: Callable[[str, bytes], bool],
        clock: Clock,
        receive_maximum: int,
        on_told: Callable[[Told], None] = lambda _: None,
    ) -> None:
        """`receive_maximum`: what the link lets the broker send before the first is acknowledged; the bound of what
        waits here. `on_told` hears of every document after it was stored."""
        self._sink = sink
        self._clock = clock
        self._on_told = on_told
        self._inbox: queue.Queue[Inbound] = queue.Queue(2 * receive_maximum)
        self._stopping = threading.Event()
        self._next_s = clock.monotonic_s()
        """No batch begins before that."""
        self._thread = threading.Thread(target=self._run, name="consumer", daemon=True)
        self._acknowledgements = Acknowledgements(send)
        self.counters = {
            "messages": 0, "rows": 0, "duplicates": 0, "batches": 0, "acks": 0, "refused": 0, "storage_errors": 0,
            "dropped": 0,
        }  # fmt: skip
        self.refused: Counter[tuple[str, str]] = Counter()
        """By (tenant/board, code)."""
        self.failing: str | None = None
        """Why the last batch could not be stored."""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the batch that is being stored; what was not stored comes again."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(10.0)

    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def on_request(self, inbound: Inbound) -> None:
        """Enqueue. A broker that sends more than it may is held back by not reading on for a while."""
        try:
            self._inbox.put(inbound, timeout=HOLD_BACK_S)
        except queue.Full:  # not acknowledged: it comes again with the next connection, rows by the board's resend
            self.counters["dropped"] += 1

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self.round()
        except Exception:  # noqa: BLE001  (thread root: alive() turns false and health says so)
            _log.exception("consumer died")

    def round(self, wait_s: float = 0.5) -> int:
        """Take what is there, at most a batch, and see it through; how many messages that were."""
        batch = self._collect(wait_s)
        parsed = [found for inbound in batch if (found := self._parsed(inbound)) is not None]
        kept = self._stored(parsed) if parsed else []
        if kept is None:
            return 0
        for inbound in batch:
            inbound.acknowledge()
        self.counters["messages"] += len(batch)
        self._acknowledgements.add(message for message in kept if isinstance(message, Rows))
        self.counters["acks"] += self._acknowledgements.tell()
        for message in kept:
            if isinstance(message, Told):
                self._on_told(message)
        return len(batch)

    def _parsed(self, inbound: Inbound) -> Rows | Told | None:
        try:
            return parse(inbound.topic, inbound.payload)
        except MessageRefused as refused:
            self._refuse(refused)
            return None

    def _collect(self, wait_s: float) -> list[Inbound]:
        """The first, and all that waits WAIT_S after the batch before began, which may be at once.

        Nobody is woken for each message in between: that cost more than all else of it.
        """
        batch: list[Inbound] = []
        with suppress(queue.Empty):
            batch.append(self._inbox.get(timeout=wait_s))
            self._stopping.wait(max(0.0, self._next_s - self._clock.monotonic_s()))
            self._next_s = self._clock.monotonic_s() + WAIT_S
            while len(batch) < BATCH:
                batch.append(self._inbox.get_nowait())
        return batch

    def _stored(self, parsed: list[Rows | Told]) -> list[Rows | Told] | None:
        """Store for as long as it takes; what was stored, None only when told to stop meanwhile.

        What the database can never hold is looked for by halves and refused alone, so that it stops nobody else's.
        """
        pause_s = RETRY_S
        while True:
            try:
                if self._try(parsed):
                    return parsed
            except BadInput:
                return self._sifted(parsed)
            if self._stopping.wait(pause_s):
                return None
            pause_s = min(MAX_RETRY_S, 2 * pause_s)

    def _sifted(self, parsed: list[Rows | Told]) -> list[Rows | Told] | None:
        if len(parsed) == 1:
            self._refuse(MessageRefused("unstorable", parsed[0].board))
            return []
        half = len(parsed) // 2
        first = self._stored(parsed[:half])
        rest = None if first is None else self._stored(parsed[half:])
        return None if first is None or rest is None else first + rest

    def _try(self, parsed: list[Rows | Told]) -> bool:
        try:
            stored = self._sink.take(parsed, self._clock.wall_s())
        except StorageError as error:
            if self.failing is None:
                _log.warning("the database takes nothing", cause=error.message)
            self.failing = error.message
            self.counters["storage_errors"] += 1
            return False
        self.failing = None
        self.counters["rows"] += stored.rows
        self.counters["duplicates"] += stored.duplicates
        self.counters["batches"] += 1
        return True

    def _refuse(self, refused: MessageRefused) -> None:
        self.counters["refused"] += 1
        board = "/".join(refused.board) if refused.board else "?"
        key = (board if len(self.refused) < MAX_NAMED or (board, refused.code) in self.refused else "?", refused.code)
        self.refused[key] += 1
        if self.refused[key] == 1:
            _log.warning("message refused", board=board, code=refused.code)
