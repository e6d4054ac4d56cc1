"""Small pieces of an ONNX graph: nodes, constants, weights of the weight file, products of quantised weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from agent.llm.weight_file import Product, Stored

MICROSOFT = "com.microsoft"
WEIGHTS = "weights.bin"
_TYPES = {"float32": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int64": TensorProto.INT64}


class Nodes:
    """Collects nodes and initialisers; every method returns the name of what it made."""

    def __init__(self, stored: dict[str, Stored], *, fast: bool) -> None:
        self.stored, self.fast = stored, fast
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: dict[str, TensorProto] = {}
        self._count = 0
        self._sums: dict[tuple[str, int], str] = {}

    def op(self, kind: str, *inputs: str, domain: str = "", output: str | None = None, **attributes: Any) -> str:
        """A node with one output."""
        return self.ops(kind, list(inputs), [output or self.fresh(kind)], domain=domain, **attributes)[0]

    def ops(
        self, kind: str, inputs: list[str], outputs: list[str], *, domain: str = "", **attributes: Any
    ) -> list[str]:
        """A node with several outputs."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs

    def fresh(self, hint: str) -> str:
        """A name that is not taken."""
        self._count += 1
        return f"{hint}:{self._count}"

    def constant(self, values: Any, dtype: str = "int64") -> str:
        """A small tensor inside the graph."""
        array = np.asarray(values, dtype)
        name = f"const.{dtype}.{'x'.join(map(str, array.shape))}.{'_'.join(map(str, array.ravel().tolist()))}"
        if name not in self.initialisers:
            self.initialisers[name] = numpy_helper.from_array(array, name)
        return name

    def weight(self, name: str) -> str:
        """A tensor of the weight file."""
        if name not in self.initialisers:
            where = self.stored[name]
            tensor = TensorProto(name=name, data_type=_TYPES[where.dtype], dims=where.shape)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", WEIGHTS), ("offset", where.start), ("length", where.size_bytes)):
                tensor.external_data.add(key=key, value=str(value))
            self.initialisers[name] = tensor
        return name

    def scaled(self, value: str, factor: float) -> str:
        """The value times a constant; itself where that is 1."""
        return value if factor == 1.0 else self.op("Mul", value, self.constant(factor, "float32"))

    def split(self, value: str, sizes: list[int]) -> list[str]:
        """Parts along the last axis."""
        outputs = [self.fresh("part") for _ in sizes]
        return self.ops("Split", [value, self.constant(sizes)], outputs, axis=-1)

    def product(self, x: str, made: Product, *, careful: bool = False) -> str:
        """x · Wᵀ (+ bias), last axis `columns` to `rows`. `careful`: x is not rounded, where that is quick enough."""
        if made.bits == 0:
            y = self._plain(x, made)
        elif made.bits == 8 and not self.fast:
            whole = self._packed(x, made, f"{made.name}.q4", f"{made.name}.scale4", 2 * made.rows, 4)
            y = self.op("Add", *self.split(whole, [made.rows, made.rows]))
            y = self._corrected(x, y, made, f"{made.name}.offset4")
        else:
            weights, scale = f"{made.name}.q{made.bits}", f"{made.name}.scale"
            y = self._packed(x, made, weights, scale, made.rows, made.bits, careful=careful and made.bits == 4)
            if made.has_offset:
                y = self._corrected(x, y, made, f"{made.name}.offset")
        return self.op("Add", y, self.weight(f"{made.name}.bias")) if made.has_bias else y

    def _plain(self, x: str, made: Product) -> str:
        weight = self.weight(f"{made.name}.weight")
        return self.op("MatMul", x, self.op("Transpose", weight, perm=[1, 0]))

    def _packed(
        self, x: str, made: Product, weights: str, scales: str, rows: int, bits: int, *, careful: bool = False
    ) -> str:
        level = 4 if self.fast and not careful else 0
        return self.op(
            "MatMulNBits", x, self.weight(weights), self.weight(scales), domain=MICROSOFT,
            K=made.columns, N=rows, bits=bits, block_size=made.block, accuracy_level=level,
        )  # fmt: skip

    def _corrected(self, x: str, y: str, made: Product, offsets: str) -> str:
        """Adds Σ over blocks of (sum of x in the block) · offset, which makes formats with offsets exact."""
        key = (x, made.block)
        if key not in self._sums:
            shape = self.constant([0, 0, made.columns // made.block, made.block])
            blocks = self.op("Reshape", x, shape)
            self._sums[key] = self.op("ReduceSum", blocks, self.constant([-1]), keepdims=0)
        return self.op("Add", y, self.op("MatMul", self._sums[key], self.weight(offsets)))

    def rows_of(self, ids: str, made: Product) -> str:
        """Rows of a matrix, as an embedding looks them up."""
        if made.bits == 0:
            return self.op("Gather", self.weight(f"{made.name}.weight"), ids)
        packed = self.op("Gather", self.weight(f"{made.name}.q{made.bits}"), ids)
        if made.bits == 4:
            low = self.op("BitwiseAnd", packed, self.constant(15, "uint8"))
            high = self.op("BitShift", packed, self.constant(4, "uint8"), direction="RIGHT")
            axis = self.constant([-1])
            halves = [self.op("Unsqueeze", half, axis) for half in (low, high)]
            shape = self.constant([0, 0, made.columns // made.block, made.block])
            packed = self.op("Reshape", self.op("Concat", *halves, axis=-1), shape)
        centre = self.constant(float(1 << (made.bits - 1)), "float32")
        values = self.op("Sub", self.op("Cast", packed, to=TensorProto.FLOAT), centre)
        axis = self.constant([-1])
        scale = self.op("Unsqueeze", self.op("Gather", self.weight(f"{made.name}.scale"), ids), axis)
        values = self.op("Mul", values, scale)
        if made.has_offset:
            by_row = self.op("Gather", self.weight(f"{made.name}.offset"), ids, axis=1)
            offset = self.op("Transpose", by_row, perm=[1, 2, 0])
            values = self.op("Add", values, self.op("Unsqueeze", offset, axis))
        return self.op("Reshape", values, self.constant([0, 0, made.columns]))
