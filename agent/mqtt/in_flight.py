"""In flight: what was handed to one connection and has no outcome yet.

The acknowledgement of a message can arrive before `publish` has returned its number, and paho calls back under its own
lock, so no lock of ours may be held while handing over: whichever of number and outcome comes second settles it.
"""

from __future__ import annotations

import threading

from agent.records import record


@record(frozen=True)
class Publication:
    """Outcome of one publish: the broker's reason code, or None where the connection was lost first."""

    token: int
    reason_code: int | None


class InFlight:
    """Thread-safe; one per connection."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: dict[int, int | None] = {}
        self._early: dict[int, int] = {}
        self._lost = False

    def handed_over(self, number: int, token: int | None) -> Publication | None:
        """The connection gave the message this number; its outcome, where that is known already."""
        with self._lock:
            if self._lost:
                return None if token is None else Publication(token, None)
            if number in self._early:
                code = self._early.pop(number)
                return None if token is None else Publication(token, code)
            self._tokens[number] = token
            return None

    def finished(self, number: int, reason_code: int) -> Publication | None:
        """The broker answered; the outcome, where the message is known already and somebody asked."""
        with self._lock:
            if number not in self._tokens:
                self._early[number] = reason_code
                return None
            token = self._tokens.pop(number)
            return None if token is None else Publication(token, reason_code)

    def count(self) -> int:
        """Messages without an answer."""
        return len(self._tokens)

    def lose(self) -> list[Publication]:
        """The connection is gone: the outcomes of all that had none."""
        with self._lock:
            self._lost = True
            tokens, self._tokens = self._tokens, {}
            return [Publication(token, None) for token in tokens.values() if token is not None]
