"""Batches: joined and cut apart, every request gets its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent.control import batch
from agent.schema.workload import TensorSpec

FORMS = st.lists(
    st.tuples(st.sampled_from(["float32", "int64", "bool"]), hnp.array_shapes(min_dims=0, max_dims=3, max_side=3)),
    min_size=1, max_size=3,
)  # fmt: skip


@st.composite
def requests(draw):
    form = draw(FORMS)
    rows = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    return rows, [{f"t{i}": draw(hnp.arrays(d, (n, *shape))) for i, (d, shape) in enumerate(form)} for n in rows]


def same(a, b):
    return a.keys() == b.keys() and all(
        a[n].dtype == b[n].dtype and a[n].shape == b[n].shape and a[n].tobytes() == b[n].tobytes() for n in a
    )


@given(requests())
def test_what_is_joined_is_cut_into_the_same_requests_bit_by_bit(made):
    rows, asked = made
    parts = batch.cut(batch.join(asked), rows)
    assert all(same(part, request) for part, request in zip(parts, asked, strict=True))


@given(requests())
def test_requests_of_one_form_have_it_whatever_their_rows(made):
    rows, asked = made
    found = [batch.form_of(request) for request in asked]
    assert [n for n, _ in found] == rows
    assert len({form for _, form in found}) == 1


@given(requests())
def test_turned_inputs_have_the_same_form_and_values(made):
    for request in made[1]:
        turned = batch.turned(request)
        assert batch.form_of(turned) == batch.form_of(request)
        for name, tensor in request.items():
            assert sorted(map(repr, turned[name].ravel())) == sorted(map(repr, tensor.ravel()))


@pytest.mark.parametrize(
    "inputs",
    [{}, {"x": np.float32(1).reshape(())}, {"x": np.zeros((0, 2))}, {"x": np.zeros((2, 2)), "y": np.zeros((3, 2))}],
)
def test_without_a_common_number_of_rows_there_is_no_form(inputs):
    assert batch.form_of(inputs) is None


def test_another_dtype_name_or_inner_shape_is_another_form():
    x = np.zeros((1, 2), np.float32)
    others = [{"x": x.astype(np.float64)}, {"y": x}, {"x": np.zeros((1, 3), np.float32)}]
    assert all(batch.form_of(other)[1] != batch.form_of({"x": x})[1] for other in others)


def test_an_output_that_does_not_follow_the_rows_is_not_cut():
    assert batch.cut({"y": np.zeros((2, 1)), "z": np.zeros((3,))}, [1, 1]) is None
    assert batch.cut({"y": np.float32(1).reshape(())}, [1, 1]) is None


@pytest.mark.parametrize(
    ("shapes", "is_open"),
    [
        (((-1, 2), (-1,)), True),
        (((1, 2), (-1,)), False),
        (((-1, 2), (1, 2)), False),
        (((-1, 2), ()), False),
    ],
)
def test_a_first_axis_is_open_where_every_tensor_leaves_it_free(shapes, is_open):
    into, out = (TensorSpec(name="t", datatype="FP32", shape=shape) for shape in shapes)
    assert batch.is_open([into], [out]) is is_open
    assert not batch.is_open([], [out])
    assert not batch.is_open([into], [])
