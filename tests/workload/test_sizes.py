"""Free dimensions: what is given, what is assumed, and expressions."""

from __future__ import annotations

import pytest

from agent.errors import ModelLoadFailed
from agent.workload.sizes import Sizes


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("batch_size", 1), ("N", 1), ("sequence_length", 128), ("seq_len", 128), ("past_sequence_length", 0),
        ("height", 224), ("width", 224), ("total_sequence_length", 128),
        ("steps", 128), ("total", 128), ("anything", 1), ("unk__214", 1),
        ("past_sequence_length + 1", 1), ("2*sequence", 256), ("sequence/0", 0), ("f(sequence) + 1", 2),
    ],
)  # fmt: skip
def test_names_tell_what_a_dimension_is(name, expected):
    assert Sizes({}).resolve(name, 1, 2) == expected


def test_a_given_name_wins_over_its_kind():
    sizes = Sizes({"sequence": 7, "encoder_sequence_length": 9, "past": 5})

    assert sizes.resolve("encoder_sequence_length", 1, 2) == 9
    assert sizes.resolve("sequence_length", 1, 2) == 7
    assert sizes.resolve("total_sequence_length", 1, 2) == 12
    assert (sizes.resolve("total", 1, 2), sizes.resolve("steps", 1, 2)) == (12, 7)
    assert sizes.resolve("past_sequence_length + sequence_length", 1, 2) == 12
    assert sizes.notes() == ()


def test_unnamed_dimensions_follow_their_axis():
    sizes = Sizes({})

    assert [sizes.resolve("", axis, 4) for axis in range(4)] == [1, 224, 224, 224]
    assert sizes.resolve("", 1, 2) == 128
    assert "unnamed axis 1" in sizes.notes()[0]


def test_a_negative_size_is_refused():
    with pytest.raises(ModelLoadFailed, match="at least 0"):
        Sizes({"batch": -1})


def test_a_name_that_is_no_expression_is_a_name():
    assert Sizes({"a b c": 4}).resolve("a b c", 0, 1) == 4
    assert Sizes({}).resolve("x" * 300 + " + 1", 0, 1) == 1
    assert Sizes({}).resolve("a **", 0, 1) == 1
