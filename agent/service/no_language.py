"""No language: what stands where language models would be, on the boards whose settings name none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from agent.errors import QeilError
from agent.schema.metric import Histogram
from agent.schema.snapshot import ModelStatus
from agent.service.serving.lane_keeper import LaneKeeper

if TYPE_CHECKING:  # boards without texts start sooner without it
    from agent.schema.text import TextModel


class NoDecoders:
    """What the application asks of `decoding.decoders.Decoders`."""

    def text_models(self) -> tuple[TextModel, ...]:
        """None."""
        return ()

    def statuses(self) -> tuple[ModelStatus, ...]:
        """None."""
        return ()

    def latencies(self) -> dict[str, Histogram]:
        """Of no model."""
        return {}

    def in_flight(self) -> int:
        """No request is ever under way."""
        return 0

    def start(self) -> None:
        """Nothing to start."""

    def tick(self, keepers: Mapping[str, LaneKeeper], now_s: float) -> None:
        """Nothing to look after."""

    def fail_all(self, error: QeilError) -> None:
        """Nobody waits."""

    def stop(self, timeout_s: float) -> None:
        """Nothing to end."""
