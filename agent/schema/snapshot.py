"""What others may see of the agent: one immutable snapshot, replaced by one assignment and read without locks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Literal

from agent.records import record

EnergyProvenance = Literal["measured", "modelled", "unknown"]
Mode = Literal["starting", "ready", "throttled", "degraded", "draining", "fault"]
LaneState = Literal["idle", "starting", "ready", "restarting", "quarantined", "stopped", "refused"]


@record(frozen=True)
class Condition:
    """A lasting problem: what it is, why, what it costs and the one thing that mends it."""

    type: str
    since: str
    cause: str
    consequence: str
    mend: str


@record(frozen=True)
class AcceleratorStatus:
    """One lane as last seen by the supervisor."""

    name: str
    backend: str
    provider: str
    state: LaneState
    permit: bool
    temperature_c: float | None
    power_w: float | None
    restarts: int
    last_fault: str | None
    capacity_share: float = 1.0
    pace: float = 1.0
    """Share of its time that it may be busy, for the heat's sake."""
    simulated: bool = False
    queue: int = 0
    pid: int | None = None
    """Process of the lane; None in thread isolation and while it is down."""
    unknown: Mapping[str, str] = field(default_factory=dict)
    """Why a figure of this row is null, by its key."""


@record(frozen=True)
class ZoneStatus:
    """One temperature zone: what it reads, its hard limit, and what has been learnt of it. None: unknown.

    forecast_c: at the policy's horizon if the powers stay; ambient_c: where it would settle without work; k_per_w: of
    the accelerator that heats it most; error_c: root mean square of its one-step forecasts.
    """

    name: str
    temperature_c: float | None
    limit_c: float
    forecast_c: float | None = None
    learnt: bool = False
    ambient_c: float | None = None
    k_per_w: float | None = None
    error_c: float | None = None
    fault: str | None = None
    unknown: Mapping[str, str] = field(default_factory=dict)
    """Why a figure of this row is null, by its key."""


@record(frozen=True)
class StageStatus:
    """One stage of a model that is split over several accelerators: predicted beside measured (medians).

    receives: tensors that come from earlier stages; a hand-over lasts from their arrival in the agent to the answer of
    this stage, less its execution, measured on an idle lane. None: unknown, or not measured yet.
    """

    accelerator: str
    name: str
    state: str
    receives: tuple[str, ...]
    crossing_bytes: float | None
    predicted_ms: float | None
    measured_p50_ms: float | None
    predicted_handover_ms: float | None
    measured_handover_ms: float | None
    requests: int = 0
    unknown: Mapping[str, str] = field(default_factory=dict)
    """Why a figure of this row is null, by its key."""


@record(frozen=True)
class PlacementStatus:
    """One candidate placement of a model, in order of preference."""

    accelerator: str
    state: str
    requested: str
    actual: str
    accelerated_fraction: float | None
    predicted_ms: float | None
    predicted_energy_j: float | None
    measured_p50_ms: float | None
    reason: str | None = None
    stages: tuple[StageStatus, ...] = ()
    """Of a split model, in order."""
    variant: str = ""
    """Which file of the model; empty: the model file itself."""
    quality: float | None = None
    loading_s: float | None = None
    """Time since its load began, while it loads or compiles; with what is expected of it, where that is known."""
    expected_load_s: float | None = None
    expected_load_provenance: Literal["measured", "modelled", "unknown"] = "unknown"
    timed_ms: float | None = None
    """One call as the agent timed it on the idle board, of a split with its hand-overs; None where it did not yet."""
    unknown: Mapping[str, str] = field(default_factory=dict)
    """Why a figure of this row is null, by its key."""


@record(frozen=True)
class ModelStatus:
    """One model: what was asked, what is true."""

    name: str
    state: str
    requested: str
    actual: str
    accelerated_fraction: float | None
    placement: str | None
    p50_ms: float | None
    p99_ms: float | None
    energy_j: float | None
    provenance: EnergyProvenance
    requests: int = 0
    failed: int = 0
    replayed: int = 0
    candidates: tuple[PlacementStatus, ...] = ()
    reason: str | None = None
    total_energy_j: float | None = None
    """Of all answers whose joules are known; None where the requests' own meter counts them."""
    variant: str = ""
    """Which file of the model its placement runs; empty: the model file itself."""
    samples: str | None = None
    """Of a language model beside others: where its samples would be written and verified, and why."""
    unknown: Mapping[str, str] = field(default_factory=dict)
    """Why a figure of this row is null, by its key."""


@record(frozen=True)
class AgentInfo:
    """The agent itself."""

    version: str
    mode: Mode
    since: str
    policy: str
    policy_digest: str
    boot: int
    board: str
    profile: str


@record(frozen=True)
class AgentSnapshot:
    """Everything `/status` shows."""

    agent: AgentInfo
    accelerators: tuple[AcceleratorStatus, ...] = ()
    models: tuple[ModelStatus, ...] = ()
    conditions: tuple[Condition, ...] = ()
    zones: tuple[ZoneStatus, ...] = ()
