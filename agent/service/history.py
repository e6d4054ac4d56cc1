"""History: the last hour of the board and what happened in it, in memory and bounded, for people who look.

Owns the ring of averaged points and the ring of events; telemetry on disk is the business of `reporting`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from agent.records import record
from agent.schema.snapshot import AcceleratorStatus, AgentSnapshot

PERIOD_S = 5.0
"""One point sums up this many seconds."""
POINTS = 720
"""An hour of points."""
EVENTS = 256
TREND_POINTS = 12
"""A trend looks at the last minute."""
FEWEST_TREND_POINTS = 4


@record
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    def value(self, digits: int) -> float | None:
        return round(self.total / self.count, digits) if self.count else None


@record
class _Gathered:
    """What one accelerator did since the last point."""

    temperature_c: _Mean = field(default_factory=_Mean)
    power_w: _Mean = field(default_factory=_Mean)
    busy: _Mean = field(default_factory=_Mean)

    def add(self, status: AcceleratorStatus) -> None:
        if status.temperature_c is not None:
            self.temperature_c.add(status.temperature_c)
        if status.power_w is not None:
            self.power_w.add(status.power_w)
        self.busy.add(1.0 if status.queue else 0.0)


class History:
    """Ticks and events come from any thread; readers get copies."""

    def __init__(self, period_s: float = PERIOD_S, points: int = POINTS, events: int = EVENTS) -> None:
        self.period_s = period_s
        self._lock = threading.Lock()
        self._points: deque[dict[str, Any]] = deque(maxlen=points)
        self._events: deque[dict[str, Any]] = deque(maxlen=events)
        self._numbers = [0, 0]
        self._gathered: dict[str, _Gathered] = {}
        self._answered: dict[str, int] = {}
        self._begun_s: float | None = None

    def tick(self, snapshot: AgentSnapshot, now_s: float, wall_s: float) -> None:
        """Take a snapshot in (monotonic and wall seconds); closes a point when its period is over.

        busy is the share of ticks that found calls in the lane: a sample of its utilisation.
        """
        for a in snapshot.accelerators:
            gathered = self._gathered.get(a.name)
            if gathered is None:
                gathered = self._gathered[a.name] = _Gathered()
            gathered.add(a)
        if self._begun_s is None:
            self._begun_s = now_s
            self._answered = _answered(snapshot)
        elif now_s - self._begun_s >= self.period_s:
            self._close(snapshot, self._begun_s, now_s, wall_s)
            self._begun_s = now_s

    def _close(self, snapshot: AgentSnapshot, begun_s: float, now_s: float, wall_s: float) -> None:
        span_s = now_s - begun_s
        before, self._answered = self._answered, _answered(snapshot)
        accelerators = {
            name: {
                "temperature_c": g.temperature_c.value(2), "power_w": g.power_w.value(4), "busy_share": g.busy.value(3),
            }
            for name, g in self._gathered.items()
        }  # fmt: skip
        models = {
            m.name: _model(m.p50_ms, m.p99_ms, m.requests, before.get(m.name, 0), span_s) for m in snapshot.models
        }
        self._gathered = {}
        with self._lock:
            self._numbers[0] += 1
            self._points.append(
                {
                    "n": self._numbers[0], "ts": round(wall_s, 1), "mono": round(now_s, 2),
                    "accelerators": accelerators, "models": models,
                }
            )  # fmt: skip

    def event(self, kind: str, fields: Mapping[str, Any], wall_s: float) -> None:
        """Something that happened once."""
        with self._lock:
            self._numbers[1] += 1
            self._events.append({"n": self._numbers[1], "ts": round(wall_s, 3), "event": kind, **fields})

    def since(self, point: int, event: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Points and events with greater numbers than these, oldest first.

        A number that was never given (of an agent that has been restarted meanwhile) asks for everything.
        """
        with self._lock:
            point = point if point <= self._numbers[0] else 0
            event = event if event <= self._numbers[1] else 0
            return [p for p in self._points if p["n"] > point], [e for e in self._events if e["n"] > event]

    def latest(self) -> dict[str, Any] | None:
        """The last point."""
        with self._lock:
            return self._points[-1] if self._points else None

    def slope_k_per_s(self, accelerator: str) -> float | None:
        """Least-squares slope of its temperature over the last minute; None while too little of it is known."""
        with self._lock:
            recent = list(self._points)[-TREND_POINTS:]
        rows = [(p["mono"], p["accelerators"].get(accelerator, {}).get("temperature_c")) for p in recent]
        known = [(t, c) for t, c in rows if c is not None]
        if len(known) < FEWEST_TREND_POINTS:
            return None
        mean_t, mean_c = sum(t for t, _ in known) / len(known), sum(c for _, c in known) / len(known)
        spread = sum((t - mean_t) ** 2 for t, _ in known)
        slope: float = sum((t - mean_t) * (c - mean_c) for t, c in known) / spread
        return slope


def _answered(snapshot: AgentSnapshot) -> dict[str, int]:
    return {m.name: m.requests for m in snapshot.models}


def _model(p50_ms: float | None, p99_ms: float | None, requests: int, before: int, span_s: float) -> dict[str, Any]:
    new = requests - before if requests >= before else requests
    return {
        "p50_ms": None if p50_ms is None else round(p50_ms, 4), "p99_ms": None if p99_ms is None else round(p99_ms, 4),
        "requests_per_s": round(new / span_s, 3),
    }  # fmt: skip
