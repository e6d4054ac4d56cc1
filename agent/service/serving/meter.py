"""Meter: counts and recent latencies of one model, written by the dispatcher and read by the supervisor."""

from __future__ import annotations

import threading
from collections import deque

from agent.control.energy_share import Used
from agent.records import record
from agent.schema.metric import Histogram
from agent.schema.snapshot import EnergyProvenance
from agent.service.serving.latencies import RECENT, Latencies

ENOUGH = 20
"""Calls on a lane before their p99 counts."""


@record(frozen=True)
class MeterReading:
    """What a meter shows at one moment. Latencies are request times inside the agent, in seconds."""

    requests: int
    failed: int
    replayed: int
    p50_s: float | None
    p99_s: float | None
    energy_j: float | None
    """Median joules of the recent answers; None while any of them is unknown."""
    provenance: EnergyProvenance
    """The weakest of those answers': unknown, then modelled, then measured."""
    total_energy_j: float
    by_accelerator: dict[str, tuple[int, float]]
    """Accelerator → (requests, median time of the recent calls on the lane)."""
    total_s: float = 0.0
    """Sum of the latencies of all answers."""


class Meter:
    """Thread-safe; every method is short."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = self._failed = self._replayed = 0
        self._latencies = Latencies()
        self._per_lane: dict[str, tuple[int, deque[float]]] = {}
        self._shared_s: dict[str, deque[tuple[float, float]]] = {}
        """Of calls that several requests shared: the call's time, one request's share."""
        self._energies: deque[tuple[float | None, EnergyProvenance]] = deque(maxlen=RECENT)
        self._total_energy_j = 0.0
        self._used: dict[str, Used] = {}

    def answered(
        self,
        accelerator: str,
        total_s: float,
        execute_s: float,
        energy_j: float | None,
        provenance: EnergyProvenance,
        replays: int,
        call_s: float | None = None,
    ) -> None:
        """Record an answer. `call_s`: of a call that several requests shared, the whole call's time."""
        with self._lock:
            self._requests += 1
            self._replayed += 1 if replays else 0
            self._latencies.add(total_s)
            count, times = self._per_lane.get(accelerator, (0, deque(maxlen=RECENT)))
            if call_s is None:
                times.append(execute_s)
            else:
                self._shared_s.setdefault(accelerator, deque(maxlen=RECENT)).append((call_s, execute_s))
            self._per_lane[accelerator] = (count + 1, times)
            self._energies.append((energy_j, provenance))
            self._total_energy_j += energy_j or 0.0
            used = self._used.get(accelerator, Used(0.0, 0.0))
            known = energy_j is not None and used.modelled_j is not None
            joules = (used.modelled_j or 0.0) + (energy_j or 0.0) if known else None
            self._used[accelerator] = Used(used.busy_s + execute_s, joules)

    @property
    def requests(self) -> int:
        """Requests recorded until now."""
        return self._requests

    def failed(self) -> None:
        """Record a request that got no answer, for whatever reason but the client's."""
        with self._lock:
            self._requests += 1
            self._failed += 1

    def slowest_s(self, accelerator: str) -> float | None:
        """p99 of the recent calls on a lane; None before there are enough to speak of one."""
        with self._lock:
            _, times = self._per_lane.get(accelerator, (0, deque()))
            calls = [*times, *(call_s for call_s, _ in self._shared_s.get(accelerator, ()))]
            return _quantile(sorted(calls), 0.99) if len(calls) >= ENOUGH else None

    def typical_s(self, accelerator: str) -> float | None:
        """Median of the recent calls that a request had to itself; None before there are enough to speak of one."""
        with self._lock:
            _, times = self._per_lane.get(accelerator, (0, deque()))
            return _quantile(sorted(times), 0.5) if len(times) >= ENOUGH else None

    def used(self) -> dict[str, Used]:
        """Computing time and joules by accelerator, since the beginning."""
        with self._lock:
            return dict(self._used)

    def latencies(self) -> Histogram:
        """Request times inside the agent of all answers [s]."""
        with self._lock:
            return self._latencies.histogram()

    def read(self) -> MeterReading:
        """A consistent copy."""
        with self._lock:
            recent = self._latencies.recent()
            shares = {name: [share_s for _, share_s in calls] for name, calls in self._shared_s.items()}
            lanes = {
                name: (count, _quantile(sorted(times) or sorted(shares.get(name, ())), 0.5) or 0.0)
                for name, (count, times) in self._per_lane.items()
            }
            energy_j, provenance = _energy(self._energies)
            return MeterReading(
                self._requests, self._failed, self._replayed, _quantile(recent, 0.5), _quantile(recent, 0.99),
                energy_j, provenance, self._total_energy_j, lanes, self._latencies.sum_s,
            )  # fmt: skip


def _energy(recent: deque[tuple[float | None, EnergyProvenance]]) -> tuple[float | None, EnergyProvenance]:
    known = sorted(energy_j for energy_j, _ in recent if energy_j is not None)
    if not known or len(known) < len(recent):
        return None, "unknown"
    return _quantile(known, 0.5), "modelled" if any(p == "modelled" for _, p in recent) else "measured"


def _quantile(ordered: list[float], share: float) -> float | None:
    if not ordered:
        return None
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
