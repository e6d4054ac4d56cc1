"""Writes a known architecture as an operator graph: the same graph that a reader of its file would give.

Layers follow the conventions of the readers: bias and activation ride on the product before them, images are
(batch, channels, height, width), sequences (batch, positions, width). Padding is "same" unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

from agent.records import record
from agent.schema.workload import Family, Phase, Precision, TensorSpec, Work
from agent.workload.graph import Cost, Graph, Kind, Node, Tensor, datatype_of, precision_of

SOFTMAX_FLOPS = 5.0
NORM_FLOPS = 7.0
_ACTIVATIONS: Mapping[Precision, str] = {
    "fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8", "int4": "float16",
}  # fmt: skip
_WEIGHT_BITS: Mapping[Precision, float] = {"fp32": 32.0, "fp16": 16.0, "bf16": 16.0, "int8": 8.0, "int4": 4.5}
"""int4 weights come in blocks of 32 with a 16-bit scale each (GGUF Q4_0, MatMulNBits with block_size 32)."""


@record(frozen=True)
class Options:
    """What an architecture is asked for. tokens: positions computed at once; context: positions in the cache."""

    phase: Phase = "forward"
    precision: Precision = "fp32"
    batch: int = 1
    tokens: int = 128
    context: int = 0
    size: int = 0
    weight_bits: float | None = None
    kv_bits: float = 16.0


@record(frozen=True)
class Wire:
    """A tensor on its way through the architecture."""

    name: str
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.shape[1]


class Net:
    """Collects the nodes of one architecture."""

    def __init__(self, name: str, options: Options, weights_only: bool = False) -> None:
        """weights_only: int8 is a storage type of weights only, activations stay in 16 bits (as LLM runtimes do)."""
        self.name, self.options = name, options
        self.dtype = "float16" if weights_only and options.precision == "int8" else _ACTIVATIONS[options.precision]
        self._bits = options.weight_bits or _WEIGHT_BITS[options.precision]
        self._nodes: list[Node] = []
        self._tensors: dict[str, Tensor] = {}
        self._inputs: list[Wire] = []
        self.parameters = 0.0
        self._held: set[str] = set()

    def input(self, *shape: int, dtype: str | None = None) -> Wire:
        """An input of the model."""
        wire = self._wire(shape, dtype)
        self._inputs.append(wire)
        return wire

    def graph(self, *outputs: Wire) -> Graph:
        """The finished graph."""
        return Graph(
            name=self.name, nodes=tuple(self._nodes), tensors=self._tensors,
            inputs=tuple(w.name for w in self._inputs), outputs=tuple(w.name for w in outputs),
            input_specs=tuple(self._spec(w) for w in self._inputs), output_specs=tuple(self._spec(w) for w in outputs),
        )  # fmt: skip

    def conv(
        self, x: Wire, channels: int, kernel: int | tuple[int, ...] = 3, stride: int = 1, groups: int = 1,
        name: str = "", valid: bool = False, bias: bool = True, shared: str = "",
    ) -> Wire:  # fmt: skip
        """Convolution over all axes behind the channels, normalisation folded in."""
        sides = (kernel,) * (len(x.shape) - 2) if isinstance(kernel, int) else kernel
        pairs = zip(x.shape[2:], sides, strict=True)
        spatial = [ceil((size - side + 1) / stride) if valid else ceil(size / stride) for size, side in pairs]
        per_output = x.channels // groups
        for side in sides:
            per_output *= side
        out = self._wire((x.shape[0], channels, *spatial))
        family: Family = "depthwise" if groups > 1 and groups == x.channels else "conv"
        flops = 2.0 * self._tensors[out.name].elements * per_output
        return self._heavy(name or "conv", "Conv", family, flops, [x], out, channels * (per_output + bias), shared)

    def depthwise(self, x: Wire, kernel: int = 3, stride: int = 1, name: str = "") -> Wire:
        """Depthwise convolution."""
        return self.conv(x, x.channels, kernel, stride, x.channels, name)

    def upconv(self, x: Wire, channels: int, kernel: int, stride: int, name: str = "") -> Wire:
        """Transposed convolution that enlarges every spatial axis `stride` times."""
        out = self._wire((x.shape[0], channels, *(s * stride for s in x.shape[2:])))
        taps = kernel ** (len(x.shape) - 2)
        flops = 2.0 * self._tensors[x.name].elements * channels * taps
        parameters = channels * (x.channels * taps + 1)
        return self._heavy(name or "upconv", "ConvTranspose", "conv", flops, [x], out, parameters)

    def dense(self, x: Wire, width: int, name: str = "", bias: bool = True, shared: str = "") -> Wire:
        """Matrix product with a weight over the last axis. `shared`: identity of a weight used elsewhere too."""
        inner = x.shape[-1]
        out = self._wire((*x.shape[:-1], width))
        flops = 2.0 * self._tensors[out.name].elements * inner
        return self._heavy(name or "dense", "MatMul", "gemm", flops, [x], out, width * (inner + bias), shared)

    def product(
        self, inputs: Sequence[Wire], shape: Sequence[int], flops: Mapping[Family, float], parameters: float, name: str
    ) -> Wire:
        """A part of which only totals are known: operations by family, weights, and the features it leaves."""
        out = self._wire(shape)
        work = tuple(Work(family=f, precision=self.options.precision, flops=n) for f, n in flops.items() if n > 0)
        return self._add(name, "Network", Cost("heavy", work), list(inputs), out, self._store(name, parameters))

    def experts(self, x: Wire, width: int, total: int, active: int, name: str) -> Wire:
        """Gated feed-forward layer of which `active` of `total` experts run per token; the rest stays idle."""
        inner = x.shape[-1]
        tokens = self._tensors[x.name].elements / inner
        one = 3.0 * inner * width
        touched = min(float(total), active * tokens)
        stored = self._store(f"{name}.experts", total * one)
        idle = sum(stored.values()) * (1.0 - touched / total)
        out = self._wire(x.shape)
        work = (Work(family="gemm", precision=self.options.precision, flops=2.0 * tokens * active * one),)
        return self._add(name, "MoE", Cost("heavy", work, idle_weight_bytes=idle), [x], out, stored)

    def attention(self, queries: Wire, heads: int, kv_heads: int, width: int, window: int | None, name: str) -> Wire:
        """Causal attention of the new positions over the cache and themselves; reads and writes the cache."""
        batch, steps = queries.shape[0], queries.shape[1]
        context = self.options.context
        seen = steps * (context + (steps + 1) / 2)
        if window is not None:
            seen = min(seen, float(steps * window))
        read_positions = context + steps if window is None else min(context + steps, window)
        item = self.options.kv_bits / 8
        kv = 2.0 * batch * kv_heads * width * item * (read_positions + steps)
        out = self._wire((batch, steps, heads * width))
        return self._attend(name, batch * heads * seen, width, [queries], out, kv)

    def cross(self, queries: Wire, keys: int, heads: int, name: str, cached: bool = False) -> Wire:
        """Attention of all positions over `keys` positions; `cached`: keys and values come from memory."""
        batch, steps, width = queries.shape[0], queries.shape[1], queries.shape[2]
        kv = 2.0 * batch * keys * width * self.options.kv_bits / 8 if cached else 0.0
        out = self._wire((batch, steps, width))
        return self._attend(name, float(batch * heads * steps * keys), width // heads, [queries], out, kv)

    def full_attention(self, packed: Wire, heads: int, name: str) -> Wire:
        """Attention of all positions to all, from packed queries, keys and values."""
        batch, steps, width = packed.shape[0], packed.shape[1], packed.shape[2] // 3
        out = self._wire((batch, steps, width))
        return self._attend(name, float(batch * heads * steps * steps), width // heads, [packed], out, 0.0)

    def light(
        self, inputs: Sequence[Wire], shape: Sequence[int], operator: str, per_element: float = 1.0, name: str = "",
        kind: Kind = "other", parameters: float = 0.0, state_bytes: float = 0.0,
    ) -> Wire:  # fmt: skip
        """Elementwise arithmetic or data movement (`per_element` 0)."""
        out = self._wire(tuple(shape))
        flops = per_element * self._tensors[out.name].elements
        work = (Work(family="elementwise", precision=precision_of(self.dtype), flops=flops),) if flops > 0 else ()
        stored = self._store(f"{operator}{len(self._nodes)}", parameters) if parameters else {}
        return self._add(name or operator, operator, Cost(kind, work, kv_bytes=state_bytes), list(inputs), out, stored)

    def norm(self, x: Wire, name: str = "", per_element: float = NORM_FLOPS) -> Wire:
        """Normalisation over the last axis."""
        return self.light([x], x.shape, "LayerNormalization", per_element, name, parameters=x.shape[-1])

    def add(self, a: Wire, b: Wire, name: str = "") -> Wire:
        """Residual addition; the product that made `b` takes it along."""
        return self.light([b, a], b.shape, "Add", 1.0, name, "elementwise")

    def scale(self, x: Wire, gate: Wire, name: str = "") -> Wire:
        """Channel-wise gate (squeeze and excitation)."""
        return self.light([x, gate], x.shape, "Mul", 1.0, name)

    def pool(self, x: Wire, kernel: int, stride: int, name: str = "", valid: bool = False) -> Wire:
        """Maximum or average over a window."""
        spatial = [ceil((s - kernel + 1) / stride) if valid else ceil(s / stride) for s in x.shape[2:]]
        return self.light([x], (*x.shape[:2], *spatial), "MaxPool", float(kernel ** (len(x.shape) - 2)), name)

    def global_pool(self, x: Wire, name: str = "") -> Wire:
        """Mean over space: (batch, channels)."""
        area = self._tensors[x.name].elements // (x.shape[0] * x.shape[1])
        return self.light([x], x.shape[:2], "GlobalAveragePool", float(area), name)

    def concat(self, wires: Sequence[Wire], axis: int = 1, name: str = "") -> Wire:
        """Concatenation: every byte is copied."""
        shape = list(wires[0].shape)
        shape[axis] = sum(w.shape[axis] for w in wires)
        return self.light(wires, shape, "Concat", 0.0, name)

    def resize(self, x: Wire, factor: int, name: str = "") -> Wire:
        """Nearest-neighbour enlargement."""
        return self.light([x], (*x.shape[:2], *(s * factor for s in x.shape[2:])), "Resize", 0.0, name)

    def reshape(self, x: Wire, *shape: int) -> Wire:
        """Another view of the same data."""
        return self._add("reshape", "Reshape", Cost("alias"), [x], self._wire(shape), {})

    def embed(self, ids: Wire, width: int, rows: int, name: str = "embedding", tied: bool = False) -> Wire:
        """Rows of a table. `tied`: the output layer holds the table, so that it is not counted twice."""
        out = self._wire((*ids.shape, width))
        if tied:
            return self._add(name, "Gather", Cost("other"), [ids], out, {})
        stored = self._store("embedding", float(rows * width))
        total = sum(stored.values())
        idle = total * (1.0 - min(1.0, self._tensors[out.name].elements / (rows * width)))
        return self._add(name, "Gather", Cost("other", idle_weight_bytes=idle), [ids], out, stored)

    def _attend(self, name: str, scores: float, width: int, inputs: list[Wire], out: Wire, kv_bytes: float) -> Wire:
        precision = precision_of(self.dtype)
        work = (Work(family="attention", precision=precision, flops=scores * (4.0 * width + SOFTMAX_FLOPS)),)
        return self._add(name, "Attention", Cost("heavy", work, kv_bytes=kv_bytes), inputs, out, {})

    def _heavy(
        self, name: str, operator: str, family: Family, flops: float, inputs: list[Wire], out: Wire,
        parameters: float, shared: str = "",
    ) -> Wire:  # fmt: skip
        stored = self._store(shared or f"{name}.{len(self._nodes)}", parameters)
        work = (Work(family=family, precision=self.options.precision, flops=flops),)
        return self._add(name, operator, Cost("heavy", work), inputs, out, stored)

    def _store(self, name: str, elements: float) -> dict[str, float]:
        if name not in self._held:
            self._held.add(name)
            self.parameters += elements
        return {name: elements * self._bits / 8}

    def _add(
        self, name: str, operator: str, cost: Cost, inputs: list[Wire], out: Wire, stored: dict[str, float]
    ) -> Wire:
        self._nodes.append(Node(name, operator, tuple(w.name for w in inputs), (out.name,), cost, stored))
        return out

    def _wire(self, shape: Sequence[int], dtype: str | None = None) -> Wire:
        wire = Wire(f"t{len(self._tensors)}", tuple(shape))
        self._tensors[wire.name] = Tensor(wire.name, wire.shape, dtype or self.dtype)
        return wire

    def _spec(self, wire: Wire) -> TensorSpec:
        return TensorSpec(name=wire.name, datatype=datatype_of(self._tensors[wire.name].dtype), shape=wire.shape)
