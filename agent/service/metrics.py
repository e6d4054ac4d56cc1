"""Metrics: the snapshot and the dispatcher's counters as Prometheus families, SI units in the names."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Final, get_args

from agent.schema.metric import Histogram, Metric
from agent.schema.snapshot import AgentSnapshot, Mode
from agent.service.serving.dispatcher import Dispatcher

ALWAYS: Final = ("no_thermal_sensor", "policy_rejected")
"""Conditions that an alert may wait for from the first look on."""
MAX_KINDS: Final = 256
Samples = tuple[tuple[dict[str, str], float], ...]


def collect(
    snapshot: AgentSnapshot, dispatcher: Dispatcher, mailbox_dropped: int, seen: ConditionsSeen | None = None
) -> tuple[Metric, ...]:
    """Every family, in a fixed order. A value that nobody measured has no sample.

    seen: remembers the conditions that ended, which stay as 0.
    """
    standing = (seen or ConditionsSeen()).look(c.type for c in snapshot.conditions)
    agent = _agent(snapshot, dispatcher, mailbox_dropped, standing)
    families = (agent, _models(snapshot, dispatcher), _batches(dispatcher))
    return (*(metric for family in families for metric in family), *_accelerators(snapshot))


class ConditionsSeen:
    """Kinds of conditions that stood at some look: a series that vanishes would look like one that nobody asks for.

    Thread-safe: /metrics is asked on the edge's thread, and a push to a collector has one of its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kinds: dict[str, None] = dict.fromkeys(ALWAYS)

    def look(self, now: Iterable[str]) -> dict[str, bool]:
        """Kind → whether it stands, for every kind that was seen (MAX_KINDS at most; those that stand are there)."""
        standing = set(now)
        with self._lock:
            for kind in sorted(standing - set(self._kinds)):
                self._kinds[kind] = None
            for kind in [k for k in self._kinds if k not in standing and k not in ALWAYS]:
                if len(self._kinds) <= MAX_KINDS:
                    break
                del self._kinds[kind]
            return {kind: kind in standing for kind in self._kinds}


def latencies(dispatcher: Dispatcher, texts: Mapping[str, Histogram]) -> Metric:
    """Seconds from a request to its answer inside the agent, of every model that has answered or writes text."""
    found = {**{name: meter.latencies() for name, meter in list(dispatcher.meters.items())}, **texts}
    told = tuple(({"model": name}, histogram) for name, histogram in found.items())
    return Metric("qeil_model_latency_seconds", "histogram", "Seconds from a request to its answer", (), told)


def _agent(
    snapshot: AgentSnapshot, dispatcher: Dispatcher, mailbox_dropped: int, standing: Mapping[str, bool]
) -> tuple[Metric, ...]:
    info = snapshot.agent
    labels = {"version": info.version, "board": info.board, "policy": info.policy, "policy_digest": info.policy_digest}
    counters = dispatcher.counters
    modes = tuple(({"mode": mode}, float(mode == info.mode)) for mode in get_args(Mode))
    return (
        Metric("qeil_info", "gauge", "Constant 1; the labels say what runs", ((labels, 1.0),)),
        Metric("qeil_mode", "gauge", "1 for the mode the agent is in", modes),
        Metric("qeil_requests_in_flight", "gauge", "Requests accepted and not answered", _one(dispatcher.in_flight())),
        Metric("qeil_requests_waiting", "gauge", "Requests without a usable placement", _one(dispatcher.waiting())),
        Metric("qeil_requests_refused_total", "counter", "Requests refused by admission", _one(counters["refused"])),
        Metric(
            "qeil_refused_forms_evicted_total",
            "counter",
            "Forms of requests that were refused for a while, forgotten for want of room",
            _one(counters["forms_evicted"]),
        ),
        Metric("qeil_requests_expired_total", "counter", "Requests whose deadline passed", _one(counters["expired"])),
        Metric("qeil_inputs_rejected_total", "counter", "Inputs the guard refused", _one(counters["rejected_input"])),
        Metric("qeil_replays_total", "counter", "Moves of a request to another lane", _one(counters["replayed"])),
        Metric("qeil_mailbox_dropped_total", "counter", "Events dropped by the supervisor", _one(mailbox_dropped)),
        Metric(
            "qeil_conditions",
            "gauge",
            "1 while the condition stands, 0 after it ended",
            tuple(({"type": kind}, float(stands)) for kind, stands in standing.items()),
        ),
    )


