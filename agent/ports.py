"""Protocols between the composition and its adapters, and the plain data that crosses them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy.typing as npt

from agent.records import record
from agent.schema.device import Runtime
from agent.schema.metric import Metric
from agent.schema.snapshot import AgentSnapshot, EnergyProvenance
from agent.schema.workload import TensorSpec

if TYPE_CHECKING:  # boards without texts start sooner without it
    from agent.schema.text import AnswerScores, AnswerTold, SamplingPlan, TextEvent, TextModel, TextRequest

Tensor = npt.NDArray[Any]
Tensors = Mapping[str, Tensor]


class Clock(Protocol):
    """Time, injected so that tests own it."""

    def monotonic_s(self) -> float:
        """Seconds that never jump (CLOCK_MONOTONIC, comparable between processes of one boot)."""

    def wall_s(self) -> float:
        """Seconds since 1970, which may jump."""


# ---------------------------------------------------------------------------------------------- sensors


@record(frozen=True)
class Reading:
    """One sensor value, or the reason why there is none. Exactly one of `value` and `fault` is set."""

    name: str
    kind: Literal["temperature_c", "power_w", "energy_j", "share", "frequency_hz"]
    value: float | None
    fault: Literal["absent", "read_failed", "implausible"] | None
    t_s: float
    source: str = ""
    detail: str = ""
    """Why there is no value and what mends it, or what a value leaves out."""


class Sensor(Protocol):
    """Something that can be read; reading never raises."""

    name: str

    def read(self, now_s: float) -> Reading:
        """One short, bounded read."""


# ---------------------------------------------------------------------------------------------- lanes


@record(frozen=True)
class Simulation:
    """What a simulated accelerator pretends: real numerics on the CPU, this much time, energy and heat."""

    duration_s: float
    energy_j: float
    idle_power_w: float
    thermal_resistance_k_per_w: float
    heat_capacity_j_per_k: float
    ambient_c: float


@record(frozen=True)
class LaneSpec:
    """How a lane's process is made."""

    accelerator: str
    threads: int
    cpu_affinity: tuple[int, ...] | None = None
    max_queue: int = 64
    simulated: bool = False
    memory_limit_bytes: int | None = None
    nice: int = 0


@record(frozen=True)
class LoadSpec:
    """A model to load on a lane through one runtime."""

    model: str
    path: Path
    format: str
    runtime: Runtime
    threads: int
    simulation: Simulation | None = None
    warmup_runs: int = 2
    source: Path | None = None
    """The model file, where `path` is made from it."""
    engines: Path | None = None
    """Folder in which a runtime that compiles keeps what it made for the next start; None: nowhere."""


@record(frozen=True)
class LoadReport:
    """What was really loaded: nothing is assumed from what was asked."""

    model: str
    requested: str
    actual: tuple[str, ...]
    nodes: int | None
    nodes_on_requested: int | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    load_s: float
    first_run_s: float | None
    memory_bytes: int | None
    notes: tuple[str, ...] = ()

    @property
    def accelerated_fraction(self) -> float | None:
        """Share of the graph's nodes on the requested provider; None where the runtime does not tell."""
        on_requested = self.nodes_on_requested
        return None if not self.nodes or on_requested is None else on_requested / self.nodes


class LaneReply(NamedTuple):
    """A finished call. `outputs` are copies or views that stay valid as long as they are referenced. Where `together`
    requests shared it, time and joules are one's share by rows, and `call_s` is the whole call's time."""

    outputs: dict[str, Tensor]
    execute_s: float
    energy_j: float | None = None
    energy_provenance: EnergyProvenance = "unknown"
    together: int = 1
    call_s: float | None = None


@record(frozen=True)
class LaneVitals:
    """What the lane's process writes by itself several times a second."""

    heartbeat_s: float
    rss_bytes: int
    busy_since_s: float | None
    temperature_c: float | None = None
    power_w: float | None = None
    busy_until_s: float | None = None
    """Deadline of the call in progress, which tells whose call it is; None where the lane does not say."""
    waited_s: float | None = None
    """Total time its busiest thread was ready to run and got no core; None where the kernel does not tell."""
    stopped: bool = False
    """The kernel holds the process (SIGSTOP, a debugger)."""
    busy_s: float | None = None
    """Time that finished calls took since the process began; None where the lane does not count it."""


class Doorbells(Protocol):
    """Where lanes' answers arrive. An event loop that waits for them may adopt it, which spares a change of thread."""

    def fileno(self) -> int:
        """Readable when something has arrived."""

    def serve(self) -> None:
        """Take in what has arrived, completing futures on the calling thread; never waits."""

    def adopt(self) -> None:
        """The caller serves from now on."""

    def release(self) -> None:
        """The lanes' own thread serves again."""


