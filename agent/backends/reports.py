"""Translation between the ports' schemas and the plain data that crosses to a lane's process."""

from __future__ import annotations

from dataclasses import asdict

from agent.backends.artifact import LoadOrder, LoadOutcome, SimulatedUnit
from agent.backends.formats import Signature
from agent.ports import LoadReport, LoadSpec
from agent.schema.workload import TensorSpec


def order_of(spec: LoadSpec) -> LoadOrder:
    """The order for a load."""
    runtime, simulation = spec.runtime, spec.simulation
    return LoadOrder(
        model=spec.model, path=str(spec.path.absolute()), backend=runtime.backend, provider=runtime.provider,
        plugin=runtime.plugin, options=dict(runtime.options), threads=spec.threads, warmup_runs=spec.warmup_runs,
        simulation=None if simulation is None else SimulatedUnit(**asdict(simulation)),
        engines=None if spec.engines is None else str(spec.engines.absolute()),
    )  # fmt: skip


def report_of(spec: LoadSpec, outcome: LoadOutcome) -> LoadReport:
    """The report of a load."""
    return LoadReport(
        model=spec.model, requested=spec.runtime.provider, actual=outcome.actual, nodes=outcome.nodes,
        nodes_on_requested=outcome.nodes_on_requested, inputs=_specs(outcome.inputs), outputs=_specs(outcome.outputs),
        load_s=outcome.load_s, first_run_s=outcome.first_run_s, memory_bytes=outcome.memory_bytes, notes=outcome.notes,
    )  # fmt: skip


def _specs(signatures: tuple[Signature, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=s.name, datatype=s.datatype, shape=s.shape) for s in signatures)
