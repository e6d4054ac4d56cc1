"""Sizes of symbolic dimensions: given by the caller, or assumed and said so."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping

from agent.errors import ModelLoadFailed

DEFAULTS: dict[str, int] = {"batch": 1, "sequence": 128, "past": 0, "height": 224, "width": 224, "samples": 16000}
"""What a free dimension is taken as when nobody says; keys are also accepted as names in `dims`."""

_WORDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("past", ("past", "cache", "kv_len")),
    ("batch", ("batch", "bs", "unk__", "n")),
    ("height", ("height", "h", "rows")),
    ("width", ("width", "w", "cols")),
    ("samples", ("samples", "audio")),
    ("sequence", ("seq", "length", "len", "token", "time", "frames", "steps", "t", "s", "l")),
)
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
}  # fmt: skip
MAX_EXPRESSION = 200


class Sizes:
    """Resolves dimension names; remembers what it had to assume. `dims`: sizes by name or by kind, all >= 0."""

    def __init__(self, dims: Mapping[str, int]) -> None:
        for name, value in dims.items():
            if value < 0:
                raise ModelLoadFailed(f"the size of {name} is {value}, give a number of at least 0")
        self._dims = dict(dims)
        self.assumed: dict[str, int] = {}

    def resolve(self, name: str, axis: int, rank: int) -> int:
        """Size of a free dimension; `name` may be empty or a sum such as past_sequence_length + 1."""
        if name in self._dims:
            return self._dims[name]
        if not name:
            kind = "batch" if axis == 0 else ("height", "width")[axis % 2] if rank == 4 else "sequence"
            return self._assume(f"{kind} (unnamed axis {axis})", kind)
        parts = _terms(name)
        if parts is not None:
            return max(0, self._evaluate(parts))
        return self._named(name)

    def notes(self) -> tuple[str, ...]:
        """One sentence for what was assumed, if anything."""
        if not self.assumed:
            return ()
        listed = ", ".join(f"{name} = {value}" for name, value in self.assumed.items())
        return (f"free dimensions assumed: {listed}",)

    def _named(self, name: str) -> int:
        if name in self._dims:
            return self._dims[name]
        lower = name.lower()
        if lower == "total" or ("total" in lower and "seq" in lower):
            return self._kind("past") + self._kind("sequence")
        for kind, words in _WORDS:
            if any(lower == w or (len(w) > 2 and w in lower) for w in words):
                return self._assume(name, kind)
        return self._assume(name, "batch")

    def _kind(self, kind: str) -> int:
        return self._dims.get(kind, DEFAULTS[kind])

    def _assume(self, name: str, kind: str) -> int:
        value = self._kind(kind)
        if kind not in self._dims:
            self.assumed[name] = value
        return value

    def _evaluate(self, node: ast.expr) -> int:
        if isinstance(node, ast.Name):
            return self._named(node.id)
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            left, right = self._evaluate(node.left), self._evaluate(node.right)
            if right == 0 and isinstance(node.op, (ast.FloorDiv, ast.Div)):
                return 0
            return _OPERATORS[type(node.op)](left, right)
        return 1


def _terms(name: str) -> ast.expr | None:
    """The parsed expression where the name is one (it has an operator), else None."""
    if len(name) > MAX_EXPRESSION or not any(c in name for c in "+*/- "):
        return None
    try:
        tree = ast.parse(name, mode="eval").body
    except (SyntaxError, ValueError):
        return None
    return tree if isinstance(tree, ast.BinOp) else None
