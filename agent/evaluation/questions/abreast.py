"""Abreast: many questions in flight, each on a connection of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Worker = TypeVar("Worker")
LOOK_S = 0.2
"""How often the caller's thread wakes while others work, so that Ctrl-C is heard."""


def each(items: Iterable[Item], workers: Sequence[Worker], work: Callable[[Worker, Item], None]) -> None:
    """Do `work` for every item; each worker has one at a time, and items are begun in their order.

    One worker works on the caller's thread. Where one of several raises, no further item is begun; the first error is
    raised once those under way are done.
    """
    if len(workers) == 1:
        for item in items:
            work(workers[0], item)
        return
    _Crew(items, work).go_on(workers)


class _Crew(Generic[Worker, Item]):
    def __init__(self, items: Iterable[Item], work: Callable[[Worker, Item], None]) -> None:
        self._left, self._work = iter(items), work
        self._lock = threading.Lock()
        self._errors: list[BaseException] = []

    def go_on(self, workers: Sequence[Worker]) -> None:
        # Daemons: a request that hangs must not hold up the end of a program that was interrupted.
        threads = [threading.Thread(target=self._do, args=(w,), name="question", daemon=True) for w in workers]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(LOOK_S)
        except BaseException as error:
            self._end(error)
            raise
        if self._errors:
            raise self._errors[0]

    def _do(self, worker: Worker) -> None:
        try:
            while following := self._next():
                self._work(worker, following[0])
        except BaseException as error:  # noqa: BLE001  (root of a thread: raised again by the caller's)
            self._end(error)

    def _next(self) -> tuple[Item, ...]:
        """The next item; none left, or none to be begun any more: empty."""
        with self._lock:
            if self._errors:
                return ()
            return next(((item,) for item in self._left), ())

    def _end(self, error: BaseException) -> None:
        with self._lock:
            self._errors.append(error)
