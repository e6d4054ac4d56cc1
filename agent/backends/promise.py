"""Promise: a future that tells who cancels it, at a tenth of what a callback for that costs every call."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Promise(Future[T], Generic[T]):
    """See module. Nothing tells it from a Future otherwise."""

    def __init__(self, cancelled: Callable[[Any], None], key: object = None) -> None:
        """`cancelled(key)` is called when it is cancelled.

        A key that refers to the promise keeps both alive until the next collection: whoever completes it clears `key`.
        """
        super().__init__()
        self._cancelled = cancelled
        self.key = key

    def cancel(self) -> bool:
        """As of Future."""
        is_cancelled = super().cancel()
        key, self.key = self.key, None
        if is_cancelled and key is not None:
            self._cancelled(key)
        return is_cancelled
