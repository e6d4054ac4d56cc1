"""Graphs without their weights, and weights apart from their graph: the same model to the bit, or the file as it is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from agent.errors import ModelLoadFailed
from agent.workload import onnx_graph
from agent.workload.examine import GRAPH_FILE, WEIGHTS_FILE, examine_in_child, put_apart
from agent.workload.onnx_light import LARGE_BYTES, external, lightened, read_light

ROWS = 257


def model(columns: int = 128) -> onnx.ModelProto:
    """Two weights worth moving, one small one, in an order that is not that of the file's fields."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c]) for n, c in (("x", ROWS), ("y", columns))]
    rng = np.random.default_rng(1)
    weights = [
        numpy_helper.from_array(rng.standard_normal((ROWS, columns)).astype(np.float32), "w"),
        numpy_helper.from_array(np.float32([0.5]), "b"),
        numpy_helper.from_array(rng.standard_normal((ROWS, columns)).astype(np.float32), "v"),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("MatMul", ["x", "v"], ["q"]),
        helper.make_node("Sub", ["p", "q"], ["r"]), helper.make_node("Add", ["r", "b"], ["y"]),
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def nothing(_offset: int, _length: int) -> bytes:
    return b""


def test_only_large_weights_are_left_out_and_everything_else_is_kept():
    whole = model()
    light = onnx.load_model_from_string(lightened(whole.SerializeToString(), nothing))

    assert [len(t.raw_data) for t in light.graph.initializer] == [0, 4, 0]
    for there, here in zip(whole.graph.initializer, light.graph.initializer, strict=True):
        if not here.raw_data:
            here.raw_data = there.raw_data
    assert light == whole


def test_a_graph_read_without_its_weights_costs_the_same(tmp_path):
    onnx.save(model(), tmp_path / "m.onnx")
    light = onnx_graph.read(onnx_graph.outline(tmp_path / "m.onnx"), {})
    assert light == onnx_graph.read(onnx_graph.load(tmp_path / "m.onnx"), {})


def test_weights_put_apart_make_the_same_model_on_pages_of_their_own(tmp_path):
    onnx.save(model(), tmp_path / "m.onnx")

    assert put_apart(tmp_path / "m.onnx", tmp_path / "apart")

    records = onnx.load(tmp_path / "apart" / GRAPH_FILE, load_external_data=False).graph.initializer
    offsets = [int(e.value) for t in records for e in t.external_data if e.key == "offset"]
    assert offsets == [0, -(-ROWS * 128 * 4 // 4096) * 4096]
    whole = [numpy_helper.to_array(t) for t in model().graph.initializer]
    apart = [numpy_helper.to_array(t, str(tmp_path / "apart")) for t in records]
    assert all(np.array_equal(a, b) for a, b in zip(whole, apart, strict=True))


def test_a_runtime_answers_to_the_bit_what_it_answers_from_the_file(tmp_path):
    ort = pytest.importorskip("onnxruntime")
    onnx.save(model(), tmp_path / "m.onnx")
    put_apart(tmp_path / "m.onnx", tmp_path / "apart")
    x = {"x": np.random.default_rng(2).standard_normal((1, ROWS)).astype(np.float32)}

    answers = [
        ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, x)[0]
        for path in (tmp_path / "m.onnx", tmp_path / "apart" / GRAPH_FILE)
    ]

    assert np.array_equal(*answers)


def test_a_model_without_large_weights_leaves_a_folder_without_a_graph(tmp_path):
    onnx.save(model(columns=2), tmp_path / "m.onnx")
    assert not put_apart(tmp_path / "m.onnx", tmp_path / "apart")
    assert list((tmp_path / "apart").iterdir()) == []


def test_weights_that_are_outside_already_stay_there(tmp_path):
    onnx.save(model(), tmp_path / "m.onnx", save_as_external_data=True, location="own.bin", size_threshold=1024)
    data = (tmp_path / "m.onnx").read_bytes()
    assert lightened(data, lambda *_: external("elsewhere", 0, 1)) == data


@given(st.binary(max_size=200))
def test_what_is_no_model_passes_as_it_is(data):
    assert lightened(data, nothing) == data or onnx_parses(data)


@given(st.data())
def test_a_damaged_file_never_ends_the_reader(data):
    whole = model(columns=64).SerializeToString()
    at = data.draw(st.integers(0, 400))
    damaged = whole[:at] + data.draw(st.binary(min_size=1, max_size=8)) + whole[at + 3 :]
    assert isinstance(lightened(damaged, nothing), bytes)
    assert isinstance(lightened(whole[:at], nothing), bytes)


def onnx_parses(data: bytes) -> bool:
    try:
        onnx.load_model_from_string(data)
    except Exception:  # noqa: BLE001 - whatever protobuf says, it is none
        return False
    return True


def test_an_empty_file_is_read_as_nothing(tmp_path):
    (tmp_path / "empty.onnx").touch()
    assert read_light(tmp_path / "empty.onnx") == b""


def test_one_child_reads_what_the_guard_and_the_planner_want_and_puts_the_weights_apart(tmp_path):
    onnx.save(model(), tmp_path / "m.onnx")

    seen = examine_in_child(tmp_path / "m.onnx", "onnx", "d" * 64, 60, tmp_path / "apart")

    assert seen.facts.opset == 17
    assert seen.facts.digest == "d" * 64
    assert seen.workload is not None
    assert sum(s.weight_bytes for s in seen.workload.stages) > 2 * LARGE_BYTES
    assert (tmp_path / "apart" / WEIGHTS_FILE).stat().st_size == 4096 * 33 + ROWS * 128 * 4


@pytest.mark.parametrize("content", [b"", b"no model", b"\x3a\x05abc"])
def test_a_child_that_cannot_read_a_file_says_why_in_one_line(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelLoadFailed, match=r"m\.onnx: not an ONNX model"):
        examine_in_child(tmp_path / "m.onnx", "onnx", "d", 60)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ModelLoadFailed, match="cannot be read"):
        examine_in_child(tmp_path / "none.onnx", "onnx", "d", 60)
