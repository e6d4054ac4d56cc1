"""Transposes that cancel: exporters from channel-last frameworks wrap convolutions in pairs of them. Pure.

Runtimes push a transpose through the elementwise nodes behind it until it meets its inverse, and drop both. A region is
everything that such nodes connect; where most of its doors are a transpose in and the inverse out, none of them moves
data when the model runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PASSING = frozenset(
    "Add Sub Mul Div Max Min Relu LeakyRelu PRelu Clip Sigmoid HardSigmoid HardSwish Tanh Cast Pad Identity Elu Exp "
    "Sqrt Pow Neg Abs Erf Softplus Gelu QuantizeLinear DequantizeLinear".split()
)
"""Operators that give the same result before and after a permutation of the axes."""


def cancelled(nodes: Sequence[Any], ranks: Mapping[str, int]) -> frozenset[str]:
    """Outputs of Transpose nodes that a runtime removes.

    nodes: protobuf nodes in order. ranks: number of axes of every activation; constants are not in it.
    """
    makers = {o: n for n in nodes for o in n.output if o}
    readers: dict[str, list[Any]] = {}
    for node in nodes:
        for name in set(node.input):
            readers.setdefault(name, []).append(node)
    removed: set[str] = set()
    seen: set[str] = set()
    for node in nodes:
        if node.op_type != "Transpose" or node.output[0] in seen or node.output[0] not in ranks:
            continue
        tensors = _region(node.output[0], makers, readers, ranks)
        seen |= tensors
        matching, others = _doors(tensors, _permutation(node, ranks), makers, readers, ranks)
        if len(matching) > 1 and len(matching) > others:
            removed |= matching
    return frozenset(removed)


def _region(
    start: str, makers: Mapping[str, Any], readers: Mapping[str, list[Any]], ranks: Mapping[str, int]
) -> set[str]:
    found, open_ = {start}, [start]
    while open_:
        name = open_.pop()
        around = [*readers.get(name, ()), *([makers[name]] if name in makers else [])]
        for node in around:
            if node.op_type not in PASSING:
                continue
            for other in (*node.input, *node.output):
                if other not in found and ranks.get(other) == ranks[start]:
                    found.add(other)
                    open_.append(other)
    return found


def _doors(
    tensors: set[str],
    permutation: tuple[int, ...],
    makers: Mapping[str, Any],
    readers: Mapping[str, list[Any]],
    ranks: Mapping[str, int],
) -> tuple[set[str], int]:
    """Outputs of matching transposes at the region's edge, and the number of its other neighbours."""
    inverse = tuple(permutation.index(i) for i in range(len(permutation)))
    matching: set[str] = set()
    others = 0
    for name in tensors:
        maker = makers.get(name)
        if maker is None or maker.op_type not in PASSING:
            if maker is not None and maker.op_type == "Transpose" and _permutation(maker, ranks) == permutation:
                matching.add(name)
            else:
                others += 1
        for node in readers.get(name, ()):
            if node.op_type == "Transpose" and _permutation(node, ranks) == inverse:
                matching.add(node.output[0])
            elif node.op_type not in PASSING:
                others += 1
    return matching, others


def _permutation(node: Any, ranks: Mapping[str, int]) -> tuple[int, ...]:
    """Axes of a Transpose; reversed where none are given."""
    for attribute in node.attribute:
        if attribute.name == "perm":
            return tuple(int(i) for i in attribute.ints)
    return tuple(reversed(range(ranks[node.output[0]])))
