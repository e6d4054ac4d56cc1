"""Scenario: a question to the cost model – which workloads on which boards, placed how, and whose claims to set beside.

Names of boards, policies, models and accelerators are resolved by who runs the scenario; here only their form and what
they say about each other is checked.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from agent.schema.base import FileModel, Name
from agent.schema.workload import Phase, Precision

METHODS = ("pgsam", "least-energy", "least-latency", "greedy")
"""Placements that name no accelerator: the policy's choice on PGSAM's front, the two ends of that front, greedy v1."""
SINGLE = "single:"
"""Before the name of the accelerator that runs everything."""

Lever = Literal[
    "link_bandwidth_factor", "npu_efficiency_factor", "base_power_factor", "memory_energy_factor",
    "compute_energy_factor", "generated_tokens_factor", "temperature_c",
]  # fmt: skip
"""What a sensitivity varies. Factors multiply the profile's value; npu_efficiency is the share that NPUs and TPUs reach
of their arithmetic peak and of their memory's bandwidth; base_power is that of every accelerator while it runs;
generated_tokens is the length of answers."""


class ScenarioWorkload(FileModel):
    """One model of the catalogue with the size of a request."""

    name: str | None = Field(default=None, min_length=1, description="in tables; default: the model and its precision")
    model: str = Field(min_length=1, description="name in the catalogue of workloads, e.g. llama-3.2-1b")
    precision: Precision | None = Field(default=None, description="default: that of the catalogue")
    phases: tuple[Phase, ...] = Field(default=("prefill", "decode"), min_length=1, max_length=3)
    prompt_tokens: int | None = Field(default=None, ge=1, le=1_000_000, description="for prefill and decode")
    generated_tokens: int | None = Field(default=None, ge=1, le=1_000_000, description="for decode")
    batch: int = Field(default=1, ge=1, le=4096)

    @property
    def label(self) -> str:
        """How tables call it."""
        return self.name or (self.model if self.precision is None else f"{self.model} {self.precision}")

    @model_validator(mode="after")
    def _sized(self) -> ScenarioWorkload:
        for phase in self.phases:
            if self.phases.count(phase) > 1:
                raise ValueError(f"phases: {phase!r} is used twice")
        if {"prefill", "decode"} & set(self.phases) and self.prompt_tokens is None:
            raise ValueError("phases prefill and decode need the key prompt_tokens")
        if "decode" in self.phases and self.generated_tokens is None:
            raise ValueError("phases with decode need the key generated_tokens")
        return self


class Claim(FileModel):
    """Somebody's published result, to be set beside ours."""

    quantity: Literal["energy", "latency"]
    change: float = Field(gt=-1, le=100, description="relative; -0.25 is a quarter less")
    placement: str
    relative_to: str
    source: str = Field(min_length=1, description="where it is published, as precisely as is known")
    caveats: tuple[str, ...] = Field(default=(), max_length=16, description="why it need not mean the same as ours")


class PublishedAnswers(FileModel):
    """Somebody's share of right answers and the power it came at; a placement is taken to change no answer."""

    pass_at_k: float | None = Field(
        default=None, gt=0, le=1, description="share of questions that one of k samples answers rightly; null: unknown"
    )
    power_w: float = Field(gt=0, description="mean power that is published")
    ipw: float = Field(gt=0, description="intelligence per watt that is published")
    times_baseline: float | None = Field(default=None, gt=0, description="of the baseline's IPW, as published")
    placement: str
    workload: str | None = Field(default=None, description="name of one workload; left out: the mean over all")
    source: str = Field(min_length=1, description="where it is published, as precisely as is known")


class Assumption(FileModel):
    """One assumption and the two values it is tried with."""

    vary: Lever
    low: float
    high: float
    why: str = Field(min_length=1, description="reason for the range")

    @model_validator(mode="after")
    def _range(self) -> Assumption:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.vary == "temperature_c":
            if not (self.low >= -40 and self.high <= 125):
                raise ValueError(f"low and high must be between -40 and 125 °C; found {self.low:g} and {self.high:g}")
        elif not (self.low > 0 and self.high <= 1000):
            raise ValueError(f"low and high are factors above 0 up to 1000; found {self.low:g} and {self.high:g}")
        return self


class Sensitivity(FileModel):
    """How far the mean saving of one placement depends on assumptions."""

    placement: str
    assumptions: tuple[Assumption, ...] = Field(min_length=1, max_length=16)


class Beside(FileModel):
    """Boards that are compared only: no uncertainty, sensitivity, growth laws or reasons of their own."""

    profiles: tuple[str, ...] = Field(min_length=1, max_length=16, description="names of device profiles, or paths")
    search_evaluations: int = Field(
        default=5000, ge=1, le=10**9, description="placements each search scores on them, at most"
    )


class HeatedBoard(FileModel):
    """A device profile and the simulated board that describes its heat."""

    profile: str = Field(description="as it is written in profiles or beside")
    board: str = Field(description="name of a simulated board, or a path")


class Endurance(FileModel):
    """The scenario's requests one after another without a pause, all models in turn."""

    placement: str = Field(description="runs under the agent's governor and without one; the baseline without one")
    hours: float = Field(gt=0, le=24)
    step_s: float = Field(default=5.0, ge=0.1, le=30, description="period of the simulation and of the sensors")
    ambient_c: float = Field(ge=-40, le=70, description="air around the boards")
    boards: tuple[HeatedBoard, ...] = Field(
        default=(), max_length=16, description="a profile that has none here: unknown"
    )


