"""Models to cut, and how stages are run and compared with the whole model."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

from agent.workload.onnx_split import Order, Split, split
from agent.workload.onnx_verify import same_bits
from tests.workload.runnable import Net, convolutions, decoder, transformer

NETS = {"convolutions": convolutions, "transformer": transformer, "decoder": decoder}
FEEDS = {
    "convolutions": [("image", "float32", (2, 3, 32, 32))],
    "transformer": [("ids", "int64", (2, 11)), ("mask", "int64", (2, 11))],
    "decoder": [("input_ids", "int64", (2, 5))]
    + [(f"past_key_values.{i}.{k}", "float32", (2, 4, 6, 8)) for i in range(3) for k in ("key", "value")],
}


def names(count: int) -> tuple[str, ...]:
    return tuple(f"s{i}" for i in range(count))


def run(path: Path, have: dict, optimise: bool = True) -> dict:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs = [o.name for o in session.get_outputs()]
    return dict(zip(outputs, session.run(outputs, {i.name: have[i.name] for i in session.get_inputs()}), strict=True))


def chained(result: Split, feeds: dict, optimise: bool = True) -> dict:
    have = dict(feeds)
    for stage in result.stages:
        have.update(run(stage.path, have, optimise))
    return have


def agree(path: Path, result: Split, feeds: dict, optimise: bool = True) -> None:
    have = chained(result, feeds, optimise)
    for name, array in run(path, feeds, optimise).items():
        assert same_bits(array, have[name]), name


@pytest.mark.parametrize("stages", [2, 3, 6])
def at(path: Path, out: Path, *boundaries: tuple[str, ...], check: bool = True) -> Split:
    return split(Order(path, out, names(len(boundaries) + 1), boundaries, check=check))


def branches() -> onnx.ModelProto:
    """Two towers that join: nothing can be cut at one tensor of one tower without the other's."""
    w = Net()
    a = w.node("Relu", w.node("MatMul", "x", w.weight(32, 32)))
    b = w.node("Tanh", w.node("MatMul", a, w.weight(32, 32)))
    c = w.node("Sigmoid", w.node("MatMul", a, w.weight(32, 32)))
    joined = w.node("MatMul", w.node("Mul", b, c), w.weight(32, 32))
    return w.built({"x": (1, ["batch", 32])}, (joined, 1, ["batch", 32]))
