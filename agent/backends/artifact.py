"""What a runtime is asked to load and what it says it loaded, as plain data that crosses a process boundary as JSON.

Kept free of schemas on purpose: a lane's process that does not import pydantic starts in half the time and memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, field
from typing import Any, Protocol

from agent.backends.formats import Array, Signature
from agent.records import record


@record(frozen=True)
class SimulatedUnit:
    """Time, energy and heat that a simulated accelerator adds to real numerics (units as in `ports.Simulation`)."""

    duration_s: float
    energy_j: float
    idle_power_w: float
    thermal_resistance_k_per_w: float
    heat_capacity_j_per_k: float
    ambient_c: float


@record(frozen=True)
class LoadOrder:
    """One model, one runtime."""

    model: str
    path: str
    backend: str
    provider: str
    plugin: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    threads: int = 1
    warmup_runs: int = 2
    simulation: SimulatedUnit | None = None
    engines: str | None = None
    """Folder for what a provider that compiles keeps for the next start."""

    def to_json(self) -> dict[str, Any]:
        """For the load message."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> LoadOrder:
        """Undo `to_json`."""
        simulation = data["simulation"]
        rest = {key: value for key, value in data.items() if key != "simulation"}
        return LoadOrder(**rest, simulation=None if simulation is None else SimulatedUnit(**simulation))


@record(frozen=True)
class Assignment:
    """Where the graph really runs. `nodes_on_requested` is None where the runtime does not tell."""

    actual: tuple[str, ...]
    nodes: int | None
    nodes_on_requested: int | None
    notes: tuple[str, ...] = ()


@record(frozen=True)
class LoadOutcome:
    """The facts of `ports.LoadReport`, plus the bytes that an answer took."""

    actual: tuple[str, ...]
    nodes: int | None
    nodes_on_requested: int | None
    inputs: tuple[Signature, ...]
    outputs: tuple[Signature, ...]
    load_s: float
    first_run_s: float | None
    memory_bytes: int | None
    output_bytes: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For the answer to a load message."""
        return asdict(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> LoadOutcome:
        """Undo `to_json`."""
        lists = {"actual": tuple(data["actual"]), "notes": tuple(data["notes"])}
        ports = {key: tuple(Signature(n, d, tuple(s)) for n, d, s in data[key]) for key in ("inputs", "outputs")}
        return LoadOutcome(**{**data, **lists, **ports})


class Session(Protocol):
    """A loaded, runnable instance of a model. Not thread-safe: one thread runs it."""

    inputs: tuple[Signature, ...]
    outputs: tuple[Signature, ...]
    assignment: Assignment

    def run(self, feeds: Mapping[str, Array], outputs: tuple[str, ...]) -> list[Array]:
        """Run once; one C-contiguous array per name in `outputs`. Raises InferenceFailed."""
        ...

    def bind(self, feeds: Mapping[str, Array], outputs: Mapping[str, Array]) -> Callable[[], None] | None:
        """A run that reads `feeds` and writes `outputs` where they lie, as often as it is called.

        None where the runtime cannot. Raises InferenceFailed when it is called and an output has another shape.
        """
        ...
