"""Split trial: one run of a split model through its stages for its time alone, hand-overs included."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future

from agent.errors import QeilError
from agent.ports import Clock, LaneReply, LoadReport, Tensor
from agent.service.planning.plan import Candidate
from agent.service.serving.lane_keeper import LaneKeeper
from agent.service.serving.routing_table import RouteEntry, StageRoute
from agent.service.serving.split_meter import SplitMeter
from agent.service.serving.split_run import Progress, SplitRun


class SplitTrial:
    """Runs whole questions through the stages; `meter` learns of the hand-overs, for the next plan."""

    def __init__(self, clock: Clock, meter: SplitMeter) -> None:
        self._clock, self._meter = clock, meter

    def timed(
        self, candidate: Candidate, keepers: Mapping[str, LaneKeeper], inputs: dict[str, Tensor], timeout_s: float
    ) -> Future[LaneReply] | None:
        """A reply whose `execute_s` is what the stages took and what handing over took; None where a lane is gone.

        The future is cancelled where the time is none: a stage failed, or its lane had other work.
        """
        stages = []
        for stage in candidate.stages:
            lane = keepers[stage.accelerator].lane
            if lane is None:
                return None
            stages.append(StageRoute(stage, lane))
        reply: Future[LaneReply] = Future()
        stopwatch = _Stopwatch(self._meter)

        def finished(made: LaneReply) -> None:
            if stopwatch.complete:
                reply.set_result(LaneReply(made.outputs, stopwatch.time_s))
            else:
                reply.cancel()

        def failed(_accelerator: str, _error: QeilError) -> None:
            reply.cancel()  # what is wrong with a lane its canary finds

        name = candidate.load.model
        nothing = LoadReport(name, "", (), None, None, (), (), 0.0, None, None)
        route = RouteEntry(
            candidate.accelerator, stages[0].lane, nothing, True, 1.0, 1.0, candidate.predicted_s, candidate.dynamic_j,
            candidate.static_w, tuple(stages), candidate.split, name,
        )  # fmt: skip
        run = SplitRun(
            route, name, Progress(candidate.split, inputs), None, self._clock.monotonic_s() + timeout_s, self._clock,
            stopwatch, finished, failed,
        )  # fmt: skip
        run.start()
        return reply


class _Stopwatch(SplitMeter):
    """Adds up one run. Stages are no requests of the model; hand-overs are passed on."""

    def __init__(self, meter: SplitMeter) -> None:
        super().__init__()
        self._behind = meter
        self.time_s = 0.0
        self.complete = True

    def ran(self, model: str, placement: str, stage: int, execute_s: float, handover_s: float | None) -> None:
        super().ran(model, placement, stage, execute_s, handover_s)
        self.time_s += execute_s + (handover_s or 0.0)
        self.complete = self.complete and (stage == 0 or handover_s is not None)

    def crossed(self, source: str, target: str, measured_s: float, predicted_s: float) -> None:
        self._behind.crossed(source, target, measured_s, predicted_s)
