"""Inbound: one message that came down to the board, as the link hands it over."""

from __future__ import annotations

from collections.abc import Callable

from agent.records import record

MAX_CORRELATION_BYTES = 256


@record(frozen=True)
class Inbound:
    """A message. `acknowledge` tells the broker that it is safe here; until then it may come again."""

    topic: str
    payload: bytes
    response_topic: str | None
    correlation: bytes | None
    acknowledge: Callable[[], None]
