"""Metrics as Prometheus understands them: families of labelled values, and histograms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from agent.records import record


@record(frozen=True)
class Histogram:
    """How many values were at most each bound, in total, and their sum, since the beginning."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    """Cumulative, one a bound."""
    count: int
    sum: float


@record(frozen=True)
class Metric:
    """One metric family; each sample is (labels, value), each of `histograms` (labels, what was counted)."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: tuple[tuple[dict[str, str], float], ...] = ()
    histograms: tuple[tuple[dict[str, str], Histogram], ...] = ()

    def rows(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """(name, labels, value) of every line: a histogram has one for each bound, `_sum` and `_count`."""
        for labels, value in self.samples:
            yield self.name, labels, value
        for labels, told in self.histograms:
            for bound, count in (*zip(told.bounds, told.counts, strict=True), (float("inf"), told.count)):
                most = "+Inf" if bound == float("inf") else f"{bound:g}"
                yield f"{self.name}_bucket", {**labels, "le": most}, float(count)
            yield f"{self.name}_sum", labels, told.sum
            yield f"{self.name}_count", labels, float(told.count)

    def names(self) -> tuple[str, ...]:
        """Of the lines."""
        parts = ("_bucket", "_sum", "_count") if self.kind == "histogram" else ("",)
        return tuple(f"{self.name}{part}" for part in parts)
