"""Decoder second: a model's second process, on another accelerator, and how the two processes are brought together."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import structlog

from agent.backends.decoder_lane import DecoderLane
from agent.errors import BadInput, PlacementError, QeilError
from agent.llm.sizes import DecoderSizes
from agent.ports import Clock, LaneSpec
from agent.schema.settings import DecoderSecond
from agent.service.decoding.decoder_keeper import DecoderHome, DecoderKeeper
from agent.service.decoding.decoder_room import REPACKED, RUNTIME_BYTES

PROGRAM = "agent.service.decoding.stage_process"
_log = structlog.get_logger("decoder")


def second_bytes(sizes: DecoderSizes, second: DecoderSecond) -> float:
    """Memory that the second process takes beyond what one would: itself, and for prompts the weights once more."""
    return RUNTIME_BYTES + (0.0 if second.layers else REPACKED * sizes.weight_bytes)


def check_second(sizes: DecoderSizes, second: DecoderSecond, first: str) -> None:
    """Raises PlacementError, BadInput where the two cannot share the model."""
    if second.accelerator == first:
        raise PlacementError(f"decoder.second.accelerator is {first!r} as well; name another one")
    if not sizes.shared_cache:
        raise BadInput(
            f"{sizes.path}: its graph gives the cache back instead of writing into it: no second accelerator"
        )
    if second.layers is not None and second.layers >= sizes.layers:
        raise BadInput(
            f"decoder.second.layers is {second.layers}, {sizes.name} has {sizes.layers}; 1 to {sizes.layers - 1} work"
        )


def second_home(first: DecoderHome, second: DecoderSecond, threads: int) -> DecoderHome:
    """Home of the second process."""
    order = replace(first.order, threads=threads, role="second", prefix_bytes=0)
    return replace(
        first, accelerator=second.accelerator, order=order, standby="cold" if first.standby == "cold" else "warm"
    )


def start_second(
    first: DecoderKeeper, second: DecoderSecond, threads: int, make_lane: Callable[[LaneSpec, str], DecoderLane],
    clock: Clock,
) -> DecoderPair:  # fmt: skip
    """Start the second process of a model."""
    spec = LaneSpec(f"{first.home.model} on {second.accelerator}", threads)
    keeper = DecoderKeeper(
        second_home(first.home, second, threads), lambda: make_lane(spec, PROGRAM), clock, lambda _stream, _report: None
    )
    keeper.wake = first.wake
    keeper.start(clock.monotonic_s())
    first.helper = keeper
    return DecoderPair(first, keeper)


class DecoderPair:
    """Brings the two processes together whenever one of them is new. Belongs to the supervisor's thread."""

    def __init__(self, first: DecoderKeeper, second: DecoderKeeper) -> None:
        self.first, self.second = first, second
        self._met: tuple[DecoderLane | None, DecoderLane | None] = (None, None)

    def tick(self) -> None:
        """Hand both ends of a new socket over, where both processes have loaded and have not met yet."""
        lanes = self.first.lane, self.second.lane
        if self.first.report is None or self.second.report is None or self._met == lanes or None in lanes:
            return
        ours, theirs = socket.socketpair()
        with ours, theirs, suppress(QeilError):  # one has died meanwhile; the next one is brought together again
            for lane, end in zip(lanes, (ours, theirs), strict=True):
                assert lane is not None  # noqa: S101  (asked above)
                lane.meet(end.fileno())
            self._met = lanes
            _log.info("decoder shared", model=self.first.home.model, with_=self.second.home.accelerator)
