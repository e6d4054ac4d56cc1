"""Graphs that are no chain: heads of a detector, long skips, a decoder that reads its encoder."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given

from agent.schema.workload import Work
from agent.workload.catalogue import CATALOGUE, resolve_name
from agent.workload.graph import Cost, Graph, Node, Tensor
from agent.workload.kernels import group
from agent.workload.stages import HEAVY_SHARE, MAX_TENSORS, cut_loads, find_cuts, places, side_tensors, split
from tests.workload.test_stages import graphs

Edge = tuple[str, tuple[str, ...], str]
"""Name of a node, what it reads, its weights."""


def graph(*edges: Edge, outputs: tuple[str, ...]) -> Graph:
    tensors = {"in": Tensor("in", (8,), "float32")}
    nodes = []
    for name, reads, weights in edges:
        tensors[name] = Tensor(name, (8,), "float32")
        work = (Work(family="gemm", precision="fp32", flops=100.0),)
        nodes.append(Node(name, "heavy", reads, (name,), Cost("heavy", work), {weights: 10.0}))
    return Graph("g", tuple(nodes), tensors, ("in",), outputs)


def two_heads() -> Graph:
    boxes = [(f"b{i}", (f"b{i - 1}" if i else "base",), f"wb{i}") for i in range(4)]
    classes = [(f"c{i}", (f"c{i - 1}" if i else "base",), f"wc{i}") for i in range(4)]
    return graph(("base", ("in",), "w"), *boxes, *classes, outputs=("b3", "c3"))


def encoder_decoder() -> Graph:
    encoder = [(f"e{i}", (f"e{i - 1}" if i else "in",), f"we{i}") for i in range(3)]
    decoder = [(f"d{i}", (f"d{i - 1}", "e2") if i else ("e2",), f"wd{i}") for i in range(5)]
    return graph(*encoder, *decoder, outputs=("d4",))


def test_a_decoder_that_reads_its_encoder_all_along_is_cut_where_both_are_alive():
    stages = split(encoder_decoder())
    assert [s.name for s in stages] == ["e0", "e1", "e2", "d0", "d1", "d2", "d3", "d4"]
    assert [s.output_tensors for s in stages] == [1, 1, 1, 2, 2, 2, 2, 1]
    assert [s.output_bytes for s in stages[2:5]] == [32.0, 64.0, 64.0]
    assert [s.input_bytes for s in stages[1:]] == [s.output_bytes for s in stages[:-1]]


def test_heads_of_a_detector_run_one_after_the_other_and_can_be_cut():
    stages = split(two_heads())
    assert len(stages) > 4
    assert max(s.flops for s in stages) <= 300.0


def test_branches_that_share_weights_stay_together_so_that_they_are_held_once():
    turns = [(f"{head}{i}", (f"{head}{i - 1}" if i else "base",), "same") for i in range(4) for head in "bc"]
    stages = split(graph(("base", ("in",), "w"), *turns, outputs=("b3", "c3")))
    assert [s.name for s in stages] == ["base", "b0", "c3"]
    apart = [(name, reads, f"w{name}") for name, reads, _ in turns]
    assert len(split(graph(("base", ("in",), "w"), *apart, outputs=("b3", "c3")))) > 6


def test_light_branches_are_one_stage():
    chain = [(f"t{i}", (f"t{i - 1}" if i else "in",), f"w{i}") for i in range(30)]
    branch = [("left", ("t29",), "wl"), ("right", ("t29",), "wr"), ("sum", ("left", "right"), "ws")]
    found = split(graph(*chain, *branch, outputs=("sum",)), 64)
    assert all(s.output_tensors == 1 for s in found)


@given(graphs())
def test_wider_boundaries_are_added_only_inside_what_is_heavy_and_no_wider_than_allowed(made):
    kernels = group(made)
    side, loads = side_tensors(kernels), cut_loads(kernels)
    single = find_cuts(kernels, side)
    found = places(kernels, side, loads)
    assert {c.position for c in single} <= {c.position for c in found}
    assert [c.position for c in found] == sorted({c.position for c in found})
    bounds = [0, *(c.position for c in single), len(kernels)]
    for cut in {c.position: c for c in found if c.others}.values():
        assert 2 <= len(cut.tensors) <= MAX_TENSORS
        begin, end = next((a, b) for a, b in pairwise(bounds) if a < cut.position < b)
        assert sum(loads[begin:end]) > HEAVY_SHARE * sum(loads)


@given(graphs())
def test_what_enters_a_stage_left_the_one_before(made):
    for before, after in pairwise(split(made, 24)):
        assert before.output_bytes == after.input_bytes
        assert before.output_tensors >= 1


@pytest.mark.parametrize(("name", "least"), [("yolov8n", 20), ("3d-unet", 20), ("retinanet", 20), ("whisper-base", 20)])
def test_networks_with_branches_have_stages_to_place(name, least):
    workload = resolve_name(name).workload()
    assert len(workload.stages) >= least
    whole = CATALOGUE[workload.model].workload(max_stages=1)
    for amount in ("flops", "weight_bytes", "activation_bytes"):
        totals = [sum(getattr(s, amount) for s in w.stages) for w in (workload, whole)]
        assert totals[0] == pytest.approx(totals[1])
