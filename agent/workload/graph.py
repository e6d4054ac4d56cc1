"""Graph: an operator graph reduced to what costs – work and bytes per node – independent of the file format."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.schema.workload import Work


@dataclass(frozen=True)
class Tensor:
    """An activation: its bytes, and whether it is an input of the whole graph."""

    name: str
    size_bytes: float
    graph_input: bool = False


@dataclass(frozen=True)
class Node:
    """One operator that runs at inference time (what can be folded at load time is not here)."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    """Activations read; weights are not among them."""
    outputs: tuple[str, ...]
    work: tuple[Work, ...] = ()
    weights: tuple[tuple[str, float], ...] = ()
    """Name and bytes of every weight read, as stored where the kernel reads it."""
    kv_bytes: float = 0.0
    fused: bool = False
    """Its input comes straight out of the kernel before it, so that it moves no bytes through memory."""


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order."""

    nodes: tuple[Node, ...]
    tensors: dict[str, Tensor]
    outputs: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())
