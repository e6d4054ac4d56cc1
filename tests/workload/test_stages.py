"""Cutting any graph: every kernel in one stage, one tensor across each boundary, at most so many stages."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.schema.workload import Work
from agent.workload.graph import Cost, Graph, Node, Tensor
from agent.workload.kernels import group, live_bytes_peak
from agent.workload.stages import choose, find_cuts, side_tensors, split

KINDS = ("heavy", "elementwise", "reduce", "other", "alias", "removed")


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Any acyclic graph of up to 14 nodes; each reads up to three earlier tensors."""
    count = draw(st.integers(1, 14))
    tensors = {"in": Tensor("in", (draw(st.integers(1, 64)),), "float32")}
    nodes = []
    for index in range(count):
        inputs = draw(st.lists(st.sampled_from(sorted(tensors)), min_size=1, max_size=3, unique=True))
        kind = draw(st.sampled_from(KINDS))
        name = f"t{index:02d}"
        elements = tensors[inputs[0]].elements if kind != "heavy" else draw(st.integers(1, 64))
        flops = float(draw(st.integers(0, 1000)))
        counted = flops > 0 and kind not in ("alias", "removed")
        work = (Work(family="gemm", precision="fp32", flops=flops),) if counted else ()
        weights = {f"w{draw(st.integers(0, 3))}": 64.0} if kind == "heavy" else {}
        tensors[name] = Tensor(name, (elements,), "float32")
        nodes.append(Node(name, kind, tuple(inputs), (name,), Cost(kind, work), weights))
    read = {i for n in nodes for i in n.inputs}
    outputs = tuple(n.outputs[0] for n in nodes if n.outputs[0] not in read)
    return Graph("g", tuple(nodes), tensors, ("in",), outputs)


def chain(*kinds: str, elements: int = 8) -> Graph:
    tensors = {"in": Tensor("in", (elements,), "float32")}
    nodes = []
    for index, kind in enumerate(kinds):
        name, before = f"t{index}", f"t{index - 1}" if index else "in"
        tensors[name] = Tensor(name, (elements,), "float32")
        work = (Work(family="gemm", precision="fp32", flops=100.0),)
        nodes.append(Node(name, kind, (before,), (name,), Cost(kind, work), {f"w{index}": 10.0}))
    return Graph("chain", tuple(nodes), tensors, ("in",), (f"t{len(kinds) - 1}",))


@given(graphs())
def test_every_node_with_work_is_in_exactly_one_kernel(graph):
    kernels = group(graph)

    wanted = sum(w.flops for n in graph.nodes for w in n.cost.work)
    assert sum(k.flops for k in kernels) == pytest.approx(wanted)
    members = [n.name for n in graph.nodes if n.cost.kind not in ("alias", "removed")]
    assert len({k.name for k in kernels}) == len(kernels) <= len(members)


@given(graphs())
def test_kernels_can_run_in_the_order_given(graph):
    there = {"in"}
    for kernel in group(graph):
        assert set(kernel.reads) <= there
        there |= set(kernel.writes)
    assert {o for o in graph.outputs if graph.nodes[int(o[1:])].cost.kind not in ("alias", "removed")} <= there


@given(graphs(), st.booleans())
def test_one_tensor_crosses_each_boundary(graph, with_side):
    kernels = group(graph)
    side = side_tensors(kernels) if with_side else frozenset()

    for cut in find_cuts(kernels, side):
        made = {n for k in kernels[: cut.position] for n in k.writes}
        needed = {n for k in kernels[cut.position :] for n in k.reads}
        assert (made & needed) - side == {cut.tensor}


@given(graphs(), st.integers(1, 6))
def test_stages_hold_all_work_once_and_are_never_more_than_asked(graph, most):
    stages = split(graph, most)

    assert 1 <= len(stages) <= most
    wanted = sum(w.flops for n in graph.nodes for w in n.cost.work)
    assert sum(s.flops for s in stages) == pytest.approx(wanted)
    assert sum(s.activation_bytes for s in stages) == pytest.approx(sum(k.moved_bytes for k in group(graph)))
    assert all(a.output_bytes == b.input_bytes for a, b in pairwise(stages))
    assert len({s.name for s in stages}) == len(stages)


@given(st.lists(st.floats(0.01, 10), min_size=2, max_size=40), st.integers(1, 8))
def test_no_stage_is_heavier_than_an_even_share_and_the_heaviest_piece(loads, most):
    graph = chain(*["other"] * len(loads))
    cuts = find_cuts(group(graph))

    bounds = [0, *(c.position for c in choose(cuts, loads, most)), len(loads)]
    heaviest = max(sum(loads[a:b]) for a, b in pairwise(bounds))
    assert len(bounds) - 1 == min(most, len(loads))
    assert heaviest <= sum(loads) / most + max(loads) + 1e-6


@given(graphs())
def test_the_arena_holds_the_largest_kernel_and_not_more_than_all_tensors(graph):
    kernels = group(graph)

    peak = live_bytes_peak(kernels, graph)
    largest = max((sum(graph.tensors[n].bytes for n in {*k.reads, *k.writes}) for k in kernels), default=0.0)
    assert largest <= peak <= sum(t.bytes for t in graph.tensors.values())


