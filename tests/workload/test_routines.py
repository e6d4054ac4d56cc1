"""What runs as which routine, and what of the nodes behind a product still costs something."""

from __future__ import annotations

import pytest

from agent.schema.workload import Work
from agent.workload.graph import Cost, Node, is_line
from agent.workload.routines import kernels_of

ELEMENTS = 10.0


def product(**cost) -> Node:
    work = (Work(family="conv", precision="fp32", flops=100.0),)
    return Node("p", "Conv", ("x",), ("t",), Cost("heavy", work, **cost))


def light(operator: str, *reads: str, makes: str = "u") -> Node:
    work = (Work(family="elementwise", precision="fp32", flops=ELEMENTS),)
    return Node(operator, operator, reads or ("t",), (makes,), Cost("elementwise", work))


def in_a_row(operators: str) -> list[Node]:
    """Each reads what the one before made."""
    return [light(name, f"t{i}", makes=f"t{i + 1}") for i, name in enumerate(operators.split())]


@pytest.mark.parametrize(
    ("operators", "joined", "arithmetic", "scaling", "functions", "nodes"),
    [
        ("Add Mul Relu", (), 0, 0, 0, 0),
        ("Add Add Relu", (2,), 1, 0, 0, 1),
        ("Add Sigmoid Mul", (), 0, 0, 1, 1),
        ("Sigmoid Mul Mul", (3,), 1, 0, 1, 2),
        ("Div Erf Add Mul Mul", (), 0, 0, 1, 1),
        ("Sub Mul Add Relu", (), 0, 4, 0, 4),
        ("Relu Mul", (), 0, 1, 0, 1),
        ("Sub Add", (2,), 0, 2, 0, 2),
    ],
)
def test_what_weights_or_registers_take_in_is_free_and_the_rest_is_counted_by_what_it_reads(
    operators, joined, arithmetic, scaling, functions, nodes
):
    behind = in_a_row(operators)
    (made,) = kernels_of([product(), *behind], 0.0, 0, frozenset(joined))
    spelled = made.fused_functions + made.fused_error_functions
    found = (made.fused_arithmetic, made.fused_scaling, spelled, made.fused_nodes * ELEMENTS)
    assert (made.fused_error_functions > 0) == ("Erf" in operators)
    assert found == tuple(ELEMENTS * count for count in (arithmetic, scaling, functions, nodes))
    assert made.flops == 100.0


def test_nothing_goes_into_a_product_that_is_read_again_as_it_was():
    behind = [light("Add", "t", makes="a"), light("Clip", "a", makes="c"), light("Mul", "t", "c", makes="m")]
    (made,) = kernels_of([product(), *behind, light("Div", "m")], 0.0, 0)
    assert (made.fused_scaling, made.fused_nodes) == (4 * ELEMENTS, 4)


@pytest.mark.parametrize(("window", "routine"), [(1, "pointwise"), (9, "conv"), (0, "conv")])
def test_a_convolution_of_one_tap_is_a_routine_of_its_own(window, routine):
    (made,) = kernels_of([product(window=window, columns=24)], 0.0, 0)
    assert (made.routine, made.columns) == (routine, 24)


def test_a_convolution_over_time_is_a_routine_of_its_own_unless_it_has_one_tap():
    routines = [kernels_of([product(window=taps, line=True)], 0.0, 0)[0].routine for taps in (1, 5)]
    assert routines == ["pointwise", "conv_1d"]


@pytest.mark.parametrize(
    ("places", "line"), [((400,), True), ((400, 1), True), ((1, 400), True), ((20, 20), False), ((1, 1), False)]
)
def test_what_is_one_pixel_wide_or_high_is_a_line_and_a_single_value_is_none(places, line):
    assert is_line(places) is line


def test_changes_of_shape_count_beside_the_kernel():
    _, views = kernels_of([product()], 0.0, 3)
    assert (views.routine, views.count) == ("view", 3)
