"""Bundle trial: compares windows under a bundle with the board's own windows from before it, one pair after the other.

Pure but for the windows it is given: no clock, no thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import Any

from agent.control.worse import Evidence, weighed
from agent.records import record
from agent.schema.bundle import Trial
from agent.schema.snapshot import AgentSnapshot
from agent.service.remote.physics_windows import Observation

BOUND = 0.25
"""Largest excess that one window may count for."""
_KELVIN = 40.0
"""Temperatures count in this unit, so that BOUND is 10 K."""
_QUANTITIES = ("energy", "latency", "failures")
MAX_LANE_ENDS = 3
"""Lanes that ended this often more than before revert a bundle without any test."""


@record(frozen=True)
class Health:
    """What must not get worse at all."""

    ready: frozenset[str]
    accelerated: dict[str, float]
    quarantined: frozenset[str]
    restarts: int

    @classmethod
    def of(cls, snapshot: AgentSnapshot) -> Health:
        """The board as it is now."""
        return cls(
            frozenset(m.name for m in snapshot.models if m.state == "ready"),
            {m.name: m.accelerated_fraction for m in snapshot.models if m.accelerated_fraction is not None},
            frozenset(a.name for a in snapshot.accelerators if a.state == "quarantined"),
            sum(a.restarts for a in snapshot.accelerators),
        )


@record
class BundleTrial:
    """One trial. `baseline` has the windows from before, oldest first."""

    rules: Trial
    baseline: Sequence[Observation]
    health: Health
    evidence: dict[tuple[str, str], Evidence] = field(default_factory=dict)
    windows: int = 0

    def __post_init__(self) -> None:
        models = {name for window in self.baseline for name in window.models}
        lanes = {name for window in self.baseline for name in window.temperatures_c}
        self._tests = max(1, len(_QUANTITIES) * len(models) + len(lanes))

    def add(self, window: Observation) -> tuple[str, str] | None:
        """Take one window in; a code and a sentence once something is proven to have become worse."""
        if not window.models:
            return None
        before = self._paired()
        self.windows += 1
        for quantity, name, excess, margin in self._excesses(before, window):
            key = (quantity, name)
            self.evidence[key] = weighed(self.evidence.get(key, Evidence()), excess, margin, BOUND)
            if self.evidence[key].proves(self.rules.risk / self._tests):
                return f"worse_{quantity}", self._sentence(quantity, name)
        return None

    def _paired(self) -> Observation | None:
        """The newest window of the baseline that was not compared yet."""
        left = len(self.baseline) - self.windows
        return self.baseline[left - 1] if left > 0 else None

    def _excesses(self, before: Observation | None, after: Observation) -> Iterator[tuple[str, str, float, float]]:
        if before is None:
            return
        for name, new in after.models.items():
            old = before.models.get(name)
            if old is None:
                continue
            yield "failures", name, new.failure_share - old.failure_share, self.rules.max_failures
            if new.energy_j and old.energy_j:
                yield "energy", name, math.log(new.energy_j / old.energy_j), math.log1p(self.rules.max_worse)
            if new.latency_s and old.latency_s:
                yield "latency", name, math.log(new.latency_s / old.latency_s), math.log1p(self.rules.max_slower)
        for name, hot_c in after.temperatures_c.items():
            if name in before.temperatures_c:
                rise_c = hot_c - before.temperatures_c[name]
                yield "temperature", name, rise_c / _KELVIN, self.rules.max_hotter_c / _KELVIN

    def broken(self, now: Health, mode: str) -> tuple[str, str] | None:
        """A code and a sentence where something is plainly broken, whatever the windows say."""
        if mode == "fault":
            return "fault", "the agent is in fault"
        lost = sorted(self.health.ready - now.ready)
        if lost:
            return "model_lost", f"{lost[0]} was served before and is not any more"
        newly = sorted(now.quarantined - self.health.quarantined)
        if newly:
            return "lane_quarantined", f"{newly[0]} is quarantined"
        if now.restarts - self.health.restarts >= MAX_LANE_ENDS:
            return "lanes_end", f"lanes ended {now.restarts - self.health.restarts} times"
        for name, share in self.health.accelerated.items():
            if now.accelerated.get(name, share) < share - 0.1:
                return "less_accelerated", f"{name}: {share:.0%} ran accelerated, now {now.accelerated[name]:.0%}"
        return None

    @property
    def enough(self) -> bool:
        """Whether it has seen the windows it was to see."""
        return self.windows >= self.rules.windows

    @property
    def proven(self) -> bool:
        """Whether there was anything to compare."""
        return any(e.pairs >= self.rules.windows // 2 for (q, _), e in self.evidence.items() if q == "energy")

    def figures(self) -> dict[str, Any]:
        """Mean changes so far, by quantity and name: shares, and kelvin for temperatures."""
        found: dict[str, Any] = {"windows": self.windows}
        for (quantity, name), evidence in sorted(self.evidence.items()):
            found.setdefault(quantity, {})[name] = round(_plain(quantity, evidence.mean_excess), 4)
        return found

    def _sentence(self, quantity: str, name: str) -> str:
        evidence = self.evidence[quantity, name]
        change = _plain(quantity, evidence.mean_excess)
        pairs = f"{evidence.pairs} windows against as many from before"
        words = {
            "energy": f"{name}: {change:+.0%} joules per inference",
            "latency": f"{name}: {change:+.0%} mean latency",
            "failures": f"{name}: {100 * change:+.1f} points of failed requests",
            "temperature": f"{name}: {change:+.1f} K",
        }
        return f"{words[quantity]} ({pairs})"


def _plain(quantity: str, excess: float) -> float:
    if quantity == "temperature":
        return excess * _KELVIN
    return excess if quantity == "failures" else math.expm1(excess)
