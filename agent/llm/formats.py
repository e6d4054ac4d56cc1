"""GGUF's block formats as one form: w = scale · (q − zero) + offset, with q kept bit for bit.

Layouts: https://github.com/ggml-org/ggml, ggml-common.h (block_q*) and ggml-quants.c (dequantize_row_*).
Scales and offsets are products of the stored half floats and small integers, rounded once to float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from agent.records import record

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@record(frozen=True)
class Quantised:
    """Rows of weights: w = scale · (q − zero) + offset, one scale (and offset) per `block` columns.

    `q` is (rows, columns) below 2**bits, `bits` 4 or 8, `zero` 8 or 128; `scale` and `offset` are (rows, blocks).
    """

    q: Bytes
    scale: Floats
    offset: Floats | None
    block: int
    bits: int

    @property
    def zero(self) -> int:
        """The stored value that means 0."""
        return 1 << (self.bits - 1)

    def floats(self) -> Floats:
        """The weights as float32."""
        centred = self.q.astype(np.float32) - np.float32(self.zero)
        blocks = centred.reshape(*self.scale.shape, self.block) * self.scale[..., None]
        if self.offset is not None:
            blocks += self.offset[..., None]
        return np.asarray(blocks.reshape(self.q.shape), np.float32)


@record(frozen=True)
class BlockFormat:
    """A stored format; `group` columns share a scale and `bits` hold a weight; both 0 for plain floats."""

    block: int
    block_bytes: int
    group: int
    bits: int
    has_offset: bool
    unpack: Callable[[Bytes], Quantised] | None = None


def _half(raw: Bytes) -> Floats:
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def _nibbles(raw: Bytes) -> Bytes:
    """Blocks of bytes to twice the values: low halves of all bytes first, then high halves."""
    return np.concatenate([raw & 15, raw >> 4], axis=-1)


def _blocks(raw: Bytes, size: int) -> Bytes:
    return raw.reshape(raw.shape[0], -1, size)


def _bits_of_word(raw: Bytes) -> Bytes:
    """32 single bits of each 4-byte little-endian word."""
    return np.unpackbits(raw, axis=-1, bitorder="little")


def _made(q: Bytes, scale: Floats, offset: Floats | None, group: int, bits: int) -> Quantised:
    rows = q.shape[0]
    shaped = None if offset is None else np.ascontiguousarray(offset.reshape(rows, -1), np.float32)
    return Quantised(
        np.ascontiguousarray(q.reshape(rows, -1)),
        np.ascontiguousarray(scale.reshape(rows, -1), np.float32),
        shaped,
        group,
        bits,
    )


def _q4_0(raw: Bytes) -> Quantised:
    b = _blocks(raw, 18)
    return _made(_nibbles(b[..., 2:]), _half(b[..., :2]), None, 32, 4)


def _q4_1(raw: Bytes) -> Quantised:
    b = _blocks(raw, 20)
    scale, low = _half(b[..., :2]), _half(b[..., 2:4])
    return _made(_nibbles(b[..., 4:]), scale, low + 8 * scale, 32, 4)


def _q5_0(raw: Bytes) -> Quantised:
    b = _blocks(raw, 22)
    q = _nibbles(b[..., 6:]) | _bits_of_word(b[..., 2:6]) << 4
    return _made(q + np.uint8(128 - 16), _half(b[..., :2]), None, 32, 8)


def _q5_1(raw: Bytes) -> Quantised:
    b = _blocks(raw, 24)
    q = _nibbles(b[..., 8:]) | _bits_of_word(b[..., 4:8]) << 4
    scale, low = _half(b[..., :2]), _half(b[..., 2:4])
    return _made(q + np.uint8(128 - 16), scale, low + 16 * scale, 32, 8)


def _q8_0(raw: Bytes) -> Quantised:
    b = _blocks(raw, 34)
    return _made(b[..., 2:] ^ np.uint8(128), _half(b[..., :2]), None, 32, 8)


def _k_scales(raw: Bytes) -> tuple[Floats, Floats]:
    """Eight 6-bit scales and eight 6-bit minima from the 12 bytes of Q4_K and Q5_K."""
    d, m, high = raw[..., :4], raw[..., 4:8], raw[..., 8:]
    scale = np.concatenate([d & 63, (high & 15) | (d >> 6) << 4], axis=-1)
    low = np.concatenate([m & 63, (high >> 4) | (m >> 6) << 4], axis=-1)
    return scale.astype(np.float32), low.astype(np.float32)


def _halves_of_32(raw: Bytes) -> Bytes:
    """Runs of 32 bytes to 64 values each: the 32 low halves, then the 32 high halves."""
    runs = raw.reshape(*raw.shape[:-1], -1, 32)
    return _nibbles(runs).reshape(*raw.shape[:-1], -1)


def _q4_k(raw: Bytes) -> Quantised:
    b = _blocks(raw, 144)
    scales, lows = _k_scales(b[..., 4:16])
    scale, low = _half(b[..., :2]) * scales, _half(b[..., 2:4]) * lows
    return _made(_halves_of_32(b[..., 16:]), scale, 8 * scale - low, 32, 4)


def _q5_k(raw: Bytes) -> Quantised:
    b = _blocks(raw, 176)
    scales, lows = _k_scales(b[..., 4:16])
    scale, low = _half(b[..., :2]) * scales, _half(b[..., 2:4]) * lows
    fifth = (b[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None]) & 1
    q = _halves_of_32(b[..., 48:]) | fifth.reshape(*b.shape[:2], 256) << 4
    return _made(q + np.uint8(128 - 16), scale, 16 * scale - low, 32, 8)


def _pairs(raw: Bytes) -> Bytes:
    """Runs of 32 bytes to 128 values each: bits 0-1 of all, then 2-3, 4-5, 6-7."""
    runs = raw.reshape(*raw.shape[:-1], -1, 1, 32)
    spread = (runs >> np.array([0, 2, 4, 6], np.uint8)[:, None]) & 3
    return np.asarray(spread, np.uint8).reshape(*raw.shape[:-1], -1)


def _q2_k(raw: Bytes) -> Quantised:
    b = _blocks(raw, 84)
    scale = _half(b[..., 80:82]) * (b[..., :16] & 15).astype(np.float32)
    low = _half(b[..., 82:84]) * (b[..., :16] >> 4).astype(np.float32)
    return _made(_pairs(b[..., 16:80]) + np.uint8(8), scale, -low, 16, 4)


def _q3_k(raw: Bytes) -> Quantised:
    b = _blocks(raw, 110)
    third = (b[..., None, :32] >> np.arange(8, dtype=np.uint8)[:, None]) & 1
    q = _pairs(b[..., 32:96]) + (third.reshape(*b.shape[:2], 256) << 2)
    packed = b[..., 96:108]
    low = _nibbles(packed[..., :8])
    high = (packed[..., None, 8:] >> np.array([0, 2, 4, 6], np.uint8)[:, None]) & 3
    scales = (low | high.reshape(*b.shape[:2], 16) << 4).astype(np.float32) - 32
    return _made(q + np.uint8(8 - 4), _half(b[..., 108:]) * scales, None, 16, 4)


def _q6_k(raw: Bytes) -> Quantised:
    b = _blocks(raw, 210)
    low = b[..., :128].reshape(*b.shape[:2], 2, 2, 32)
    nibbles = np.concatenate([low & 15, low >> 4], axis=-2)
    high = b[..., 128:192].reshape(*b.shape[:2], 2, 1, 32)
    q = nibbles | ((high >> np.array([0, 2, 4, 6], np.uint8)[:, None]) & 3) << 4
    scales = np.ascontiguousarray(b[..., 192:208]).view(np.int8).astype(np.float32)
    return _made(q.reshape(*b.shape[:2], 256) + np.uint8(128 - 32), _half(b[..., 208:]) * scales, None, 16, 8)


BLOCK_FORMATS: dict[str, BlockFormat] = {
    "F32": BlockFormat(1, 4, 0, 0, has_offset=False),
    "F16": BlockFormat(1, 2, 0, 0, has_offset=False),
    "BF16": BlockFormat(1, 2, 0, 0, has_offset=False),
    "Q4_0": BlockFormat(32, 18, 32, 4, has_offset=False, unpack=_q4_0),
    "Q4_1": BlockFormat(32, 20, 32, 4, has_offset=True, unpack=_q4_1),
    "Q5_0": BlockFormat(32, 22, 32, 8, has_offset=False, unpack=_q5_0),
    "Q5_1": BlockFormat(32, 24, 32, 8, has_offset=True, unpack=_q5_1),
    "Q8_0": BlockFormat(32, 34, 32, 8, has_offset=False, unpack=_q8_0),
    "Q2_K": BlockFormat(256, 84, 16, 4, has_offset=True, unpack=_q2_k),
    "Q3_K": BlockFormat(256, 110, 16, 4, has_offset=False, unpack=_q3_k),
    "Q4_K": BlockFormat(256, 144, 32, 4, has_offset=True, unpack=_q4_k),
    "Q5_K": BlockFormat(256, 176, 32, 8, has_offset=True, unpack=_q5_k),
    "Q6_K": BlockFormat(256, 210, 16, 8, has_offset=False, unpack=_q6_k),
}
"""Formats that are taken over without loss."""

NAMES: dict[int, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip
"""The type codes of GGUF."""


def plain(kind: str, raw: Bytes) -> Floats:
    """Rows of F32, F16 or BF16 bytes as float32, exactly."""
    data = np.ascontiguousarray(raw)
    if kind == "F32":
        return data.view(np.float32)
    if kind == "F16":
        return data.view(np.float16).astype(np.float32)
    return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def floats(kind: str, raw: Bytes) -> Floats:
    """Rows of any supported format as float32."""
    unpack = BLOCK_FORMATS[kind].unpack
    return plain(kind, raw) if unpack is None else unpack(raw).floats()
