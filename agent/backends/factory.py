"""Makes the lanes of one agent, which share one reader thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from agent.backends.head_start import Spare
from agent.backends.io import LaneIO
from agent.backends.lane import ProcessLane
from agent.ports import Clock, Doorbells, Lane, LaneSpec

if TYPE_CHECKING:
    from agent.backends.decoder_lane import DecoderLane


class LaneFactory:
    """`isolation` process: a crash costs one lane. thread: less memory for the smallest boards, no such protection."""

    def __init__(self, isolation: Literal["process", "thread"], clock: Clock, spare: Spare | None = None) -> None:
        """`spare` becomes the process of the first lane that it fits."""
        self._spare = spare
        self._isolation = isolation
        self._clock = clock
        self._io = LaneIO(clock)

    def __call__(self, spec: LaneSpec) -> Lane:
        """A lane that has not started."""
        if self._isolation == "thread":
            from agent.backends.thread_lane import ThreadLane  # noqa: PLC0415 - brings all that a lane's process has

            return ThreadLane(spec, self._clock, self._io)
        return ProcessLane(spec, self._clock, self._io, self._spare_for(spec))

    def _spare_for(self, spec: LaneSpec) -> Spare | None:
        spare = self._spare
        if spare is None or spare.threads != spec.threads:
            return None
        self._spare = None
        return spare

    def release_spare(self) -> None:
        """All lanes that start with the agent have started: end a process that none of them took."""
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.end()

    def decoder(self, spec: LaneSpec, program: str) -> DecoderLane:
        """A decoder's lane that has not started; `program` is the module that its process runs. Always a process."""
        from agent.backends.decoder_lane import DecoderLane  # noqa: PLC0415 - boards with a language model

        return DecoderLane(spec, self._clock, self._io, program)

    @property
    def doorbells(self) -> Doorbells:
        """Where the answers of all lanes arrive."""
        return self._io

    def close(self) -> None:
        """End the reader thread, after the lanes have stopped."""
        self.release_spare()
        self._io.close()
