"""Datatypes, strings and the checks of a request's tensors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.backends import formats
from agent.backends.formats import Signature
from agent.errors import InferenceFailed


@given(st.lists(st.text()))
def test_strings_survive_packing(words: list[str]) -> None:
    array = np.empty(len(words), object)
    array[:] = words

    packed = formats.pack_bytes("s", array)

    assert formats.unpack_bytes("s", packed, (len(words),)).tolist() == words


@given(st.binary(max_size=64), st.integers(0, 4))
def test_bytes_that_are_no_strings_are_refused_and_never_crash(data: bytes, count: int) -> None:
    try:
        words = formats.unpack_bytes("s", np.frombuffer(data, np.uint8), (count,))
    except InferenceFailed:
        return
    assert len(words) == count


def test_bytes_elements_pass_and_others_do_not() -> None:
    assert formats.unpack_bytes("s", formats.pack_bytes("s", np.array([b"ab"], object)), (1,)).tolist() == ["ab"]
    with pytest.raises(InferenceFailed, match="tensor 's': BYTES elements are str or bytes, not int"):
        formats.pack_bytes("s", np.array([7], object))
    with pytest.raises(InferenceFailed, match="element 0 is not UTF-8"):
        formats.unpack_bytes("s", formats.pack_bytes("s", np.array([b"\xff"], object)), (1,))
    with pytest.raises(InferenceFailed, match="do not hold 2 strings"):
        formats.unpack_bytes("s", formats.pack_bytes("s", np.array([b"a"], object)), (2,))


@pytest.mark.parametrize("name", sorted(set(formats.STORAGE) - {"BF16"}))
def test_every_datatype_has_its_own_array_type(name: str) -> None:
    assert formats.datatype_of("t", np.zeros(1, formats.STORAGE[name])) == name


def test_a_type_without_a_name_is_refused() -> None:
    with pytest.raises(InferenceFailed, match="tensor 't' has datatype complex64"):
        formats.datatype_of("t", np.zeros(1, np.complex64))


def test_free_dimensions_count_as_one() -> None:
    assert Signature("x", "FP32", (-1, 3)).nbytes() == 12
    assert Signature("x", "FP32", (-1, 3)).zeros().shape == (1, 3)
    assert Signature("x", "BYTES", (-1,)).nbytes() == 0
    assert Signature("x", "BYTES", (2,)).zeros().tolist() == ["", ""]


def test_shapes_are_spelled_for_people() -> None:
    assert formats.spell((-1, 3)) == "[*, 3]"
    assert not formats.fits((1,), (1, 2))
