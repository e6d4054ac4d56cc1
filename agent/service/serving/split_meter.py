"""Split meter: what the stages of split models and the hand-overs between them really take, beside the predictions."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import field
from statistics import median

from agent.records import record

_RECENT = 128
"""Calls kept per stage and per pair of accelerators."""
MAX_SPLITS = 64
"""Splits whose stages are remembered; the one that was not used for longest makes room."""


@record(frozen=True)
class StageReading:
    """Medians of recent calls of one stage. `handover_s`: from the answer before it to its own, less its execution;
    taken only when its lane was idle, None while it never was."""

    requests: int
    execute_s: float
    handover_s: float | None


@record(frozen=True)
class Handover:
    """Measured against predicted between two accelerators: medians of recent hand-overs on an idle lane, in seconds."""

    requests: int
    measured_s: float
    predicted_s: float


@record
class _Stage:
    requests: int = 0
    execute_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    handover_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))


@record
class _Pair:
    requests: int = 0
    measured_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    predicted_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))


class SplitMeter:
    """Thread-safe; every method is short. Written by lanes' callbacks, read by supervisor and planner."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._splits: dict[tuple[str, str], dict[int, _Stage]] = {}
        self._pairs: dict[tuple[str, str], _Pair] = {}

    def ran(self, model: str, placement: str, stage: int, execute_s: float, handover_s: float | None) -> None:
        """A stage answered. handover_s: None where it is the first, or where its lane was busy."""
        with self._lock:
            key = (model, placement)
            stages = self._splits.pop(key, {})
            self._splits[key] = stages
            if len(self._splits) > MAX_SPLITS:
                del self._splits[next(iter(self._splits))]
            row = stages.setdefault(stage, _Stage())
            row.requests += 1
            row.execute_s.append(execute_s)
            if handover_s is not None:
                row.handover_s.append(handover_s)

    def crossed(self, source: str, target: str, measured_s: float, predicted_s: float) -> None:
        """Tensors went from one accelerator to an idle other."""
        with self._lock:
            pair = self._pairs.setdefault((source, target), _Pair())
            pair.requests += 1
            pair.measured_s.append(measured_s)
            pair.predicted_s.append(predicted_s)

    def stages(self, model: str, placement: str) -> Mapping[int, StageReading]:
        """Readings by stage, counted from 0; empty for a placement that never ran."""
        with self._lock:
            rows = self._splits.get((model, placement), {})
            return {
                index: StageReading(r.requests, median(r.execute_s), median(r.handover_s) if r.handover_s else None)
                for index, r in rows.items()
            }

    def handovers(self) -> Mapping[tuple[str, str], Handover]:
        """What was measured between accelerators (source, target)."""
        with self._lock:
            return {
                key: Handover(p.requests, median(p.measured_s), median(p.predicted_s)) for key, p in self._pairs.items()
            }
