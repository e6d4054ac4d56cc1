"""What each ONNX operator costs: a literal table from operator type to a function of its tensors.

One multiply–accumulate is two operations; a bias rides on the accumulator and is free. An elementwise node costs one
operation per output element, softmax five, normalisation seven, pooling one per element of its window. Data movement
costs bytes only. Operators of vendor domains are in `onnx_ops_contrib`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from math import prod
from typing import Any

from agent.records import record
from agent.schema.workload import Family, Precision, Work
from agent.workload.graph import Cost, Kind, Tensor, is_line, precision_of

SOFTMAX_FLOPS = 5.0
"""Maximum, subtraction, exponential, sum, division."""
NORMALISATION_FLOPS = 7.0
"""Mean, difference, square, variance, division, scale, shift."""


@record(frozen=True)
class Call:
    """One use of an operator. Missing optional inputs and outputs are None.

    stored: storage bytes of each constant input (several nodes back, e.g. before dequantisation).
    sources: for an input that a DequantizeLinear made, the type it was stored in.
    """

    operator: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor | None, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    stored: Mapping[str, float] = field(default_factory=dict)
    attends: bool = False

    def tensor(self, index: int) -> Tensor:
        """Input at a position; an empty scalar where it is missing."""
        found = self.inputs[index] if index < len(self.inputs) else None
        return found or Tensor("", (), "float32")

    @property
    def output(self) -> Tensor:
        """First output."""
        found = self.outputs[0] if self.outputs else None
        return found or Tensor("", (), "float32")

    def integer(self, name: str, default: int) -> int:
        """Integer attribute."""
        return int(self.attributes.get(name, default))


Rule = Callable[[Call], Cost]


def compute_precision(call: Call, left: int, right: int) -> Precision:
    """Precision of a product: integer only where both operands are stored as integers, else that of the result.

    A weight of four bits or fewer makes it int4 whatever the activation is.
    """
    types = []
    for index in (left, right):
        tensor = call.tensor(index)
        types.append(call.sources.get(tensor.name, tensor.dtype))
    narrow = [precision_of(t) for t in types]
    if "int4" in narrow:
        return "int4"
    if narrow == ["int8", "int8"]:
        return "int8"
    return precision_of(call.output.dtype)


def heavy(family: Family, precision: Precision, flops: float, **more: Any) -> Cost:
    """Cost of a product."""
    return Cost("heavy", (Work(family=family, precision=precision, flops=max(0.0, flops)),), **more)


def light(call: Call, per_element: float, kind: Kind = "other", elements: float | None = None) -> Cost:
    """Cost of elementwise arithmetic per output element."""
    count = float(call.output.elements if elements is None else elements)
    work = Work(family="elementwise", precision=precision_of(call.output.dtype), flops=count * per_element)
    return Cost(kind, (work,) if work.flops > 0 else ())


def convolution(call: Call, data: int = 0, weight: int = 1) -> Cost:
    """2 · outputs · (input channels per group · kernel); depthwise where each group has one input channel."""
    kernel = call.tensor(weight).shape
    flops = 2.0 * call.output.elements * prod(kernel[1:])
    depthwise = call.integer("group", 1) > 1 and len(kernel) > 1 and kernel[1] == 1
    columns = kernel[0] if depthwise else kernel[0] // max(1, call.integer("group", 1)) if kernel else 0
    return heavy(
        "depthwise" if depthwise else "conv", compute_precision(call, data, weight), flops, columns=columns,
        inner=kernel[1] if len(kernel) > 1 else 0, window=prod(kernel[2:]),
        line=is_line(call.output.shape[2:]),
    )  # fmt: skip


def transposed_convolution(call: Call) -> Cost:
    """2 · inputs · (output channels per group · kernel): each input element is spread over a kernel."""
    kernel = call.tensor(1).shape
    depthwise = call.integer("group", 1) > 1 and len(kernel) > 1 and kernel[1] == 1
    flops = 2.0 * call.tensor(0).elements * prod(kernel[1:])
    return heavy("depthwise" if depthwise else "conv", compute_precision(call, 0, 1), flops)


def product(call: Call, left: int = 0, right: int = 1) -> Cost:
    """2 · outputs · inner length. Products of two activations around a softmax are attention."""
    shape = call.tensor(left).shape
    inner = shape[-1] if shape else 1
    constant = call.tensor(left).constant or call.tensor(right).constant
    family: Family = "attention" if call.attends and not constant else "gemm"
    columns = _columns(call)
    return heavy(family, compute_precision(call, left, right), 2.0 * call.output.elements * inner, columns=columns)


def _columns(call: Call) -> int:
    return call.output.shape[-1] if call.output.shape else 0


def gemm(call: Call, left: int = 0, right: int = 1) -> Cost:
    """2 · M · N · K."""
    shape = call.tensor(left).shape
    inner = shape[0 if call.integer("transA", 0) else -1] if shape else 1
    flops = 2.0 * call.output.elements * inner
    return heavy("gemm", compute_precision(call, left, right), flops, columns=_columns(call))


def einsum(call: Call) -> Cost:
    """2 · product of all index sizes (one multiply per extra operand)."""
    equation = str(call.attributes.get("equation", "")).replace(" ", "")
    terms = equation.split("->")[0].split(",")
    sizes: dict[str, int] = {}
    rest = 1
    for index, term in enumerate(terms):
        shape = call.tensor(index).shape
        letters = term.replace("...", "")
        sizes.update(dict(zip(letters, shape[len(shape) - len(letters) :], strict=False)))
        if "..." in term:
            rest = max(rest, prod(shape[: len(shape) - len(letters)]))
    flops = float(prod(sizes.values()) * rest * max(1, len(terms)))
    constant = any(t is not None and t.constant for t in call.inputs)
    family: Family = "attention" if call.attends and not constant else "gemm"
    return heavy(family, compute_precision(call, 0, min(1, len(terms) - 1)), flops)


def recurrent(gates: int) -> Rule:
    """LSTM, GRU, RNN: per step and direction 2 · gates · hidden · (input + hidden)."""

    def rule(call: Call) -> Cost:
        sequence = call.tensor(0).shape
        weights, state = call.tensor(1).shape, call.tensor(2).shape
        directions = state[0] if len(state) == 3 else 1
        hidden = state[-1] if state else call.integer("hidden_size", 1)
        width = weights[-1] if weights else 1
        steps = prod(sequence[:2])
        flops = 2.0 * steps * directions * gates * hidden * (width + hidden)
        return heavy("gemm", compute_precision(call, 0, 1), flops)

    return rule


def pooling(call: Call) -> Cost:
    """One operation per element of the window."""
    return light(call, float(prod(call.attributes.get("kernel_shape", (1,)))))


def over_inputs(per_element: float, kind: Kind = "other") -> Rule:
    """Operations per element of the first input: reductions."""
    return lambda call: light(call, per_element, kind, call.tensor(0).elements)


def per_output(per_element: float, kind: Kind = "other") -> Rule:
    """Operations per element of the output."""
    return lambda call: light(call, per_element, kind)


def softmax(call: Call) -> Cost:
    """Five operations per element, counted as attention between two products of activations."""
    cost = light(call, SOFTMAX_FLOPS)
    if call.attends:
        return Cost("other", tuple(w.model_copy(update={"family": "attention"}) for w in cost.work))
    return cost


def variadic(call: Call) -> Cost:
    """Sum, Max, Mean of n tensors: n − 1 operations per element."""
    return light(call, float(max(1, len(call.inputs) - 1)), "elementwise")


def movement(_: Call) -> Cost:
    """Bytes only."""
    return Cost("other")


def view(_: Call) -> Cost:
    """Nothing moves."""
    return Cost("alias")


def gather(call: Call) -> Cost:
    """Reads as much of the data as it writes, plus the indices; the rest of a constant table stays idle."""
    table, indices = call.tensor(0), call.tensor(1)
    share = min(1.0, call.output.elements / max(1, table.elements))
    stored = call.stored.get(table.name, table.bytes)
    read = 0.0 if indices.constant else indices.bytes
    if table.constant:
        return Cost("other", read_bytes=read, idle_weight_bytes=(1.0 - share) * stored)
    return Cost("other", read_bytes=read + share * table.bytes)


def sliced(call: Call) -> Cost:
    """Reads only what it writes."""
    return Cost("other", read_bytes=sum(o.bytes for o in call.outputs if o is not None))


def broadcast(call: Call) -> Cost:
    """Writes its output from an input that stays small."""
    return Cost("other", read_bytes=min(call.output.bytes, call.tensor(0).bytes))


def resize(call: Call) -> Cost:
    """Nearest copies; linear takes about seven operations per element, cubic thirty."""
    mode = str(call.attributes.get("mode", "nearest"))
    return light(call, {"nearest": 0.0, "linear": 7.0, "cubic": 30.0}.get(mode, 7.0))


def attention(call: Call) -> Cost:
    """Standard Attention: queries · keys and probabilities · values over all positions, and a softmax."""
    query, key, value = call.tensor(0).shape, call.tensor(1).shape, call.tensor(2).shape
    past = call.tensor(4).shape
    if len(query) == 4:
        batch, heads, steps, width = query
        context, value_width = key[2], value[3]
    else:
        heads = call.integer("q_num_heads", 1)
        batch, steps, width = query[0], query[1], query[2] // heads
        groups = call.integer("kv_num_heads", heads)
        context, value_width = key[1], value[2] // groups
    if len(past) == 4:
        context += past[2]
    scores = float(batch * heads * steps * context)
    flops = scores * (2 * width + 2 * value_width + SOFTMAX_FLOPS)
    return heavy("attention", compute_precision(call, 0, 1), flops)


_UNARY = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast CastLike Ceil Celu Clip Cos Cosh Elu Erf Exp Floor Gelu "
    "HardSigmoid HardSwish IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin "
    "Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu PRelu"
).split()
_BINARY = (
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Mod Mul Or Pow "
    "Sub Where Xor QuantizeLinear DequantizeLinear"
).split()
_REDUCE = "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum".split()
_MOVES = (
    "Concat Pad Transpose DepthToSpace SpaceToDepth ReverseSequence Shape Size Range ConstantOfShape EyeLike Constant "
    "NonZero Compress Unique RandomNormal RandomNormalLike RandomUniform RandomUniformLike TensorScatter Trilu OneHot "
    "ScatterElements ScatterND Scatter SequenceConstruct SequenceAt SplitToSequence ConcatFromSequence Col2Im"
).split()
_VIEWS = "Reshape Squeeze Unsqueeze Flatten".split()

RULES: dict[str, Rule] = {
    **dict.fromkeys(_UNARY, per_output(1.0, "elementwise")),
    **dict.fromkeys(_BINARY, per_output(1.0, "elementwise")),
    **dict.fromkeys(_REDUCE, over_inputs(1.0)),
    **dict.fromkeys(_MOVES, movement),
    **dict.fromkeys(_VIEWS, view),
    **dict.fromkeys(("Identity", "Dropout"), lambda _: Cost("removed")),
    "ReduceMean": over_inputs(1.0, "reduce"),
    "ReduceMax": over_inputs(1.0, "reduce"),
    "ReduceSumSquare": over_inputs(2.0),
    "ArgMax": over_inputs(1.0), "ArgMin": over_inputs(1.0), "TopK": over_inputs(4.0), "CumSum": over_inputs(1.0),
    "Sum": variadic, "Max": variadic, "Min": variadic, "Mean": variadic,
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "ConvInteger": convolution,
    "QLinearConv": lambda call: convolution(call, 0, 3),
    "DeformConv": convolution,
    "Gemm": gemm,
    "MatMul": product,
    "MatMulInteger": product,
    "QLinearMatMul": lambda call: product(call, 0, 3),
    "Einsum": einsum,
    "LSTM": recurrent(4), "GRU": recurrent(3), "RNN": recurrent(1),
    "Attention": attention, "FlexAttention": attention, "SwiGLU": per_output(2.0),
    "BatchNormalization": per_output(2.0, "elementwise"),
    "InstanceNormalization": per_output(NORMALISATION_FLOPS),
    "LayerNormalization": per_output(NORMALISATION_FLOPS),
    "GroupNormalization": per_output(NORMALISATION_FLOPS),
    "RMSNormalization": per_output(5.0), "SimplifiedLayerNormalization": per_output(5.0),
    "MeanVarianceNormalization": per_output(NORMALISATION_FLOPS),
    "LpNormalization": per_output(3.0),
    "LRN": lambda call: light(call, 3.0 + call.integer("size", 5)),
    "Softmax": softmax, "LogSoftmax": softmax, "Hardmax": per_output(2.0),
    "DynamicQuantizeLinear": over_inputs(3.0),
    "MaxPool": pooling, "AveragePool": pooling, "LpPool": pooling,
    "GlobalAveragePool": over_inputs(1.0), "GlobalMaxPool": over_inputs(1.0), "GlobalLpPool": over_inputs(2.0),
    "RoiAlign": per_output(16.0), "GridSample": per_output(8.0),
    "Resize": resize, "Upsample": resize,
    "Gather": gather, "GatherElements": gather, "GatherND": gather,
    "Slice": sliced, "Split": sliced,
    "Expand": broadcast, "Tile": broadcast,
    "RotaryEmbedding": per_output(4.0),
    "NonMaxSuppression": over_inputs(4.0),
    "STFT": lambda call: light(call, 10.0),
    "Scan": per_output(1.0),
}  # fmt: skip
"""Operators of the standard domain."""
