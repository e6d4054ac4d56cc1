"""TFLite files as operator graphs, read without a runtime. LiteRT runs a model whole, so it becomes one stage."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from itertools import count
from pathlib import Path

from agent.errors import ModelLoadFailed
from agent.schema.workload import TensorSpec
from agent.workload import tflite_ops
from agent.workload.flatbuffer import Table, root
from agent.workload.graph import Cost, Graph, Node, Tensor, datatype_of
from agent.workload.tflite_names import OPERATORS, TYPES
from agent.workload.tflite_ops import TfliteCall

IDENTIFIER = b"TFL3"
MAX_NODES = 200_000
_THROUGH = 8
"""Steps over which a product of activations looks for its softmax."""
_UNPACKING = ("DEQUANTIZE", "DENSIFY")
"""Operators on constants that run once when the model is loaded."""


def load(path: Path) -> Table:
    """The model's root table over the mapped file: weights are never read. ModelLoadFailed with one line."""
    try:
        with path.open("rb") as stream:
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ModelLoadFailed(f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelLoadFailed("the file is empty") from error
    return root(memoryview(data), IDENTIFIER)


def read(model: Table, batch: int = 1) -> Graph:
    """The first subgraph as a graph; free first dimensions are taken as `batch`."""
    subgraphs = model.tables(2)
    if not subgraphs or not subgraphs[0].tables(3):
        raise ModelLoadFailed("not a TFLite model, or damaged: it has no operators")
    reader = _Reader(model, subgraphs[0], batch)
    try:
        nodes = reader.nodes()
    except (IndexError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise ModelLoadFailed("damaged: an operator has tensors of the wrong number or shape") from error
    inputs, outputs = subgraphs[0].integers(1), subgraphs[0].integers(2)
    if len(subgraphs) > 1:
        reader.notes.append(f"{len(subgraphs) - 1} further subgraphs (signatures or bodies of IF, WHILE) not counted")
    return Graph(
        name=subgraphs[0].text(4), nodes=tuple(nodes), tensors=reader.storage(),
        inputs=tuple(reader.tensor(i).name for i in inputs),
        outputs=tuple(t.name for t in map(reader.tensor, outputs) if not t.constant),
        input_specs=_distinct(map(reader.spec, inputs)), output_specs=_distinct(map(reader.spec, outputs)),
        notes=tuple(dict.fromkeys(reader.notes)), fuses=False,
    )  # fmt: skip


def _distinct(specs: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
    """With names of their own, as they are served: x, x → x, x_1."""
    listed = tuple(specs)
    given, taken = {spec.name for spec in listed}, set[str]()
    made = []
    for spec in listed:
        name = spec.name
        if name in taken:
            name = next(n for i in count(1) if (n := f"{spec.name}_{i}") not in given | taken)
        taken.add(name)
        made.append(spec.model_copy(update={"name": name}))
    return tuple(made)


class _Reader:
    """Walks one subgraph."""

    def __init__(self, model: Table, graph: Table, batch: int) -> None:
        self.notes: list[str] = []
        self._batch = batch
        self._codes = [_operator_name(c) for c in model.tables(1)]
        self._buffers = model.tables(4)
        self._tables = graph.tables(0)
        self._operators = graph.tables(3)
        if len(self._operators) > MAX_NODES:
            raise ModelLoadFailed(f"it has {len(self._operators)} operators, at most {MAX_NODES} are read")
        self._stored: dict[str, float] = {}
        self._tensors = [self._read(i, t) for i, t in enumerate(self._tables)]

    def tensor(self, index: int) -> Tensor:
        """Tensor by number."""
        if not 0 <= index < len(self._tensors):
            raise ModelLoadFailed(f"damaged: tensor {index} does not exist")
        return self._tensors[index]

    def storage(self) -> dict[str, Tensor]:
        """Activations by name."""
        return {t.name: t for t in self._tensors if not t.constant}

    def spec(self, index: int) -> TensorSpec:
        """Name, type and shape as the file declares them."""
        tensor, table = self.tensor(index), self._tables[index]
        shape = table.integers(7) or table.integers(0)
        free = tuple(d if d > 0 else -1 for d in shape)
        return TensorSpec(name=table.text(3), datatype=datatype_of(tensor.dtype), shape=free)

    def nodes(self) -> list[Node]:
        """Costed operators without those that run once when the model is loaded."""
        kept = []
        for operator in self._operators:
            name = self._name(operator)
            inputs = [i for i in operator.integers(1) if i >= 0]
            if name in _UNPACKING and inputs and self.tensor(inputs[0]).constant:
                self._unpack(inputs[0], operator.integers(2)[0])
            else:
                kept.append((name, operator))
        attending = self._attending(kept)
        return [self._node(i, name, operator, i in attending) for i, (name, operator) in enumerate(kept)]

    def _read(self, index: int, table: Table) -> Tensor:
        kind = table.number(1, 1)
        dtype = TYPES[kind] if 0 <= kind < len(TYPES) else "float32"
        declared, signature = table.integers(0), table.integers(7)
        shape = tuple(
            self._batch if axis == 0 and axis < len(signature) and signature[axis] == -1 else max(0, size)
            for axis, size in enumerate(declared)
        )
        if any(s == -1 for s in signature[1:]):
            self.notes.append("free dimensions other than the first are taken as the file declares them")
        buffer = table.number(2, 4, unsigned=True)
        size = self._size_of(buffer)
        tensor = Tensor(f"{index}", shape, dtype, constant=size > 0)
        if size > 0:
            self._stored[tensor.name] = float(size)
        return tensor

    def _size_of(self, buffer: int) -> int:
        if not 0 < buffer < len(self._buffers):
            return 0
        table = self._buffers[buffer]
        return table.byte_length(0) or table.number(2, 8)

    def _name(self, operator: Table) -> str:
        code = operator.number(0, 4, unsigned=True)
        if code >= len(self._codes):
            raise ModelLoadFailed(f"damaged: operator code {code} does not exist")
        return self._codes[code]

    def _unpack(self, source: int, target: int) -> None:
        """A weight stored compressed: constant, and as large as it is stored."""
        made = self.tensor(target)
        self._tensors[target] = Tensor(made.name, made.shape, made.dtype, constant=True)
        self._stored[made.name] = self._stored[self.tensor(source).name]

    def _node(self, number: int, name: str, operator: Table, attends: bool) -> Node:
        numbers = operator.integers(1)
        inputs = tuple(self.tensor(i) if i >= 0 else None for i in numbers)
        outputs = tuple(self.tensor(i) for i in operator.integers(2))
        weights = {t.name: self._stored[t.name] for t in inputs if t is not None and t.constant}
        moving = tuple(t.name for t in inputs if t is not None and not t.constant)
        cost = self._cost(name, inputs, outputs, operator, attends)
        return Node(f"{name}.{number}", name, moving, tuple(t.name for t in outputs), cost, weights)

    def _cost(
        self, name: str, inputs: tuple[Tensor | None, ...], outputs: tuple[Tensor, ...], operator: Table, attends: bool
    ) -> Cost:
        rule = tflite_ops.RULES.get(name)
        if not outputs:
            return Cost("other")
        call = TfliteCall(name, inputs, outputs, operator.table(4), self._stored, attends)
        if rule is None:
            self.notes.append(f"{name} is not in the table, counted as elementwise")
            return tflite_ops.unknown(call)
        return rule(call)

    def _attending(self, kept: list[tuple[str, Table]]) -> set[int]:
        """Positions of batched products of activations, and of the softmaxes between them."""
        made = {o: i for i, (_, operator) in enumerate(kept) for o in operator.integers(2)}
        products = {i for i, (name, _) in enumerate(kept) if name == "BATCH_MATMUL"}
        softmaxes = {i for i, (name, _) in enumerate(kept) if name == "SOFTMAX"}
        found: set[int] = set()
        for softmax in softmaxes:
            before = self._upstream(kept, made, softmax, products)
            found |= before | ({softmax} if before else set())
        between = found & softmaxes
        return found | {p for p in products - found if self._upstream(kept, made, p, between)}

    def _upstream(self, kept: list[tuple[str, Table]], made: dict[int, int], start: int, wanted: set[int]) -> set[int]:
        frontier, hits, seen = {start}, set[int](), {start}
        for _ in range(_THROUGH):
            frontier = {made[n] for i in frontier for n in kept[i][1].integers(1) if n in made} - seen
            seen |= frontier
            hits |= frontier & wanted
            if hits or not frontier:
                break
        return hits


def operator_names(model: Table) -> list[tuple[str, bool]]:
    """Every operator type that the file names, and whether a runtime lacks it (a custom one)."""
    names = []
    for code in model.tables(1):
        number = max(code.number(0, 1), code.number(3, 4))
        custom = 0 <= number < len(OPERATORS) and OPERATORS[number] == "CUSTOM"
        names.append((_operator_name(code), custom))
    return names


def _operator_name(code: Table) -> str:
    """Old files number up to 127 in an 8-bit field, newer ones in a 32-bit field."""
    number = max(code.number(0, 1), code.number(3, 4))
    name = OPERATORS[number] if 0 <= number < len(OPERATORS) else f"BUILTIN_{number}"
    return code.text(1) if name == "CUSTOM" else name
