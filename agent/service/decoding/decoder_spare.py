"""Decoder spare: the process of a language model that waits to take over when the serving one dies.

It has imported its runtime and read the tokenizer; with `standby: all` it holds the model too. Belongs to the keeper,
which decides when it takes over.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Literal

from agent.backends.decoder_lane import DecoderLane, DecoderOrder, DecoderReport
from agent.errors import QeilError

SPARE_PAUSE_S = 5.0
"""Shortest time between two starts of a process in standby."""
PATIENCE_S = 30.0
"""Longest that the next process waits for texts whose prompts are read again; a second death would find none."""
Standby = Literal["cold", "warm", "all"]


class DecoderSpare:
    """See module. Not thread-safe."""

    def __init__(self, standby: Standby, order: DecoderOrder, make_lane: Callable[[], DecoderLane]) -> None:
        self._standby, self._order, self._make_lane = standby, order, make_lane
        self._lane: DecoderLane | None = None
        self._load: Future[DecoderReport] | None = None
        self._since_s = float("-inf")

    @property
    def lives(self) -> bool:
        """Whether there is one to take over."""
        return self._lane is not None and self._lane.alive()

    def take(self) -> tuple[DecoderLane | None, Future[DecoderReport] | None]:
        """Hand it over, with its load where that has begun."""
        taken = (self._lane, self._load) if self.lives else (None, None)
        self._lane = self._load = None
        return taken

    def keep(
        self, on_death: Callable[[DecoderLane, str], None], permit_until_s: float, now_s: float, *, begin: bool
    ) -> None:
        """Look after it; where there is none, begin one, unless the cores are needed (not `begin`)."""
        if self._standby == "cold":
            return
        if self._lane is not None and self._lane.alive():
            self._lane.renew_permit(permit_until_s)
            return
        if not begin or now_s - self._since_s < SPARE_PAUSE_S:
            return
        lane, self._since_s = self._make_lane(), now_s
        self._lane = lane
        with suppress(QeilError):  # without a spare a restart takes longer; a later tick tries again
            lane.start(lambda cause: on_death(lane, cause))
            if self._standby == "all":
                self._load = lane.load(self._order)
            else:
                lane.prepare(self._order)

    def stop(self, timeout_s: float) -> None:
        """End it."""
        if self._lane is not None:
            self._lane.stop(timeout_s)