class Lane(Protocol):
    """One accelerator's executor. Futures carry `agent.errors.BackendError` subclasses on failure.

    Every method may be called from any thread. Futures complete on the lane's own reader thread, so callbacks
    must be short and must not raise.
    """

    spec: LaneSpec

    def start(self, on_death: Callable[[str], None]) -> None:
        """Start the process; `on_death(cause)` is called once per death with signal and last stderr line."""

    def load(self, spec: LoadSpec, timeout_s: float) -> Future[LoadReport]:
        """Load beside what is loaded. Fails with ModelLoadFailed, LaneDied."""
        ...

    def unload(self, model: str) -> Future[None]:
        """Forget a model."""
        ...

    def submit(
        self, model: str, inputs: Tensors, outputs: tuple[str, ...] | None, deadline_s: float
    ) -> Future[LaneReply]:
        """Run once. `deadline_s` is monotonic; when it passes the future fails with DeadlineExceeded at once."""
        ...

    def renew_permit(self, valid_until_s: float) -> None:
        """Extend (or, with 0, withdraw) the permission to run; readable by the process without a message."""
        ...

    def set_pace(self, share: float) -> None:
        """Let it be busy for at most this share of its time, in (0, 1]; readable by the process without a message."""
        ...

    def vitals(self) -> LaneVitals | None:
        """Last sign of life, None before the first."""
        ...

    def queue_length(self) -> int:
        """Calls accepted and not answered."""
        ...

    def alive(self) -> bool:
        """Whether calls are accepted."""
        ...

    def pid(self) -> int | None:
        """Process id, None in thread isolation or when dead."""
        ...

    def kill(self, cause: str) -> None:
        """End the process at once; pending futures fail with LaneDied(cause)."""
        ...

    def stop(self, timeout_s: float) -> None:
        """End in order."""
        ...


# ---------------------------------------------------------------------------------------------- serving


class InferenceRequest(NamedTuple):
    """A decoded request."""

    model: str
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...] | None
    request_id: str
    deadline_s: float | None = None
    """Seconds from now; None takes the policy's default."""
    placement: str | None = None
    """Run on this accelerator or fail; None lets the dispatcher choose."""


class InferenceAnswer(NamedTuple):
    """An answer and what it cost; where `together` requests shared the call, its share by rows."""

    outputs: dict[str, Tensor]
    model: str
    version: str
    placement: str
    provider: str
    accelerated_fraction: float | None
    execute_s: float
    energy_j: float | None
    provenance: EnergyProvenance
    policy_digest: str
    replays: int = 0
    together: int = 1


@record(frozen=True)
class ModelMetadata:
    """What clients ask about a model."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ready: bool
    reason: str | None = None


@record(frozen=True)
class RequestLimits:
    """Bounds the HTTP edge enforces before decoding; they follow the policy in force."""

    max_body_bytes: int
    max_json_body_bytes: int


class TextHandle(Protocol):
    """Texts under way."""

    def cancel(self) -> None:
        """Compute nothing more for them; no further event comes."""
        ...


class TextService(Protocol):
    """Language models, as the HTTP edge needs them; every method is non-blocking and thread-safe."""

    def text_models(self) -> tuple[TextModel, ...]:
        """All language models, ready or not."""
        ...

    def write(self, request: TextRequest, on_event: Callable[[TextEvent], None]) -> TextHandle:
        """Begin to write; raises RequestError subclasses. Events come in order on the lanes' thread, TextDone or an
        error last; `on_event` must be short and must not raise."""
        ...

    def answer(self, request: TextRequest, plan: SamplingPlan, on_event: Callable[[TextEvent], None]) -> TextHandle:
        """Answer from repeated samples; the events are those of the one text that was chosen."""
        ...

    def tell(self, number: str, truth: str | None, right: bool | None) -> AnswerTold:
        """Learn what was right; may wait for the disk. Raises NotFound for an answer not remembered, BadInput."""
        ...

    def scores(self) -> AnswerScores:
        """What has been learnt so."""
        ...

    def plan_of(self, request: TextRequest) -> SamplingPlan | None:
        """How the policy wants a request answered that does not say; None: as it is."""
        ...


class InferenceService(Protocol):
    """What the HTTP edge needs of the agent; every method is non-blocking and thread-safe."""

    def infer(self, request: InferenceRequest) -> Future[InferenceAnswer]:
        """Guard, admit, run. The future fails with RequestError subclasses."""
        ...

    def models(self) -> tuple[ModelMetadata, ...]:
        """All models known, ready or not."""
        ...

    def model(self, name: str) -> ModelMetadata:
        """One model; raises NotFound with the known names."""
        ...

    def newer(self, model: str) -> str:
        """Of a model that is not there: what settings changed since the start say, as the end of a sentence or ''."""
        ...

    def load_model(self, name: str) -> Future[None]:
        """Load a configured model again (repository extension)."""
        ...

    def unload_model(self, name: str) -> Future[None]:
        """Stop serving a model (repository extension)."""
        ...

    def snapshot(self) -> AgentSnapshot:
        """The latest snapshot."""
        ...

    def limits(self) -> RequestLimits:
        """Bounds in force."""
        ...

    def live(self) -> bool:
        """The supervisor ticks."""
        ...

    def ready(self) -> bool:
        """Every configured model is ready."""
        ...

    def metrics(self) -> tuple[Metric, ...]:
        """All metrics, for Prometheus."""
        ...


# ---------------------------------------------------------------------------------------------- telemetry


@record(frozen=True)
class OutboxRow:
    """A stored telemetry row; (boot, cls, seq) is its key."""

    boot: int
    cls: Literal["tlm", "evt", "gap"]
    seq: int
    payload: dict[str, Any]


@record(frozen=True)
class LinkStatus:
    """The broker connection as telemetry and status show it."""

    connected: bool
    since_s: float | None
    connections: int
    last_error: str | None
    loop_alive_s: float | None = None
    counters: dict[str, int] = field(default_factory=dict)
