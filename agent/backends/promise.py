"""Promise: a future that tells who cancels it, made and completed at half of what the library's own costs every call.

What a future costs is its condition, which nobody waits on where answers go to callbacks: this one makes it when
somebody does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")
_Lock: Final = type(threading.RLock())


class _Bell(_Lock):  # type: ignore[misc, valid-type]
    """The part of a condition that a future uses. Both methods are called by who holds the lock."""

    waited: threading.Condition | None = None
    """On which somebody waits, or did."""

    def wait(self, timeout: float | None = None) -> bool:
        """As of Condition."""
        if self.waited is None:
            self.waited = threading.Condition(self)
        return self.waited.wait(timeout)

    def notify_all(self) -> None:
        """As of Condition."""
        if self.waited is not None:
            self.waited.notify_all()


class Promise(Future[T], Generic[T]):
    """See module. Nothing tells it from a Future otherwise."""

    def __init__(self, cancelled: Callable[[Any], None], key: object = None) -> None:
        """`cancelled(key)` is called when it is cancelled.

        A key that refers to the promise keeps both alive until the next collection: whoever completes it clears `key`.
        """
        # All that Future's own __init__ sets, which would make a condition; a test compares the two.
        self._condition = _Bell()
        self._state = "PENDING"
        self._result: Any = None
        self._exception: BaseException | None = None
        self._waiters = []
        self._done_callbacks: list[Callable[[Future[T]], object]] = []
        self._cancelled = cancelled
        self.key = key

    def set_result(self, result: T) -> None:
        """As of Future, which also looks for who waits by other means than its condition."""
        bell: Any = self._condition
        with bell:
            plain = self._state == "PENDING" and not self._waiters
            if plain:
                self._result = result
                self._state = "FINISHED"
                if bell.waited is not None:
                    bell.waited.notify_all()
        if plain:
            self._invoke_callbacks()  # type: ignore[attr-defined]
        else:
            super().set_result(result)  # not under the lock, as it calls back

    def done(self) -> bool:
        """As of Future, without its lock: a state is set in one step, and never set back."""
        return self._state not in {"PENDING", "RUNNING"}

    def cancelled(self) -> bool:
        """As of Future, without its lock."""
        return self._state in {"CANCELLED", "CANCELLED_AND_NOTIFIED"}

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As of Future, which takes its lock also where the outcome is there already."""
        return self._exception if self._state == "FINISHED" else super().exception(timeout)

    def result(self, timeout: float | None = None) -> T:
        """As of Future, which takes its lock also where a result is there already."""
        if self._state == "FINISHED" and self._exception is None:
            result: T = self._result  # set before the state, as is an exception
            return result
        return super().result(timeout)

    def cancel(self) -> bool:
        """As of Future."""
        is_cancelled = super().cancel()
        key, self.key = self.key, None
        if is_cancelled and key is not None:
            self._cancelled(key)
        return is_cancelled
