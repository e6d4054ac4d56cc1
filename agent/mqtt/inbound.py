"""Inbound: one message that came down to the board, as the link hands it over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MAX_CORRELATION_BYTES = 256


@dataclass(frozen=True)
class Inbound:
    """A message. `acknowledge` tells the broker that it is safe here; until then it may come again."""

    topic: str
    payload: bytes
    response_topic: str | None
    correlation: bytes | None
    acknowledge: Callable[[], None]
