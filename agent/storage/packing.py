"""Packing: how rows of telemetry are stored – each compressed against an earlier one, as each resembles the last.

The earlier one is a base, stored once for some hundred rows; a row that does not get smaller stays as it is. Flash
wears by what is written, and a window's row shrinks to a sixth. Pure; zlib's checksum tells a row that the medium
changed.
"""

from __future__ import annotations

import json
import zlib
from typing import Any, Literal

from agent.records import record

MAX_ROWS = 256
"""Packed against one base: the board changes, and a base that resembles it no more packs badly."""
MIN_ROWS = 32
"""Before a base that packs badly is replaced: rows that resemble nothing must not each become one."""
POOR_SHARE = 0.5
_LEVEL, _WINDOW_BITS, _MEMORY = 6, 14, 6
"""A window of 16 KiB: with zlib's usual 32 KiB, making the compressor takes longer than compressing."""


class DamagedRow(ValueError):
    """What is stored is not what was written."""


class Packer:
    """Packs rows against one base."""

    def __init__(self, base: str) -> None:
        self.rows = 0
        self._poor = False
        self._base = base.encode()
        self._made = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS, _MEMORY, zdict=self._base)

    @property
    def stored(self) -> bytes:
        """The base as it is stored."""
        return zlib.compress(self._base)

    @property
    def worn(self) -> bool:
        """Whether the next row should be a new base."""
        return self.rows >= (MIN_ROWS if self._poor else MAX_ROWS)

    def pack(self, text: str) -> bytes | None:
        """The row as it is stored; None where it would not get smaller."""
        row = text.encode()
        packer = self._made.copy()
        packed = packer.compress(row) + packer.flush()
        self.rows += 1
        self._poor = len(packed) > POOR_SHARE * len(row)
        return packed if len(packed) < len(row) else None


RowClass = Literal["tlm", "evt", "gap"]


@record(frozen=True)
class Stored:
    """A row as the file has it. `base`: as stored, None where the payload is its text."""

    cls: RowClass
    boot: int
    seq: int
    payload: bytes | str
    base: bytes | None

    def document(self) -> dict[str, Any]:
        """The row. DamagedRow where it cannot be had."""
        try:
            text = self.payload if self.base is None else _unpacked(self.payload, self.base)
            found = json.loads(text)
        except (zlib.error, ValueError, TypeError, RecursionError) as error:
            raise DamagedRow(f"row {self.seq} of {self.cls}, boot {self.boot}: {error}") from error
        if not isinstance(found, dict):
            raise DamagedRow(f"row {self.seq} of {self.cls}, boot {self.boot}: no JSON object")
        return found


def _unpacked(payload: bytes | str, base: bytes) -> bytes:
    if isinstance(payload, str):
        raise DamagedRow("text where packed bytes are expected")
    return zlib.decompressobj(_WINDOW_BITS, zdict=zlib.decompress(base)).decompress(payload)