def guarded(counts: Mapping[tuple[str, str, str], int]) -> Metric:
    """What the guard found, by model, kind and action."""
    rows = sorted(counts.items())
    samples = tuple(({"model": m, "kind": kind, "action": action}, float(n)) for (m, kind, action), n in rows)
    return Metric("qeil_guard_findings_total", "counter", "Inputs that looked wrong to the guard", samples)


def _models(snapshot: AgentSnapshot, dispatcher: Dispatcher) -> tuple[Metric, ...]:
    rows = [({"model": m.name}, m) for m in snapshot.models]
    energies: list[tuple[dict[str, str], float]] = []
    for name, meter in dispatcher.meters.items():
        reading = meter.read()
        energies.append(({"model": name, "provenance": reading.provenance}, reading.total_energy_j))
    energies += [
        ({"model": m.name, "provenance": m.provenance}, m.total_energy_j)
        for m in snapshot.models
        if m.total_energy_j is not None
    ]
    return (
        Metric(
            "qeil_model_ready",
            "gauge",
            "1 while the model can be served",
            tuple((n, float(m.state == "ready")) for n, m in rows),
        ),
        Metric(
            "qeil_model_requests_total", "counter", "Requests accepted", tuple((n, float(m.requests)) for n, m in rows)
        ),
        Metric(
            "qeil_model_failures_total",
            "counter",
            "Requests without an answer",
            tuple((n, float(m.failed)) for n, m in rows),
        ),
        Metric("qeil_model_energy_joules_total", "counter", "Energy of all answers", tuple(energies)),
    )


def _batches(dispatcher: Dispatcher) -> tuple[Metric, ...]:
    sizes, undone = dispatcher.batches.counts()
    calls = tuple(({"model": m, "requests": band}, float(n)) for (m, band), n in sorted(sizes.items()))
    return (
        Metric("qeil_batches_total", "counter", "Calls of batched models, by the requests that shared one", calls),
        Metric(
            "qeil_batches_undone_total", "counter", "Failed batches that were run again one by one",
            tuple(({"model": m}, float(n)) for m, n in sorted(undone.items())),
        ),
    )  # fmt: skip


def _accelerators(snapshot: AgentSnapshot) -> tuple[Metric, ...]:
    rows = [({"accelerator": a.name}, a) for a in snapshot.accelerators]
    temperatures = tuple((n, a.temperature_c) for n, a in rows if a.temperature_c is not None)
    powers = tuple((n, a.power_w) for n, a in rows if a.power_w is not None)
    return (
        Metric(
            "qeil_accelerator_ready",
            "gauge",
            "1 while the lane serves",
            tuple((n, float(a.state == "ready")) for n, a in rows),
        ),
        Metric("qeil_accelerator_permit", "gauge", "1 while it may run", tuple((n, float(a.permit)) for n, a in rows)),
        Metric(
            "qeil_accelerator_restarts_total",
            "counter",
            "Restarts of the lane",
            tuple((n, float(a.restarts)) for n, a in rows),
        ),
        Metric(
            "qeil_accelerator_queue", "gauge", "Calls accepted by the lane", tuple((n, float(a.queue)) for n, a in rows)
        ),
        Metric("qeil_accelerator_temperature_celsius", "gauge", "Hottest zone that speaks for it", temperatures),
        Metric("qeil_accelerator_power_watts", "gauge", "Power of its rails", powers),
    )


def _one(value: float) -> Samples:
    return (({}, float(value)),)