def test_a_chain_keeps_two_tensors_alive():
    graph = chain("other", "other", "other", "other")

    assert live_bytes_peak(group(graph), graph) == 2 * 8 * 4


def test_a_residual_connection_cannot_be_cut():
    tensors = {n: Tensor(n, (8,), "float32") for n in ("in", "a", "b", "c", "d")}
    work = (Work(family="gemm", precision="fp32", flops=10.0),)
    nodes = [
        Node("a", "other", ("in",), ("a",), Cost("other", work)),
        Node("b", "other", ("a",), ("b",), Cost("other", work)),
        Node("c", "other", ("a", "b"), ("c",), Cost("other", work)),
        Node("d", "other", ("c",), ("d",), Cost("other", work)),
    ]
    graph = Graph("g", tuple(nodes), tensors, ("in",), ("d",))

    assert [(c.position, c.tensor) for c in find_cuts(group(graph))] == [(1, "a"), (3, "c")]


def test_a_mask_that_every_layer_reads_does_not_prevent_cuts():
    tensors = {n: Tensor(n, (8,), "float32") for n in ("in", "mask", "m", "a", "b", "c")}
    heavy = (Work(family="gemm", precision="fp32", flops=1e6),)
    nodes = [Node("m", "other", ("mask",), ("m",), Cost("other"))]
    for name, before in (("a", "in"), ("b", "a"), ("c", "b")):
        nodes.append(Node(name, "other", (before, "m"), (name,), Cost("other", heavy), {name: 1e6}))
    graph = Graph("g", tuple(nodes), tensors, ("in", "mask"), ("c",))

    assert [c.tensor for c in find_cuts(group(graph), side_tensors(group(graph)))] == ["a", "b"]
    assert find_cuts(group(graph)) == () or [c.tensor for c in find_cuts(group(graph))] == ["m"]


def test_a_cache_is_never_a_side_tensor():
    tensors = {n: Tensor(n, (8,), "float32") for n in ("in", "a", "b")}
    heavy = (Work(family="gemm", precision="fp32", flops=1e6),)
    nodes = (
        Node("a", "other", ("in",), ("a",), Cost("other", kv_bytes=8.0)),
        Node("b", "other", ("a",), ("b",), Cost("other", heavy), {"w": 8.0}),
    )

    assert side_tensors(group(Graph("g", nodes, tensors, ("in",), ("b",)))) == frozenset()


def test_a_graph_without_kernels_is_one_empty_stage():
    (stage,) = split(Graph("g", (), {}, (), ()))

    assert (stage.name, stage.flops) == ("empty", 0.0)


def test_fewer_than_one_stage_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        split(chain("other"), 0)


def test_a_long_chain_fuses_up_to_the_limit_only():
    kernels = group(chain("heavy", *["elementwise"] * 40))

    assert len(kernels[0].operators) == 2
    assert kernels[0].flops == 17 * 100.0
    assert len(kernels) == 25


def test_views_count_as_nodes_and_removed_ones_do_not():
    assert sum(k.nodes for k in group(chain("other", "alias", "other"))) == 3
    assert sum(k.nodes for k in group(chain("other", "removed", "other"))) == 2


def test_a_kernel_that_takes_a_later_residual_runs_after_it():
    tensors = {n: Tensor(n, (8,), "float32") for n in ("in", "a", "b", "c")}
    nodes = (
        Node("a", "MatMul", ("in",), ("a",), Cost("heavy")),
        Node("b", "Sort", ("in",), ("b",), Cost("other")),
        Node("c", "Add", ("a", "b"), ("c",), Cost("elementwise")),
    )
    kernels = group(Graph("g", nodes, tensors, ("in",), ("c",)))

    assert [k.operators for k in kernels] == [("Sort",), ("MatMul", "Add")]


def test_a_product_that_somebody_else_reads_keeps_its_activation_apart():
    tensors = {n: Tensor(n, (8,), "float32") for n in ("in", "a", "b", "c")}
    nodes = (
        Node("a", "Conv", ("in",), ("a",), Cost("heavy")),
        Node("b", "Sigmoid", ("a",), ("b",), Cost("elementwise")),
        Node("c", "MaxPool", ("a",), ("c",), Cost("other")),
    )
    kernels = group(Graph("g", nodes, tensors, ("in",), ("b", "c")))

    assert [k.operators for k in kernels] == [("Conv",), ("Sigmoid",), ("MaxPool",)]


def test_a_residual_addition_rides_on_the_product_and_its_operand_is_read():
    tensors = {n: Tensor(n, (8,), "float32") for n in ("in", "a", "b")}
    nodes = (
        Node("a", "MatMul", ("in",), ("a",), Cost("heavy")),
        Node("b", "Add", ("a", "in"), ("b",), Cost("elementwise")),
    )
    (kernel,) = group(Graph("g", nodes, tensors, ("in",), ("b",)))

    assert kernel.moved_bytes == 2 * 8 * 4
