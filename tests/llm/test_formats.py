from __future__ import annotations

import gguf
import numpy as np
import pytest

from agent.llm.formats import BLOCK_FORMATS, NAMES, floats

QUANTISED = [kind for kind, layout in BLOCK_FORMATS.items() if layout.unpack]


def any_bytes(kind, rows, columns, seed=0):
    """Random blocks whose half floats are finite, as every bit pattern of the rest is allowed."""
    layout = BLOCK_FORMATS[kind]
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (rows, columns // layout.block, layout.block_bytes), dtype=np.uint8)
    halves = {"Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}.get(kind, (0, 2) if layout.has_offset else (0,))
    for at in halves:
        value = (rng.standard_normal(raw.shape[:2]) * 0.01).astype(np.float16)
        raw[..., at : at + 2] = value[..., None].view(np.uint8)
    return raw.reshape(rows, -1)


@pytest.mark.parametrize("kind", QUANTISED)
def test_every_block_format_gives_the_weights_of_the_independent_reference(kind):
    raw = any_bytes(kind, 3, 512)
    expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
    np.testing.assert_allclose(floats(kind, raw), expected, rtol=0, atol=2e-7 * np.abs(expected).max())


@pytest.mark.parametrize("kind", QUANTISED)
def test_the_stored_integers_stay_below_their_bits_and_groups(kind):
    layout = BLOCK_FORMATS[kind]
    parts = layout.unpack(any_bytes(kind, 2, 256, seed=1))
    assert (parts.bits, parts.block) == (layout.bits, layout.group)
    assert (parts.offset is not None) == layout.has_offset
    assert parts.q.max() < 1 << parts.bits
    assert parts.scale.shape == (2, 256 // parts.block)


def test_plain_floats_keep_their_value():
    values = np.array([[1.5, -2.25, 3.0, 1e-3]], np.float32)
    assert np.array_equal(floats("F32", values.view(np.uint8)), values)
    half = values.astype(np.float16)
    assert np.array_equal(floats("F16", half.view(np.uint8)), half.astype(np.float32))
    brain = (values.view(np.uint32) >> 16).astype(np.uint16)
    assert np.array_equal(floats("BF16", brain.view(np.uint8)), (brain.astype(np.uint32) << 16).view(np.float32))


def test_the_type_codes_are_those_of_the_format():
    for code, name in NAMES.items():
        if name in gguf.GGMLQuantizationType.__members__:
            assert gguf.GGMLQuantizationType[name] == code
