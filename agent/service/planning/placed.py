"""Placed: a candidate placement as it lies on the lanes now, the stages of a split model seen as one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.ports import LoadReport
from agent.records import record
from agent.schema.snapshot import StageStatus
from agent.schema.workload import TensorSpec, Workload
from agent.service.planning.plan import Candidate, StageCandidate
from agent.service.serving.lane_keeper import LaneKeeper, LoadedModel
from agent.service.serving.split_meter import StageReading


@record(frozen=True)
class Placed:
    """`report` is there once everything the placement needs is loaded."""

    state: str
    report: LoadReport | None
    reason: str | None


def placed(candidate: Candidate, keepers: Mapping[str, LaneKeeper], workload: Workload | None) -> Placed | None:
    """The candidate on its lanes; None where none of it was ordered yet."""
    parts = [part_of(piece, keepers) for piece in candidate.pieces]
    loaded = [part for part in parts if part is not None]
    if not loaded:
        return None
    if not candidate.stages:
        return Placed(loaded[0].state, loaded[0].report, loaded[0].reason)
    refused = next((part for part in loaded if part.state == "refused"), None)
    if refused is not None:
        return Placed("refused", None, f"{refused.candidate.accelerator}: {refused.reason}")
    reasons = [f"{part.candidate.accelerator}: {part.reason}" for part in loaded if part.reason]
    reports = [part.report for part in loaded if part.report is not None]
    ready = len(loaded) == len(parts) and all(part.state == "ready" for part in loaded)
    report = _joined(candidate, reports, workload) if ready and len(reports) == len(parts) else None
    return Placed("ready" if ready else "loading", report, "; ".join(reasons) or None)


def part_of(piece: Candidate, keepers: Mapping[str, LaneKeeper]) -> LoadedModel | None:
    """What its lane holds under that name, if it is just this."""
    loaded = keepers[piece.accelerator].models.get(piece.load.model)
    return loaded if loaded is not None and loaded.candidate.load == piece.load else None


def _joined(candidate: Candidate, reports: list[LoadReport], workload: Workload | None) -> LoadReport:
    """The reports of all stages as one of the whole model, with its own inputs and outputs in its own order."""
    inputs: dict[str, TensorSpec] = {}
    outputs: dict[str, TensorSpec] = {}
    for stage, report in zip(candidate.stages, reports, strict=True):
        inputs.update({spec.name: spec for spec in report.inputs if spec.name in stage.given})
        outputs.update({spec.name: spec for spec in report.outputs if spec.name in stage.answers})
    nodes = [r.nodes for r in reports if r.nodes is not None]
    on_requested = [r.nodes_on_requested for r in reports if r.nodes_on_requested is not None]
    memory = [r.memory_bytes for r in reports if r.memory_bytes is not None]
    first = [r.first_run_s for r in reports if r.first_run_s is not None]
    everywhere = len(reports)
    return LoadReport(
        model=candidate.load.model, requested=", ".join(dict.fromkeys(r.requested for r in reports)),
        actual=tuple(dict.fromkeys(name for r in reports for name in r.actual)),
        nodes=sum(nodes) if len(nodes) == everywhere else None,
        nodes_on_requested=sum(on_requested) if len(on_requested) == everywhere else None,
        inputs=_in_order(inputs, workload.inputs if workload else ()),
        outputs=_in_order(outputs, workload.outputs if workload else ()),
        load_s=sum(r.load_s for r in reports), first_run_s=sum(first) if len(first) == everywhere else None,
        memory_bytes=sum(memory) if len(memory) == everywhere else None,
        notes=tuple(dict.fromkeys(note for r in reports for note in r.notes)),
    )  # fmt: skip


def _in_order(found: Mapping[str, TensorSpec], declared: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
    names = dict.fromkeys((*(spec.name for spec in declared), *found))
    return tuple(found[name] for name in names if name in found)


def stage_statuses(
    candidate: Candidate, keepers: Mapping[str, LaneKeeper], readings: Mapping[int, StageReading]
) -> tuple[StageStatus, ...]:
    """What status shows of each stage: predictions beside what was measured."""
    return tuple(_stage(index, stage, keepers, readings.get(index)) for index, stage in enumerate(candidate.stages))


def _stage(
    index: int, stage: StageCandidate, keepers: Mapping[str, LaneKeeper], reading: StageReading | None
) -> StageStatus:
    part = part_of(stage, keepers)
    return StageStatus(
        accelerator=stage.accelerator, name=stage.load.model,
        state=part.state if part else "not loaded", receives=stage.receives,
        crossing_bytes=stage.crossing_bytes, predicted_ms=_ms(stage.predicted_s),
        measured_p50_ms=_ms(reading.execute_s) if reading else None,
        predicted_handover_ms=_ms(stage.handover_s) if index else None,
        measured_handover_ms=_ms(reading.handover_s) if reading else None,
        requests=reading.requests if reading else 0,
    )  # fmt: skip


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3
