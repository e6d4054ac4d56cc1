"""Policy: what the owner WANTS of a board. Says nothing about what the board is (that is a device profile).

Safety limits have no defaults: a policy that does not state them is refused.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from agent.schema.base import FileModel, Name
from agent.schema.guard import Guard


class Weights(FileModel):
    """Relative importance of the normalised objectives; at least one above zero."""

    energy: float = Field(ge=0)
    latency: float = Field(ge=0)
    underutilisation: float = Field(ge=0)

    @model_validator(mode="after")
    def _some_weight(self) -> Weights:
        if self.energy + self.latency + self.underutilisation <= 0:
            raise ValueError("at least one weight must be above 0")
        return self


Goal = Literal["latency", "throughput"]


class Objective(FileModel):
    """Which point of the Pareto front is wanted."""

    method: Literal["weights", "lexicographic", "knee"]
    weights: Weights | None = Field(default=None, description="for method: weights")
    order: tuple[Literal["energy", "latency", "underutilisation"], ...] = Field(
        default=(), description="for method: lexicographic, most important first"
    )
    tolerance: float = Field(default=0.02, ge=0, le=1, description="share by which an earlier objective may give way")
    goal: Goal = Field(
        default="latency",
        description="what latency means: that of one request, or (throughput) the time between requests in a pipeline",
    )

    @model_validator(mode="after")
    def _complete(self) -> Objective:
        if self.method == "weights" and self.weights is None:
            raise ValueError("method weights needs the key weights")
        if self.method == "lexicographic" and not self.order:
            raise ValueError("method lexicographic needs the key order")
        return self


class ThermalForecast(FileModel):
    """How the learnt thermal model of the board acts before a limit is reached."""

    horizon_s: float = Field(default=60.0, ge=2, le=3600, description="how far ahead zones are forecast")
    headroom_c: float = Field(default=0.3, gt=0, lt=30, description="the forecast stays this far below the hard limit")
    trip_margin_c: float = Field(
        default=0.5, gt=0, lt=30, description="the hard limit lies this far below a trip once a zone is learnt"
    )
    max_error_c: float = Field(
        default=3.0, gt=0, lt=20, description="a zone whose forecasts err by more is held to soft_c and hard_c alone"
    )
    move: bool = Field(default=True, description="requests may take another loaded placement to spare a hot zone")
    operating_points: bool = Field(
        default=False, description="operating points may be lowered where the profile declares an actuator"
    )
    min_pace: float = Field(default=0.05, gt=0, le=1, description="a lane that must run slower than this stops")
    min_sample_share: float = Field(default=0.5, gt=0, le=1, description="repeated samples are never cut below this")


class ThermalLimits(FileModel):
    """Limits of every zone that has none of its own in the profile; soft < hard, both in °C."""

    soft_c: float = Field(gt=0, lt=150, description="from here work is derated")
    hard_c: float = Field(gt=0, lt=150, description="from here permits are withheld")
    hysteresis_c: float = Field(gt=0, lt=50, description="a zone is released this far below the limit it passed")
    min_dwell_s: float = Field(ge=0, le=3600, description="shortest time between two releases")
    stale_after_s: float = Field(gt=0, le=60, description="a critical reading older than this counts as hot")
    derate_share: float = Field(gt=0, le=1, description="share of the request rate allowed while derated")
    forecast: ThermalForecast | None = Field(
        default=None, description="act before the hard limit; soft_c then counts only for zones not learnt yet"
    )

    @model_validator(mode="after")
    def _ordered(self) -> ThermalLimits:
        if self.soft_c >= self.hard_c:
            raise ValueError(f"soft_c ({self.soft_c:g}) must be below hard_c ({self.hard_c:g})")
        return self


class Memory(FileModel):
    """Limits on what is held in memory."""

    max_cpq: float = Field(gt=0, lt=1, description="largest share of a memory domain that may be filled")
    min_free_bytes: int = Field(
        default=33_554_432, ge=0, description="requests are refused where they would leave less of the board's memory"
    )
    max_stalled_share: float = Field(
        default=0.2, gt=0, le=1, description="requests are refused while memory is scarce and all wait for it so long"
    )


class Fallback(FileModel):
    """What happens when a runtime runs a model, or part of it, elsewhere than asked."""

    on_fallback: Literal["fail", "warn", "allow"]
    min_accelerated_fraction: float = Field(ge=0, le=1, description="share of the graph's nodes on the asked provider")


class Admission(FileModel):
    """Bounds of the request path."""

    max_concurrent_requests: int = Field(ge=1, le=100_000)
    max_queue_per_lane: int = Field(ge=1, le=100_000)
    default_deadline_s: float = Field(gt=0, le=3600)
    max_deadline_s: float = Field(gt=0, le=86_400)
    max_body_bytes: int = Field(ge=1024, description="HTTP 413 above it")
    max_json_body_bytes: int = Field(ge=1024, description="JSON tensors hold the interpreter; send big ones as binary")
    reject_non_finite: bool = Field(description="400 for NaN and infinity in floating-point inputs")
    reject_empty: bool = Field(
        default=True,
        description="400 for inputs of no value, with a size of 0 that is free in the model; kernels of recurrent "
        "models end their process over one",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Admission:
        if self.default_deadline_s > self.max_deadline_s:
            raise ValueError("default_deadline_s must not exceed max_deadline_s")
        return self


class Recovery(FileModel):
    """How lanes that died, hang or answer wrongly are treated."""

    permit_s: float = Field(gt=0.2, le=60, description="a lane stops this long after the supervisor's last word")
    hang_floor_s: float = Field(gt=0, description="a call is never called hung earlier than this")
    hang_factor: float = Field(gt=1, description="nor earlier than this multiple of the predicted time")
    restart_backoff_s: float = Field(gt=0, le=60, description="first pause before a restart; doubles each time")
    max_backoff_s: float = Field(gt=0, le=3600)
    breaker_failures: int = Field(ge=1, le=100, description="deaths within breaker_window_s that open the breaker")
    breaker_window_s: float = Field(gt=0)
    breaker_open_s: float = Field(gt=0, description="pause before a probe")
    ramp_start_share: float = Field(gt=0, le=1, description="capacity given to a lane that returns")
    ramp_s: float = Field(ge=0, description="time from there to full capacity")
    load_timeout_s: float = Field(default=300.0, gt=0, description="loading and compiling one model may take this long")
    max_replays: int = Field(ge=0, le=10, description="how often one request may be moved to another lane")
    canary_s: float = Field(
        default=30.0, ge=0, le=86_400, description="period of the question with a known answer to every lane; 0: never"
    )
    release: Literal["at_once", "verified"] = Field(
        default="at_once", description="verified: an answer leaves once its lane has answered a canary after it"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Recovery:
        if self.restart_backoff_s > self.max_backoff_s:
            raise ValueError("restart_backoff_s must not exceed max_backoff_s")
        return self


class RepeatedSampling(FileModel):
    """How a question to a language model is answered from several samples, where a request leaves it open."""

    strategy: Literal["greedy", "majority", "best-of-n", "beta", "doubling", "csvet"] = "csvet"
    always: bool = Field(default=False, description="also for requests without a qeil block; false: one text, as asked")
    max_samples: int = Field(default=16, ge=1, le=1024)
    alpha: float = Field(default=0.05, gt=0, lt=1, description="error probability that csvet certifies at")
    worth_j: float | None = Field(default=None, gt=0, description="joules that one more right answer is worth")
    budget_j: float | None = Field(default=None, gt=0, description="joules for one question")
    budget_s: float | None = Field(default=None, gt=0, description="seconds of computing for one question")
    budget_c: float | None = Field(
        default=None, gt=0, le=150, description="°C of the accelerator at which no more samples are drawn"
    )
    certify: Literal["mode", "majority"] = Field(
        default="majority",
        description="of csvet: that an answer is the model's most likely one, or what max_samples would vote for",
    )
    worth_samples: float | None = Field(
        default=None, gt=0, description="the worth of a right answer in samples instead: what so many of them cost"
    )
    samples_on: str = Field(
        default="auto", min_length=1,
        description="auto: where a token of the model takes the fewest joules in time; asked; or a model's name",
    )  # fmt: skip
    verifier: str = Field(
        default="auto", min_length=1,
        description="auto: the most telling in time, a larger model too; asked: the one asked for; or a model's name",
    )  # fmt: skip
    coarser_nats: float = Field(
        default=0.05, ge=0, description="how much farther from exact a precision may be that writes samples instead"
    )

    @model_validator(mode="after")
    def _one_worth(self) -> RepeatedSampling:
        if self.worth_j is not None and self.worth_samples is not None:
            raise ValueError("worth_j and worth_samples say the same in two ways; give one")
        return self


class Rule(FileModel):
    """Ties models to accelerators, or keeps them away; `*` is every model."""

    model: str
    accelerator: Name


class Telemetry(FileModel):
    """Cadence of what is recorded."""

    sample_s: float = Field(gt=0, le=60, description="sensor period")
    window_s: float = Field(gt=0, le=3600, description="aggregation before a row is written")


class Policy(FileModel):
    """The owner's wishes."""

    version: Literal[1]
    name: Name
    description: str
    objective: Objective
    thermal: ThermalLimits
    no_thermal_sensor: Literal["derate", "run", "refuse"] = Field(description="for a machine that never had a sensor")
    power_cap_w: float | None = Field(gt=0, description="modelled mean power of a placement; null: no cap")
    memory: Memory
    quality_floor: float = Field(
        default=0.99, ge=0, le=1, description="least quality of a precision variant, as a share of the best one's"
    )
    fallback: Fallback
    admission: Admission
    recovery: Recovery
    standby: Literal["cold", "warm", "all"] = Field(
        description="placements kept loaded: the chosen one, the next one too (instant failover), or every candidate"
    )
    sampling: RepeatedSampling = RepeatedSampling()
    forbidden: tuple[Rule, ...] = ()
    pinned: tuple[Rule, ...] = ()
    telemetry: Telemetry
    guard: Guard = Guard()

    @model_validator(mode="after")
    def _consistent(self) -> Policy:
        for pin in self.pinned:
            if pin in self.forbidden:
                raise ValueError(f"model {pin.model!r} is both pinned to and forbidden on {pin.accelerator!r}")
        if self.thermal.stale_after_s <= self.telemetry.sample_s:
            raise ValueError(
                f"thermal.stale_after_s: {self.thermal.stale_after_s:g} s must be above telemetry.sample_s "
                f"({self.telemetry.sample_s:g} s), or every reading counts as stale"
            )
        return self
