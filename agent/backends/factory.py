"""Makes the lanes of one agent, which share one reader thread."""

from __future__ import annotations

from typing import Literal

from agent.backends.decoder_lane import DecoderLane
from agent.backends.io import LaneIO
from agent.backends.lane import ProcessLane
from agent.backends.thread_lane import ThreadLane
from agent.ports import Clock, Doorbells, Lane, LaneSpec


class LaneFactory:
    """`isolation` process: a crash costs one lane. thread: less memory for the smallest boards, no such protection."""

    def __init__(self, isolation: Literal["process", "thread"], clock: Clock) -> None:
        self._isolation = isolation
        self._clock = clock
        self._io = LaneIO(clock)

    def __call__(self, spec: LaneSpec) -> Lane:
        """A lane that has not started."""
        if self._isolation == "thread":
            return ThreadLane(spec, self._clock, self._io)
        return ProcessLane(spec, self._clock, self._io)

    def decoder(self, spec: LaneSpec, program: str) -> DecoderLane:
        """A decoder's lane that has not started; `program` is the module that its process runs. Always a process."""
        return DecoderLane(spec, self._clock, self._io, program)

    @property
    def doorbells(self) -> Doorbells:
        """Where the answers of all lanes arrive."""
        return self._io

    def close(self) -> None:
        """End the reader thread, after the lanes have stopped."""
        self._io.close()