class PublishedOperation(FileModel):
    """Somebody's figures of heat and faults."""

    throttles: int = Field(ge=0, description="thermal throttling events")
    recovered_share: float = Field(ge=0, le=1, description="of all faults")
    detection_s: float = Field(gt=0, description="until a fault is seen")
    source: str = Field(min_length=1, description="where it is published, as precisely as is known")


class MeasuredFaults(FileModel):
    """What fault injection gave on real lanes of this agent."""

    injected: int = Field(ge=1)
    recovered: int = Field(ge=0)
    detection_p99_s: tuple[float, float] = Field(description="lowest and highest of the runs")
    capacity_back_s: float = Field(gt=0, description="longest")
    source: str = Field(min_length=1, description="the command and the machine")

    @model_validator(mode="after")
    def _sense(self) -> MeasuredFaults:
        if self.recovered > self.injected:
            raise ValueError(f"recovered ({self.recovered}) must not be above injected ({self.injected})")
        if not 0 < self.detection_p99_s[0] <= self.detection_p99_s[1]:
            raise ValueError("detection_p99_s: the lowest, above 0, stands before the highest")
        return self


class Operation(FileModel):
    """Heat and faults beside what is published of them."""

    published: PublishedOperation
    endurance: Endurance
    measured: MeasuredFaults | None = None


class Scenario(FileModel):
    """A comparison of placements on boards."""

    version: Literal[1]
    name: Name
    title: str
    kind: Literal["placement-comparison"]
    profiles: tuple[str, ...] = Field(min_length=1, max_length=16, description="names of device profiles, or paths")
    beside: Beside | None = None
    policy: str = Field(description="name of a policy, or a path: decides which point of a front is chosen")
    workloads: tuple[ScenarioWorkload, ...] = Field(min_length=1, max_length=64)
    placements: tuple[str, ...] = Field(
        min_length=2, max_length=32, description="pgsam, least-energy, least-latency, greedy or single:ACCELERATOR"
    )
    baseline: str = Field(description="the placement that all changes are relative to")
    claims: tuple[Claim, ...] = Field(default=(), max_length=16)
    answers: tuple[PublishedAnswers, ...] = Field(default=(), max_length=16)
    sensitivity: Sensitivity | None = None
    operation: Operation | None = None
    seed: int = Field(ge=0, lt=2**32, description="same seed, same bytes")
    search_evaluations: int | None = Field(
        default=None, ge=1, le=10**9, description="placements each search scores; null: the optimiser's own effort"
    )

    @property
    def every_profile(self) -> tuple[str, ...]:
        """Names of all boards, those that are only set beside the others last."""
        return (*self.profiles, *(self.beside.profiles if self.beside else ()))

    @model_validator(mode="after")
    def _consistent(self) -> Scenario:
        _once("profiles", self.every_profile)
        _once("placements", self.placements)
        _once("workloads", [workload.label for workload in self.workloads])
        for index, placement in enumerate(self.placements):
            _known_form(f"placements.{index}", placement)
        _listed("baseline", self.baseline, self.placements)
        for index, claim in enumerate(self.claims):
            _listed(f"claims.{index}.placement", claim.placement, self.placements)
            _listed(f"claims.{index}.relative_to", claim.relative_to, self.placements)
        for index, figure in enumerate(self.answers):
            _listed(f"answers.{index}.placement", figure.placement, self.placements)
            if figure.workload is not None and figure.workload not in [w.label for w in self.workloads]:
                raise ValueError(f"answers.{index}.workload: {figure.workload!r} is none of the workloads' names")
        if self.sensitivity is not None:
            _listed("sensitivity.placement", self.sensitivity.placement, self.placements)
            _once("sensitivity.assumptions", [a.vary for a in self.sensitivity.assumptions])
        if self.operation is not None:
            self._heated(self.operation.endurance)
        return self

    def _heated(self, endurance: Endurance) -> None:
        _listed("operation.endurance.placement", endurance.placement, self.placements)
        _once("operation.endurance.boards", [b.profile for b in endurance.boards])
        for index, heated in enumerate(endurance.boards):
            if heated.profile not in self.every_profile:
                known = ", ".join(self.every_profile)
                where = f"operation.endurance.boards.{index}.profile"
                raise ValueError(f"{where}: {heated.profile!r} is none of the profiles: {known}")


def _once(where: str, names: Sequence[str]) -> None:
    for name in names:
        if list(names).count(name) > 1:
            mend = "; give one of them a name of its own" if where == "workloads" else ""
            raise ValueError(f"{where}: {name!r} is used twice{mend}")


def _known_form(where: str, placement: str) -> None:
    if placement in METHODS or (placement.startswith(SINGLE) and len(placement) > len(SINGLE)):
        return
    near = difflib.get_close_matches(placement, [*METHODS, SINGLE], 1, 0.6)
    meant = f"{SINGLE}ACCELERATOR" if near == [SINGLE] else near[0] if near else ""
    hint = f" (did you mean {meant}?)" if meant else ""
    known = f"{', '.join(METHODS)} or {SINGLE}ACCELERATOR"
    raise ValueError(f"{where}: {placement!r} is no placement{hint}; expected {known}")


def _listed(where: str, placement: str, placements: Sequence[str]) -> None:
    if placement not in placements:
        near = difflib.get_close_matches(placement, placements, 1, 0.6)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"{where}: {placement!r} is not among the placements{hint}: {', '.join(placements)}")
