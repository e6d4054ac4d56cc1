"""Routines: which kind of kernel an operator runs as, and the amounts that its time follows from. Pure."""

from __future__ import annotations

from collections.abc import Sequence, Set

from agent.records import record
from agent.schema.workload import Kernels, Precision, Routine
from agent.workload.graph import Node

_FUNCTIONS = frozenset(
    "Acos Acosh Asin Asinh Atan Atanh BiasGelu Celu Cos Cosh Elu Erf Exp FastGelu Gelu Log Mish Pow QLinearSigmoid "
    "QuickGelu Selu Sigmoid Sin Sinh Softplus Swish SwiGLU Tan Tanh "
    "ATAN2 COS ELU EXP GELU LOG LOGISTIC POW PRELU SIN TANH".split()
)
_ERROR_FUNCTIONS = frozenset("Erf Gelu GELU BiasGelu".split())
"""GELU as it is defined; runtimes spend several passes over it where a sigmoid takes one."""
_NORMALISATIONS = ("Normalization", "NORMALIZATION", "LRN")
_NONE: frozenset[int] = frozenset()
_ROOTS = ("RMSNormalization", "Simplified")
_REDUCTIONS = ("Reduce", "REDUCE", "Arg", "ARG_", "MEAN", "SUM", "CumSum", "CUMSUM", "TopK")
_QUANTISING = frozenset("QuantizeLinear DequantizeLinear DynamicQuantizeLinear QUANTIZE DEQUANTIZE".split())
_FOLDED = frozenset("Add Mul BatchNormalization BiasAdd Cast Identity".split())
"""Right behind a product, with a constant for each channel: runtimes put them into its weights and bias."""
_CLAMPS = frozenset("Relu Relu6 Clip LeakyRelu PRelu HardSigmoid HardSwish".split())
"""Behind that, every runtime computes them in the registers of the product."""
_FUSED_ATTENTION = frozenset(
    "Attention QAttention GroupQueryAttention MultiHeadAttention DecoderMaskedMultiHeadAttention "
    "odml.scaled_dot_product_attention".split()
)


def routine_of(node: Node) -> Routine:
    """The routine of a node that moves or computes something."""
    name = node.operator
    if node.cost.kind == "heavy" and node.cost.work:
        if name in _FUSED_ATTENTION:
            return "fused_attention"
        family = node.cost.work[0].family
        if family == "conv" and node.cost.window == 1:
            return "pointwise"
        if family == "conv" and node.cost.line:
            return "conv_1d"
        return "arithmetic" if family == "elementwise" else family
    if name in _QUANTISING:
        return "quantise"
    return _light(name) or ("arithmetic" if node.cost.work else "movement")


def _light(name: str) -> Routine | None:
    if "Pool" in name or "POOL" in name:
        return "pooling"
    if "Softmax" in name or "SOFTMAX" in name:
        return "softmax"
    if any(part in name for part in _ROOTS):
        return "root_normalisation"
    if any(part in name for part in _NORMALISATIONS) or name.startswith(_REDUCTIONS):
        return "normalisation"
    return "function" if name in _FUNCTIONS else None


@record(frozen=True)
class _Along:
    """What the nodes behind the first of a kernel add to it."""

    arithmetic: float
    scaling: float
    functions: float
    error_functions: float
    nodes: int


def _along(rest: Sequence[Node], joined: Set[int]) -> _Along:
    """Sorts nodes by what runtimes can do with them; `joined`: positions that read a whole activation from outside.

    Constants go into the weights as long as nothing else came before; arithmetic around a function is part of the
    activation that it spells (x · sigmoid(x), GELU out of erf). Behind arithmetic that no runtime is sure to take in,
    the rest is left out with it.
    """
    spelled = any(routine_of(n) == "function" for n in rest)
    arithmetic = scaling = functions = errors = 0.0
    count, folds, clean = 0, True, True
    for position, node in enumerate(rest):
        flops, name = _flops(node), node.operator
        if routine_of(node) == "function":
            folds, count = False, count + 1
            functions, errors = (functions, errors + flops) if name in _ERROR_FUNCTIONS else (functions + flops, errors)
        elif position in joined:
            folds, count = False, count + 1
            arithmetic, scaling = (arithmetic + flops, scaling) if clean else (arithmetic, scaling + flops)
        elif spelled or (folds and name in _FOLDED and _alone(node, rest)):
            continue
        elif clean and name in _CLAMPS and _alone(node, rest):
            folds = False
        else:
            folds, clean, count, scaling = False, False, count + 1, scaling + flops
    return _Along(arithmetic, scaling, functions, errors, count)


def _alone(node: Node, rest: Sequence[Node]) -> bool:
    """Whether nobody else reads what it reads: x · clip(x + 3) needs the product as it was, so nothing goes into it."""
    return not any(set(node.inputs) & set(other.inputs) for other in rest if other is not node)


def kernels_of(nodes: Sequence[Node], moved_bytes: float, views: int, joined: Set[int] = _NONE) -> tuple[Kernels, ...]:
    """The kernel that fused nodes run as: the first decides the routine, the rest is taken along.

    moved_bytes: activations that the kernel reads and writes. views: changes of shape that still cost a call.
    joined: positions of nodes that read a whole activation which the kernel does not make (a residual, a gate).
    """
    first = nodes[0]
    routine = routine_of(first)
    if any(n.cost.kind == "reduce" for n in nodes) and first.cost.kind != "heavy":
        routine = "normalisation"
    along = _along(nodes[1:], {p - 1 for p in joined})
    flops = _flops(first)
    if routine in {"normalisation", "root_normalisation", "softmax"}:
        flops, along = flops + sum(_flops(n) for n in nodes[1:]), _Along(0.0, 0.0, 0.0, 0.0, 0)
    weights = sum({k: v for n in nodes for k, v in n.weights.items()}.values())
    idle = sum(n.cost.idle_weight_bytes for n in nodes)
    columns = 0 if routine in {"attention", "fused_attention"} else first.cost.columns
    made = Kernels(
        routine=routine, precision=_precision(first), count=1, flops=flops, columns=columns,
        inner=first.cost.inner,
        weight_bytes=max(0.0, weights - idle), moved_bytes=moved_bytes + sum(n.cost.kv_bytes for n in nodes),
        fused_arithmetic=along.arithmetic, fused_scaling=along.scaling, fused_functions=along.functions,
        fused_error_functions=along.error_functions, fused_nodes=along.nodes,
    )  # fmt: skip
    return (made, Kernels(routine="view", precision="fp32", count=views, flops=0.0)) if views else (made,)


def merge(kernels: Sequence[Kernels]) -> tuple[Kernels, ...]:
    """Equal kernels counted together, in the order of their first appearance."""
    counts: dict[Kernels, int] = {}
    for item in kernels:
        alike = item.model_copy(update={"count": 1})
        counts[alike] = counts.get(alike, 0) + item.count
    return tuple(item.model_copy(update={"count": count}) for item, count in counts.items())


def _flops(node: Node) -> float:
    return sum(w.flops for w in node.cost.work)


def _precision(node: Node) -> Precision:
    return node.cost.work[0].precision if node.cost.work else "fp32"
