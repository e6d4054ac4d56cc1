"""Splitting: stage models that give the whole model's bits, share their weights, and are refused with a reason."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from agent.errors import ModelLoadFailed
from agent.workload.onnx_split import Order, split
from agent.workload.onnx_verify import inputs_for
from tests.workload.runnable import Net, convolutions, decoder, saved, transformer
from tests.workload.splitting import FEEDS, NETS, agree, at, branches, names


@pytest.mark.parametrize("stages", [2, 3, 6])
@pytest.mark.parametrize("kind", NETS)
def test_stages_give_the_bits_of_the_whole_model(tmp_path, kind, stages):
    path = saved(NETS[kind](), tmp_path)

    result = split(Order(path, tmp_path / "out", names(stages), stages=stages))

    assert [s.path.stem for s in result.stages] == list(names(stages))
    assert result.checked.inputs == 2
    assert len(result.checked.stage_s) == stages
    assert all(size > 0 for size in result.checked.crossing_bytes)
    agree(path, result, inputs_for(FEEDS[kind], seed=7))


def test_sizes_that_were_free_stay_free(tmp_path):
    path = saved(transformer(), tmp_path)
    result = split(Order(path, tmp_path / "out", names(3), stages=3))
    for length in (1, 4, 33):
        agree(path, result, inputs_for([("ids", "int64", (3, length)), ("mask", "int64", (3, length))]))


def test_a_decoders_cache_comes_from_the_stage_of_its_layer(tmp_path):
    path = saved(decoder(), tmp_path)
    result = split(Order(path, tmp_path / "out", names(3), stages=3))
    assert all(any(name.startswith("past_key_values") for name in stage.given) for stage in result.stages)
    assert sum(len(stage.answers) for stage in result.stages) == 7


def test_large_weights_lie_once_beside_the_stages(tmp_path):
    w = Net()
    shared = w.weight(64, 64)
    x = "x"
    for _ in range(4):
        x = w.node("Relu", w.node("MatMul", x, shared))
    model = w.built({"x": (1, ["batch", 64])}, (x, 1, ["batch", 64]))
    path = saved(model, tmp_path)

    result = split(Order(path, tmp_path / "out", names(2), stages=2))

    assert (tmp_path / "out" / "weights.bin").stat().st_size == 64 * 64 * 4
    assert all(s.path.stat().st_size < 2000 for s in result.stages)
    assert [s.weight_bytes for s in result.stages] == [64 * 64 * 4] * 2
    agree(path, result, inputs_for([("x", "float32", (3, 64))]))


def test_weights_outside_the_file_are_linked_not_copied(tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(convolutions(), str(path), save_as_external_data=True, location="big.data", size_threshold=100)

    result = split(Order(path, tmp_path / "out", names(3), stages=3))

    assert (tmp_path / "out" / "outside-0.bin").samefile(tmp_path / "big.data")
    agree(path, result, inputs_for(FEEDS["convolutions"]))


def test_weights_are_copied_where_links_are_impossible(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    onnx.save(convolutions(), str(path), save_as_external_data=True, location="big.data", size_threshold=100)

    def forbidden(*_: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr(os, "link", forbidden)
    for _ in range(2):  # the second time it is there
        result = split(Order(path, tmp_path / "out", names(2), stages=2))
    assert not (tmp_path / "out" / "outside-0.bin").samefile(tmp_path / "big.data")
    agree(path, result, inputs_for(FEEDS["convolutions"]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda folder: (folder / "big.data").unlink(), "'big.data' beside it, and no such file"),
        (lambda folder: (folder / "big.data").rename(folder.parent / "big.data"), "no such file"),
    ],
)
def test_missing_outside_weights_are_named(tmp_path, change, words):
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "net.onnx"
    onnx.save(convolutions(), str(path), save_as_external_data=True, location="big.data", size_threshold=100)
    change(folder)
    with pytest.raises(ModelLoadFailed, match=words):
        split(Order(path, tmp_path / "out", names(2), stages=2))


def test_outside_weights_of_another_folder_are_refused(tmp_path):
    model = convolutions()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    with pytest.raises(ModelLoadFailed, match="not in the model's folder"):
        split(Order(saved(model, tmp_path), tmp_path / "out", names(2), stages=2))


def test_a_few_tensors_may_cross_together(tmp_path):
    path = saved(branches(), tmp_path)
    tanh, sigmoid = (n.output[0] for n in onnx.load(str(path)).graph.node if n.op_type in ("Tanh", "Sigmoid"))

    result = at(path, tmp_path / "out", (tanh, sigmoid))

    assert result.stages[0].sends == result.stages[1].receives == tuple(sorted((tanh, sigmoid)))
    agree(path, result, inputs_for([("x", "float32", (5, 32))]))


def test_a_tensor_that_jumps_over_a_stage_is_received_where_it_is_read(tmp_path):
    w = Net()
    a = w.node("Relu", w.node("MatMul", "x", w.weight(32, 32)))
    b = w.node("Relu", w.node("MatMul", a, w.weight(32, 32)))
    c = w.node("Relu", w.node("MatMul", b, w.weight(32, 32)))
    out = w.node("Add", w.node("MatMul", c, w.weight(32, 32)), a)
    path = saved(w.built({"x": (1, ["batch", 32])}, (out, 1, ["batch", 32])), tmp_path)

    result = at(path, tmp_path / "out", (a,), (b,))

    assert [s.receives for s in result.stages] == [(), (a,), tuple(sorted((a, b)))]
    assert [s.copies for s in result.stages] == [0, 0, 0]
    agree(path, result, inputs_for([("x", "float32", (5, 32))]))


def test_towers_that_never_crossed_are_not_copies(tmp_path):
    w = Net()
    a = w.node("Relu", w.node("MatMul", "x", w.weight(32, 32)))
    b = w.node("Relu", w.node("MatMul", "y", w.weight(32, 32)))
    out = w.node("MatMul", w.node("Add", a, b), w.weight(32, 32))
    path = saved(w.built({"x": (1, [4, 32]), "y": (1, [4, 32])}, (out, 1, [4, 32])), tmp_path)

    result = at(path, tmp_path / "out", (a,))

    assert [(s.given, s.copies) for s in result.stages] == [(("x",), 0), (("y",), 0)]
    agree(path, result, inputs_for([("x", "float32", (4, 32)), ("y", "float32", (4, 32))]))


def test_the_other_tensors_that_cross_are_named_in_the_refusal(tmp_path):
    path = saved(branches(), tmp_path)
    tanh, sigmoid = (n.output[0] for n in onnx.load(str(path)).graph.node if n.op_type in ("Tanh", "Sigmoid"))
    with pytest.raises(ModelLoadFailed) as caught:
        at(path, tmp_path / "out", (tanh,))
    boundary = caught.value.message.rsplit(" ", 1)[-1]
    assert boundary.startswith(tanh + ",")
    at(path, tmp_path / "out", tuple(boundary.split(",")))
    assert not list((tmp_path / "out").glob(".*"))
    assert sigmoid


@pytest.mark.parametrize(
    ("boundary", "words"),
    [
        (("x",), "it is an input of the model"),
        (("w0",), "it is a weight"),
        (("t0_1",), r"there is no such tensor \(did you mean 't0_0'\?\)"),
        ((), "at least one tensor"),
    ],
)
def test_what_is_no_boundary_is_refused_with_the_reason(tmp_path, boundary, words):
    path = saved(branches(), tmp_path)
    with pytest.raises(ModelLoadFailed, match=words):
        at(path, tmp_path / "out", boundary)
    assert not (tmp_path / "out").exists()


def test_a_boundary_with_nothing_before_or_behind_it_is_refused(tmp_path):
    path = saved(branches(), tmp_path)
    last = onnx.load(str(path)).graph.output[0].name
    with pytest.raises(ModelLoadFailed, match=r"nothing behind reads it|no operator is left behind"):
        at(path, tmp_path / "out", (last,))
    with pytest.raises(ModelLoadFailed, match="no operator is left before it"):
        at(path, tmp_path / "out", ("t1_0",), ("t1_0",))
    with pytest.raises(ModelLoadFailed, match="1 to 15 boundaries"):
        at(path, tmp_path / "out", *[("t1_0",)] * 16)


def conditional() -> onnx.ModelProto:
    """An If whose branches read a tensor and a weight from around them."""
    w = Net()
    a = w.node("Relu", w.node("MatMul", "x", w.weight(32, 32)))
    outer = w.weight(32, 32)
    yes = helper.make_graph([helper.make_node("MatMul", [a, outer], ["inner_yes"])], "yes", [],
                            [helper.make_tensor_value_info("inner_yes", 1, None)])  # fmt: skip
    no = helper.make_graph([helper.make_node("Neg", [a], ["inner_no"])], "no", [],
                           [helper.make_tensor_value_info("inner_no", 1, None)])  # fmt: skip
    chosen = w.node("If", "flag", then_branch=yes, else_branch=no)
    out = w.node("MatMul", w.node("Relu", chosen), w.weight(32, 32))
    return w.built({"x": (1, [4, 32]), "flag": (TensorProto.BOOL, [])}, (out, 1, [4, 32]))


def test_bodies_keep_what_they_read_from_around_them(tmp_path):
    path = saved(conditional(), tmp_path)
    before, behind = "t1_0", "t2_0"

    result = at(path, tmp_path / "out", (before,), (behind,))

    assert result.stages[1].receives == (before,)
    for flag in (True, False):
        agree(path, result, {"x": np.ones((4, 32), np.float32), "flag": np.array(flag)})


def test_a_cut_inside_a_body_is_refused(tmp_path):
    with pytest.raises(ModelLoadFailed, match="inside the body of an If, Loop or Scan"):
        at(saved(conditional(), tmp_path), tmp_path / "out", ("inner_yes",))


def test_random_numbers_that_both_sides_need_are_refused(tmp_path):
    w = Net()
    noise = w.node("RandomNormal", shape=[4, 32])
    a = w.node("MatMul", w.node("Add", "x", noise), w.weight(32, 32))
    out = w.node("Add", w.node("MatMul", a, w.weight(32, 32)), noise)
    path = saved(w.built({"x": (1, [4, 32])}, (out, 1, [4, 32])), tmp_path)
    with pytest.raises(ModelLoadFailed, match="both sides need the same RandomNormal"):
        at(path, tmp_path / "out", (a,))


def test_a_model_that_differs_from_run_to_run_cannot_be_checked(tmp_path):
    w = Net()
    a = w.node("MatMul", "x", w.weight(32, 32))
    out = w.node("Add", w.node("MatMul", a, w.weight(32, 32)), w.node("RandomNormal", shape=[4, 32]))
    path = saved(w.built({"x": (1, [4, 32])}, (out, 1, [4, 32])), tmp_path)
    with pytest.raises(ModelLoadFailed, match="differs from run to run"):
        at(path, tmp_path / "out", (a,))
    assert at(path, tmp_path / "out", (a,), check=False).checked is None
