"""A model's operator graph without its format: tensors, nodes and what each node costs. Data only.

Both readers (ONNX, TFLite) produce this; fusion, traffic and stages are computed from it alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from math import prod
from typing import Literal

from agent.records import record
from agent.schema.workload import Precision, TensorSpec, Work

Kind = Literal["heavy", "elementwise", "reduce", "other", "alias", "removed"]
"""How a runtime treats a node: `heavy` (convolution, matrix product, attention) starts a kernel that elementwise
nodes fuse into; `elementwise` may fuse; `reduce` may start a fused normalisation; `alias` changes the view and moves
nothing; `removed` is an alias that the runtime drops when it loads the model; `other` is a kernel of its own."""
VIEWS: tuple[Kind, ...] = ("alias", "removed")

BITS: dict[str, int] = {
    "float64": 64, "float32": 32, "float16": 16, "bfloat16": 16, "float8": 8, "float4": 4,
    "int64": 64, "uint64": 64, "int32": 32, "uint32": 32, "int16": 16, "uint16": 16, "int8": 8, "uint8": 8,
    "int4": 4, "uint4": 4, "int2": 2, "uint2": 2, "bool": 8, "string": 128, "complex64": 64, "complex128": 128,
}  # fmt: skip
"""Storage of one element; strings counted as two pointers."""

_PRECISION: dict[str, Precision] = {
    "float16": "fp16", "bfloat16": "bf16", "float8": "int8", "int8": "int8", "uint8": "int8", "int4": "int4",
    "uint4": "int4", "int2": "int4", "uint2": "int4",
}  # fmt: skip


@record(frozen=True)
class Tensor:
    """A tensor at resolved sizes. `constant` means known when the model is loaded (weights, folded values)."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    constant: bool = False

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar."""
        return prod(self.shape)

    @property
    def bytes(self) -> float:
        """Storage, sub-byte types packed."""
        return self.elements * BITS.get(self.dtype, 32) / 8


@record(frozen=True)
class Cost:
    """What one node costs.

    read_bytes: bytes of activations read where that is less than the inputs hold (a gather); None = all inputs.
    idle_weight_bytes: bytes of its weights that one pass does not touch (embedding rows nobody asks for).
    inner_bytes: activations moved inside the node (bodies of If and Loop).
    columns: output channels of a group, or columns of a product; inner: input channels, or what
    each sums over; 0 = not said. window: taps of a convolution's kernel; line: whether what it makes is one pixel
    wide or high, as of sound and text.
    """

    kind: Kind
    work: tuple[Work, ...] = ()
    read_bytes: float | None = None
    kv_bytes: float = 0.0
    idle_weight_bytes: float = 0.0
    inner_bytes: float = 0.0
    columns: int = 0
    inner: int = 0
    window: int = 0
    line: bool = False


def is_line(places: Sequence[int]) -> bool:
    """Whether the places of a convolution's output, batch and channels left out, lie one behind the other."""
    return sum(length > 1 for length in places) == 1


@record(frozen=True)
class Node:
    """One operator. `inputs` are activations; `weights` maps a constant's identity to its bytes as stored."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    cost: Cost
    weights: Mapping[str, float] = field(default_factory=dict)


@record(frozen=True)
class Graph:
    """Nodes in topological order. `inputs`/`outputs` are names of activation tensors.

    fuses: whether a runtime takes what follows a product into its kernel. A TFLite file has fused already what LiteRT
    fuses: the activation is an option of the operator, and every node that is left runs by itself.
    """

    name: str
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    input_specs: tuple[TensorSpec, ...] = ()
    output_specs: tuple[TensorSpec, ...] = ()
    notes: tuple[str, ...] = ()
    fuses: bool = True


def precision_of(dtype: str) -> Precision:
    """Precision in which a type is computed; wide integers and doubles count as fp32 lanes."""
    return _PRECISION.get(dtype, "fp32")


def datatype_of(dtype: str) -> str:
    """Open Inference Protocol spelling: FP32, BF16, INT64, BOOL, BYTES."""
    if dtype == "string":
        return "BYTES"
    return dtype.upper().replace("BFLOAT", "BF").replace("FLOAT", "FP")


def merge_work(items: list[Work]) -> tuple[Work, ...]:
    """Sum of the operations per family and precision, largest first; zero work left out."""
    total: dict[tuple[str, str], Work] = {}
    for item in items:
        key = (item.family, item.precision)
        flops = item.flops + (total[key].flops if key in total else 0.0)
        total[key] = Work(family=item.family, precision=item.precision, flops=flops)
    return tuple(sorted((w for w in total.values() if w.flops > 0), key=lambda w: -w.flops))
