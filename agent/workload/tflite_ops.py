"""What each TFLite operator costs: a literal table from operator to a function of its tensors.

Same conventions as for ONNX: one multiply–accumulate is two operations, elementwise one per output element, softmax
five, pooling one per element of its window; data movement costs bytes only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

from agent.records import record
from agent.schema.workload import Family, Precision, Work
from agent.workload.flatbuffer import Table
from agent.workload.graph import Cost, Kind, Tensor, is_line, precision_of


@record(frozen=True)
class TfliteCall:
    """One use of an operator with its option table. Missing optional inputs are None."""

    operator: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Table | None
    stored: dict[str, float]
    attends: bool = False

    def tensor(self, index: int) -> Tensor:
        """Input at a position; an empty scalar where it is missing."""
        found = self.inputs[index] if index < len(self.inputs) else None
        return found or Tensor("", (), "float32")

    @property
    def output(self) -> Tensor:
        """First output."""
        return self.outputs[0]


Rule = Callable[[TfliteCall], Cost]


def _precision(call: TfliteCall, left: int, right: int) -> Precision:
    """Integer weights are multiplied as integers: LiteRT quantises float activations on the fly."""
    weight = precision_of(call.tensor(right).dtype)
    if weight in ("int8", "int4") and (call.tensor(right).constant or precision_of(call.tensor(left).dtype) == weight):
        return weight
    activation = call.tensor(left).dtype
    return "int8" if activation == "int16" else precision_of(activation)


def _heavy(call: TfliteCall, family: Family, flops: float, left: int = 0, right: int = 1) -> Cost:
    work = Work(family=family, precision=_precision(call, left, right), flops=flops)
    return Cost("heavy", (work,), columns=call.output.shape[-1] if call.output.shape else 0)


def _light(call: TfliteCall, flops: float, kind: Kind = "other") -> Cost:
    dtype = "int8" if call.output.dtype == "int16" else call.output.dtype
    work = Work(family="elementwise", precision=precision_of(dtype), flops=flops)
    return Cost(kind, (work,) if flops > 0 else ())


def _convolution(call: TfliteCall) -> Cost:
    """Filters are (outputs, height, width, inputs per group)."""
    filters = call.tensor(1).shape
    cost = _heavy(call, "conv", 2.0 * call.output.elements * prod(filters[1:]))
    return replace(cost, inner=filters[3], window=prod(filters[1:3]), line=is_line(call.output.shape[1:3]))


def _depthwise(call: TfliteCall) -> Cost:
    """Filters are (1, height, width, outputs)."""
    return _heavy(call, "depthwise", 2.0 * call.output.elements * prod(call.tensor(1).shape[1:3]))


def _transposed(call: TfliteCall) -> Cost:
    """Inputs: output shape, filters (outputs, height, width, inputs), data. Each input element meets every filter."""
    outputs, height, width = call.tensor(1).shape[:3]
    return _heavy(call, "conv", 2.0 * call.tensor(2).elements * outputs * height * width, 2, 1)


def _dense(call: TfliteCall) -> Cost:
    return _heavy(call, "gemm", 2.0 * call.output.elements * call.tensor(1).shape[-1])


def _batched(call: TfliteCall) -> Cost:
    shape = call.tensor(0).shape
    transposed = call.options.number(0, 1) if call.options else 0
    constant = call.tensor(0).constant or call.tensor(1).constant
    family: Family = "attention" if call.attends and not constant else "gemm"
    return _heavy(call, family, 2.0 * call.output.elements * shape[-2 if transposed else -1])


def _lstm(call: TfliteCall) -> Cost:
    """Per step, every weight matrix (inputs 1 to 8) is multiplied once; projection is input 16."""
    shape = call.tensor(0).shape
    steps = prod(shape[:2]) if len(shape) == 3 else shape[0]
    matrices = [call.tensor(i) for i in (*range(1, 9), 16)]
    cells = sum(t.elements for t in matrices if len(t.shape) == 2)
    return _heavy(call, "gemm", 2.0 * steps * cells, 0, 2)


def _rnn(call: TfliteCall) -> Cost:
    shape = call.tensor(0).shape
    steps = prod(shape[:2]) if len(shape) == 3 else shape[0]
    return _heavy(call, "gemm", 2.0 * steps * (call.tensor(1).elements + call.tensor(2).elements))


def _pooling(call: TfliteCall) -> Cost:
    window = 1
    if call.options is not None:
        window = max(1, call.options.number(3, 4)) * max(1, call.options.number(4, 4))
    return _light(call, float(call.output.elements * window))


def _per_output(per_element: float, kind: Kind = "elementwise") -> Rule:
    return lambda call: _light(call, per_element * call.output.elements, kind)


def _per_input(per_element: float, kind: Kind = "other") -> Rule:
    return lambda call: _light(call, per_element * call.tensor(0).elements, kind)


def _softmax(call: TfliteCall) -> Cost:
    cost = _per_output(5.0, "other")(call)
    if call.attends:
        return Cost("other", tuple(w.model_copy(update={"family": "attention"}) for w in cost.work))
    return cost


def _gather(call: TfliteCall) -> Cost:
    """Reads as much of the table as it writes; the rest of a constant table stays idle."""
    position = 1 if call.operator == "EMBEDDING_LOOKUP" else 0
    table, indices = call.tensor(position), call.tensor(1 - position)
    share = min(1.0, call.output.elements / max(1, table.elements))
    read = 0.0 if indices.constant else indices.bytes
    if table.constant:
        stored = call.stored.get(table.name, table.bytes)
        return Cost("other", read_bytes=read, idle_weight_bytes=(1.0 - share) * stored)
    return Cost("other", read_bytes=read + share * table.bytes)


def _sliced(call: TfliteCall) -> Cost:
    return Cost("other", read_bytes=sum(o.bytes for o in call.outputs))


def _attention(call: TfliteCall) -> Cost:
    """STABLEHLO_COMPOSITE and custom attention: queries (B, T, H, d) against keys (B, S, H, d)."""
    query, key = call.tensor(0).shape, call.tensor(1).shape
    scores = float(query[0] * query[2] * query[1] * key[1])
    return _heavy(call, "attention", scores * (4.0 * query[3] + 5.0))


_ELEMENTWISE = (
    "ADD SUB MUL DIV FLOOR_DIV FLOOR_MOD POW MAXIMUM MINIMUM SQUARED_DIFFERENCE RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1 "
    "PRELU LEAKY_RELU ELU LOGISTIC TANH HARD_SWISH GELU EXP LOG SQRT RSQRT SQUARE NEG ABS SIN COS CEIL FLOOR "
    "ROUND SIGN EQUAL NOT_EQUAL LESS LESS_EQUAL GREATER GREATER_EQUAL LOGICAL_AND LOGICAL_OR LOGICAL_NOT SELECT "
    "SELECT_V2 WHERE QUANTIZE DEQUANTIZE CAST BITCAST BITWISE_XOR RIGHT_SHIFT ATAN2"
).split()
_MOVES = (
    "CONCATENATION PAD PADV2 MIRROR_PAD TRANSPOSE SPACE_TO_DEPTH DEPTH_TO_SPACE SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND "
    "PACK UNPACK TILE BROADCAST_TO FILL RANGE SHAPE RANK ZEROS_LIKE ONE_HOT REVERSE_V2 REVERSE_SEQUENCE SCATTER_ND "
    "SPARSE_TO_DENSE DENSIFY MATRIX_DIAG MATRIX_SET_DIAG VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE TOPK_V2 UNIQUE "
    "DYNAMIC_UPDATE_SLICE CALL_ONCE HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE"
).split()

RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _per_output(1.0)),
    **dict.fromkeys(_MOVES, lambda _: Cost("other")),
    **dict.fromkeys(("RESHAPE", "SQUEEZE", "EXPAND_DIMS"), lambda _: Cost("alias")),
    **dict.fromkeys(("SLICE", "STRIDED_SLICE", "SPLIT", "SPLIT_V"), _sliced),
    **dict.fromkeys(("GATHER", "GATHER_ND", "EMBEDDING_LOOKUP"), _gather),
    **dict.fromkeys("SUM REDUCE_MAX REDUCE_MIN REDUCE_PROD ARG_MAX ARG_MIN CUMSUM".split(), _per_input(1.0)),
    "MEAN": _per_input(1.0, "reduce"),
    "ADD_N": lambda call: _light(call, float(call.output.elements * (len(call.inputs) - 1)), "elementwise"),
    "CONV_2D": _convolution, "CONV_3D": lambda call: _heavy(
        call, "conv", 2.0 * call.output.elements * prod(call.tensor(1).shape[:4])
    ),
    "DEPTHWISE_CONV_2D": _depthwise,
    "TRANSPOSE_CONV": _transposed,
    "FULLY_CONNECTED": _dense,
    "BATCH_MATMUL": _batched,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm, "LSTM": _lstm, "BIDIRECTIONAL_SEQUENCE_LSTM": _lstm,
    "RNN": _rnn, "UNIDIRECTIONAL_SEQUENCE_RNN": _rnn, "SVDF": _rnn,
    "MAX_POOL_2D": _pooling, "AVERAGE_POOL_2D": _pooling, "L2_POOL_2D": _pooling,
    "SOFTMAX": _softmax, "LOG_SOFTMAX": _softmax,
    "L2_NORMALIZATION": _per_output(3.0, "other"), "LOCAL_RESPONSE_NORMALIZATION": _per_output(8.0, "other"),
    "RESIZE_BILINEAR": _per_output(7.0, "other"), "RESIZE_NEAREST_NEIGHBOR": lambda _: Cost("other"),
    "NON_MAX_SUPPRESSION_V4": _per_input(4.0), "NON_MAX_SUPPRESSION_V5": _per_input(4.0),
    "RFFT2D": _per_output(20.0, "other"),
    "Convolution2DTransposeBias": lambda call: _heavy(
        call, "conv", 2.0 * call.tensor(0).elements * prod(call.tensor(1).shape[:3])
    ),
    "MaxPoolingWithArgmax2D": _per_input(1.0), "MaxUnpooling2D": _per_output(1.0, "other"),
    "TFLite_Detection_PostProcess": _per_input(4.0),
    "odml.scaled_dot_product_attention": _attention,
}  # fmt: skip
"""Built-in operators by name, and custom operators by their custom code."""


def unknown(call: TfliteCall) -> Cost:
    """Estimate for an operator that is not in the table."""
    return _light(call, float(call.output.elements), "other")
