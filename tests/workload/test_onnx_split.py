"""Splitting: stage models that give the whole model's bits, share their weights, and are refused with a reason."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from agent.errors import ModelLoadFailed
from agent.workload import onnx_graph, onnx_split
from agent.workload.boundaries import Crossing, Places, crossings
from agent.workload.kernels import group
from agent.workload.onnx_cut import Cutter, node_costs
from agent.workload.onnx_split import Order, Split, split, split_in_child
from agent.workload.onnx_verify import inputs_for, same_bits
from agent.workload.stages import MAX_STAGES
from agent.workload.stages import split as stages_of
from tests.workload.runnable import Net, convolutions, decoder, saved, transformer

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


def branches() -> onnx.ModelProto:
    """Two towers that join: nothing can be cut at one tensor of one tower without the other's."""
    w = Net()
    a = w.node("Relu", w.node("MatMul", "x", w.weight(32, 32)))
    b = w.node("Tanh", w.node("MatMul", a, w.weight(32, 32)))
    c = w.node("Sigmoid", w.node("MatMul", a, w.weight(32, 32)))
    joined = w.node("MatMul", w.node("Mul", b, c), w.weight(32, 32))
    return w.built({"x": (1, ["batch", 32])}, (joined, 1, ["batch", 32]))


def at(path: Path, out: Path, *boundaries: tuple[str, ...], check: bool = True) -> Split:
    return split(Order(path, out, names(len(boundaries) + 1), boundaries, check=check))


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


def fused() -> tuple[onnx.ModelProto, str]:
    """A normalisation that the runtime computes as one: a cut in its middle changes the order of its sums."""
    w = Net(3)
    x = w.node("MatMul", "x", w.weight(64, 64))
    centred = w.node("Sub", x, w.node("ReduceMean", x, axes=[-1]))
    variance = w.node("ReduceMean", w.node("Pow", centred, w.constant(2.0)), axes=[-1])
    scaled = w.node("Div", centred, w.node("Sqrt", w.node("Add", variance, w.constant(1e-5))))
    y = w.node("Add", w.node("Mul", scaled, w.weight(64)), w.weight(64))
    for _ in range(3):
        y = w.node("MatMul", y, w.weight(64, 64))
    return w.built({"x": (1, [64, 64])}, (y, 1, [64, 64])), scaled


def test_a_cut_through_what_the_runtime_fuses_is_refused_because_bits_differ(tmp_path):
    model, inside = fused()
    path = saved(model, tmp_path)
    with pytest.raises(ModelLoadFailed, match=r"would not be the same to the bit \(off by .*fuses operators"):
        at(path, tmp_path / "out", (inside,))
    assert not list((tmp_path / "out").glob("*.onnx"))


def test_a_search_moves_away_from_boundaries_that_change_bits(tmp_path, monkeypatch):
    model, inside = fused()
    path = saved(model, tmp_path)
    position = 1
    offered = [Crossing(position, (inside,))]
    honest = Places.nearest

    def nearest(self: Places, targets, refused):
        left = [c for c in offered if c not in refused]
        return (left[0], *honest(self, targets[1:], [])) if left else honest(self, targets, refused)

    monkeypatch.setattr(Places, "nearest", nearest)
    result = split(Order(path, tmp_path / "out", names(3), stages=3))
    assert "changes bits" in result.refused[0]
    assert (inside,) not in result.boundaries
    agree(path, result, inputs_for([("x", "float32", (64, 64))]))
    assert not list((tmp_path / "out").glob(".*"))


def test_more_stages_than_a_graph_has_places_are_refused(tmp_path):
    w = Net()
    out = w.node("MatMul", w.node("MatMul", "x", w.weight(8, 8)), w.weight(8, 8))
    path = saved(w.built({"x": (1, [4, 8])}, (out, 1, [4, 8])), tmp_path)
    with pytest.raises(ModelLoadFailed, match="cannot be cut into 6 stages: its graph allows 2 at most"):
        split(Order(path, tmp_path / "out", names(6), stages=6))


def test_boundaries_follow_the_stages_of_the_workload(tmp_path):
    path = saved(transformer(), tmp_path)
    workload = stages_of(onnx_graph.read(onnx_graph.load(path), {"past": 0}), MAX_STAGES)
    assert len(workload) > 6

    result = split(Order(path, tmp_path / "out", names(3), after=(1, 4), check=False))

    weights = [s.weight_bytes + s.idle_weight_bytes for s in workload]
    expected = [sum(weights[:2]), sum(weights[2:5]), sum(weights[5:])]
    assert [s.weight_bytes for s in result.stages] == pytest.approx(expected, rel=0.05, abs=64)


def test_a_child_writes_the_same_stages_and_tells_its_steps(tmp_path):
    path = saved(convolutions(), tmp_path)
    told: list[str] = []

    result = split_in_child(Order(path, tmp_path / "out", names(2), stages=2), 60, told.append)

    here = split(Order(path, tmp_path / "here", names(2), stages=2))
    assert told[0] == "reading the graph"
    assert "comparing 2 stages with the whole model" in told
    assert [s.path.read_bytes() for s in result.stages] == [s.path.read_bytes() for s in here.stages]
    assert Split.from_json(json.loads(json.dumps(result.to_json()))) == result


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07" * 40])
def test_a_bad_file_is_one_line_with_its_path(tmp_path, content):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelLoadFailed, match=r"bad\.onnx: .*not an ONNX model") as caught:
        split_in_child(Order(path, tmp_path / "out", names(2), stages=2), 60)
    assert "\n" not in caught.value.message


