"""What a model asks of the hardware: stages with operations and bytes. Data only.

A stage is a run of graph nodes between two cuts, so stages form a chain; one tensor crosses a boundary, or a few where
a graph has heavy branches.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agent.schema.base import FileModel

Family = Literal["conv", "depthwise", "gemm", "attention", "elementwise"]
"""Operator families that differ in achievable efficiency: convolution, depthwise convolution, dense and batched
matrix products, fused attention, everything else."""

Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
"""Arithmetic precision of the multiply–accumulates (weights of int4 stages may be computed in a wider type)."""

Routine = Literal[
    "conv", "conv_1d", "pointwise", "depthwise", "gemm", "attention", "fused_attention", "arithmetic", "function",
    "normalisation", "root_normalisation", "softmax", "pooling", "quantise", "movement", "view",
]  # fmt: skip
"""What a kernel does, finer than the family: decides how its time follows from its operations and bytes."""

Phase = Literal["forward", "prefill", "decode"]


class TensorSpec(FileModel):
    """Name, datatype (Open Inference Protocol spelling, e.g. FP32) and shape of a model input or output."""

    name: str
    datatype: str
    shape: tuple[int, ...] = Field(description="-1 where the size is free")


class Work(FileModel):
    """Operations of one family at one precision. One multiply–accumulate counts as two operations."""

    family: Family
    precision: Precision
    flops: float = Field(ge=0)


class Kernels(FileModel):
    """Equal kernels of a stage; every amount is that of one of them."""

    routine: Routine
    precision: Precision
    count: int = Field(ge=1)
    flops: float = Field(ge=0)
    columns: int = Field(default=0, ge=0, description="output channels of a group, columns of a product; 0: not known")
    inner: int = Field(
        default=0, ge=0, description="input channels of a group, or length of a product's sums; 0: not known"
    )
    weight_bytes: float = Field(default=0.0, ge=0, description="weights read, also where another kernel shares them")
    moved_bytes: float = Field(default=0.0, ge=0, description="activations and KV cache read plus written")
    fused_arithmetic: float = Field(default=0.0, ge=0, description="arithmetic with another activation, taken along")
    fused_scaling: float = Field(default=0.0, ge=0, description="arithmetic that weights cannot take in, nor a clamp")
    fused_nodes: float = Field(default=0.0, ge=0, description="operators taken along that weights cannot take in")
    fused_functions: float = Field(default=0.0, ge=0, description="exponentials and the like taken along")
    fused_error_functions: float = Field(default=0.0, ge=0, description="erf, as GELU spells it, taken along")
    open_sizes: bool = Field(default=False, description="in a graph that leaves a size of its inputs to the request")


class Stage(FileModel):
    """The smallest unit that can be placed on its own."""

    name: str
    work: tuple[Work, ...]
    weight_bytes: float = Field(ge=0, description="bytes of the weights that one pass reads, as stored")
    idle_weight_bytes: float = Field(
        default=0.0, ge=0, description="bytes of weights held but not read in a pass (embedding rows, experts)"
    )
    activation_bytes: float = Field(ge=0, description="bytes read plus written by the stage's nodes, weights excluded")
    input_bytes: float = Field(ge=0, description="bytes of the tensor that enters the stage")
    output_bytes: float = Field(ge=0, description="bytes of all that leaves the stage")
    output_tensors: int = Field(default=1, ge=0, description="tensors that leave the stage")
    kv_bytes: float = Field(default=0.0, ge=0, description="KV cache bytes read plus written")
    arena_bytes: float = Field(default=0.0, ge=0, description="peak bytes of live activations")
    operators: tuple[str, ...] = Field(default=(), description="distinct operator types, to check backend coverage")
    nodes: int = Field(default=0, ge=0)
    kernels: tuple[Kernels, ...] = Field(default=(), description="what the stage runs, where its graph is known")

    @property
    def flops(self) -> float:
        """All operations of the stage."""
        return sum(w.flops for w in self.work)


class Workload(FileModel):
    """One model in one phase at given shapes, as a chain of stages."""

    model: str
    phase: Phase = "forward"
    format: str = Field(description="of the file, as its backend calls it; catalogue: of no file")
    digest: str | None = Field(default=None, description="sha256 of the artifact")
    batch: int = Field(default=1, ge=1)
    stages: tuple[Stage, ...] = Field(min_length=1)
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    open_elements: int | None = Field(
        default=None, ge=0, description="elements of the inputs whose sizes are free, at the sizes taken here"
    )
    notes: tuple[str, ...] = Field(default=(), description="what was approximated and how")
