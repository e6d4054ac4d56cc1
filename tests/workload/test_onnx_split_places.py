"""Where a graph is cut: at random, by the workload, where few tensors are alive, not through what is fused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import ModelLoadFailed
from agent.workload import onnx_graph
from agent.workload.boundaries import Crossing, Places, crossings
from agent.workload.kernels import group
from agent.workload.onnx_cut import Cutter, node_costs
from agent.workload.onnx_split import Order, Split, split
from agent.workload.onnx_verify import inputs_for
from agent.workload.stages import MAX_STAGES
from agent.workload.stages import split as stages_of
from tests.workload.runnable import Net, convolutions, saved, transformer
from tests.workload.splitting import FEEDS, NETS, agree, at, branches, names


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