def test_a_child_that_takes_too_long_or_too_much_memory_is_stopped(tmp_path):
    path = saved(convolutions(), tmp_path)
    order = Order(path, tmp_path / "out", names(2), stages=2)
    with pytest.raises(ModelLoadFailed, match=r"longer than 0\.01 s"):
        split_in_child(order, 0.01)
    with pytest.raises(ModelLoadFailed):
        split_in_child(order, 60, memory_limit_bytes=96 * 1024 * 1024)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    path = saved(convolutions(), tmp_path)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ModelLoadFailed, match="stage models cannot be written: File exists"):
        split_in_child(Order(path, tmp_path / "out", names(2), stages=2), 60)


def test_the_entry_of_the_child_reads_its_order_from_standard_input(tmp_path, monkeypatch, capsys):
    path = saved(convolutions(), tmp_path)
    document = {"path": str(path), "folder": str(tmp_path / "out"), "names": ["a", "b"], "boundaries": [],
                "stages": 2, "after": [], "check": True, "threads": 1}  # fmt: skip
    monkeypatch.setattr(onnx_split.resource, "setrlimit", lambda *_: None)
    monkeypatch.setattr(onnx_split.json, "load", lambda _: document)
    assert onnx_split.main(["1000000000"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows[-1]["result"]["stages"]) == 2


OPERATORS = ("Relu", "Tanh", "MatMul", "Add", "Mul", "Sub", "Transpose2", "Erf")


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Random operators over random earlier tensors, with shared weights and one or two outputs."""
    w = Net(draw(st.integers(0, 3)))
    made = ["x", "y"]
    weights = [w.weight(8, 8) for _ in range(3)]
    for _ in range(draw(st.integers(4, 14))):
        op = draw(st.sampled_from(OPERATORS))
        first, second = draw(st.sampled_from(made[-4:])), draw(st.sampled_from(made))
        if op == "MatMul":
            made.append(w.node("MatMul", first, draw(st.sampled_from(weights))))
        elif op in ("Add", "Mul", "Sub"):
            made.append(w.node(op, first, second))
        elif op == "Transpose2":
            made.append(w.node("Transpose", first, perm=[1, 0]))
        else:
            made.append(w.node(op, first))
    outputs = draw(st.sets(st.sampled_from(made[-3:-1]), max_size=1)) | {made[-1]}
    return w.built({"x": (1, [8, 8]), "y": (1, [8, 8])}, *((name, 1, [8, 8]) for name in sorted(outputs - {"x", "y"})))


def attempted(path: Path, out: Path, boundaries: list, check: bool = True) -> tuple[Split | None, str]:
    try:
        return at(path, out, *boundaries, check=check), ""
    except ModelLoadFailed as error:
        return None, error.message


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graphs(), st.data())
def test_any_cut_of_any_graph_is_right_or_refused(tmp_path_factory, model, data):
    folder = tmp_path_factory.mktemp("cut")
    path = saved(model, folder)
    nodes = [n.output[0] for n in model.graph.node]
    ends = sorted(data.draw(st.sets(st.integers(1, len(nodes) - 1), min_size=1, max_size=3)))
    boundaries = []
    for end in ends:  # all that is alive there, or only some of it
        later = {name for n in model.graph.node[end:] for name in n.input}
        alive = [name for name in nodes[:end] if name in later]
        kept = data.draw(st.integers(1, len(alive))) if alive else 0
        boundaries.append(tuple(alive[:kept] if data.draw(st.booleans()) else alive))
    feeds = inputs_for([("x", "float32", (8, 8)), ("y", "float32", (8, 8))], seed=5)
    result, why = attempted(path, folder / "out", boundaries, check=False)
    if result is None:
        assert "cannot be cut" in why or "at least one tensor" in why
        return
    agree(path, result, feeds, optimise=False)
    checked, why = attempted(path, folder / "checked", boundaries)
    if checked is None:
        assert "same to the bit" in why
        return
    agree(path, checked, feeds)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(NETS)), data=st.data())
def test_random_cuts_of_real_architectures_keep_the_bits(tmp_path_factory, kind, data):
    folder = tmp_path_factory.mktemp("cut")
    path = saved(NETS[kind](), folder)
    graph = onnx_graph.read(onnx_graph.load(path), {"past": 0})
    places = Places(graph).all()
    chosen = sorted(data.draw(st.sets(st.integers(0, len(places) - 1), min_size=1, max_size=5)))
    result, why = attempted(path, folder / "out", [places[i].tensors for i in chosen])
    if result is None:
        assert "same to the bit" in why
        return
    agree(path, result, inputs_for(FEEDS[kind], seed=11))


def test_places_are_where_few_tensors_are_alive(tmp_path):
    graph = onnx_graph.read(onnx_graph.load(saved(branches(), tmp_path)), {})
    kernels = group(graph)
    assert [len(c.tensors) for c in crossings(kernels, frozenset(), 1)] == [1] * len(crossings(kernels, frozenset(), 1))
    assert max(len(c.tensors) for c in crossings(kernels, frozenset(), 4)) == 2


def test_nearest_places_are_in_order_and_run_out(tmp_path):
    places = Places(onnx_graph.read(onnx_graph.load(saved(convolutions(), tmp_path)), {}))
    everywhere = places.all()
    found = places.nearest([everywhere[0].position] * 3, ())
    assert all(a.position < b.position for a, b in pairwise(found))
    assert places.nearest([1] * (len(everywhere) + 1), ()) is None
    assert places.nearest([1], everywhere) is None


def test_copies_are_counted_and_cheap(tmp_path):
    model = transformer()
    loaded = onnx_graph.load(saved(model, tmp_path))
    graph = onnx_graph.read(loaded, {})
    cutter = Cutter(loaded, node_costs(graph))
    places = [c for c in Places(graph).all(1) if c.position > 10]
    slices = cutter.slices([places[0].tensors])
    assert slices[1].copies > 0
    assert "mask" in slices[1].given
