"""FlatBuffers tables, read with every offset checked, so that a damaged file is an error and never a crash.

Format: https://flatbuffers.dev/internals – a root offset, tables with a vtable each, vectors with a length in front.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from agent.errors import ModelLoadFailed
from agent.records import record

MAX_VECTOR = 1 << 24
"""Longest vector of tables or numbers that is believed (buffers of bytes are only measured)."""
_FORMATS = {1: "<b", 2: "<h", 4: "<i", 8: "<q"}


def root(data: memoryview | bytes, identifier: bytes) -> Table:
    """The root table. Raises ModelLoadFailed where the file does not carry the identifier."""
    view = memoryview(data)
    if len(view) < 8 or bytes(view[4:8]) != identifier:
        raise ModelLoadFailed(f"not a {identifier.decode()} file: its identifier is missing")
    return Table(view, _number(view, 0, "<I"))


def _number(view: memoryview, position: int, form: str) -> int:
    if position < 0 or position + struct.calcsize(form) > len(view):
        raise ModelLoadFailed("damaged: an offset points outside the file")
    return int(struct.unpack_from(form, view, position)[0])


@record(frozen=True)
class Table:
    """One table. Fields are addressed by their number in the schema; absent fields have their default."""

    view: memoryview
    position: int

    def _field(self, number: int) -> int | None:
        vtable = self.position - _number(self.view, self.position, "<i")
        size = _number(self.view, vtable, "<H")
        at = 4 + 2 * number
        if at + 2 > size:
            return None
        offset = _number(self.view, vtable + at, "<H")
        return self.position + offset if offset else None

    def number(self, field: int, width: int, default: int = 0, unsigned: bool = False) -> int:
        """An integer of 1, 2, 4 or 8 bytes."""
        at = self._field(field)
        form = _FORMATS[width].upper() if unsigned else _FORMATS[width]
        return default if at is None else _number(self.view, at, form)

    def table(self, field: int) -> Table | None:
        """A table that the field refers to."""
        at = self._field(field)
        return None if at is None else Table(self.view, at + _number(self.view, at, "<I"))

    def _vector(self, field: int, width: int) -> tuple[int, int]:
        """(position of the first element, length)."""
        at = self._field(field)
        if at is None:
            return 0, 0
        start = at + _number(self.view, at, "<I")
        length = _number(self.view, start, "<I")
        if start + 4 + length * width > len(self.view):
            raise ModelLoadFailed("damaged: a list reaches past the end of the file")
        return start + 4, length

    def tables(self, field: int) -> Sequence[Table]:
        """A list of tables."""
        start, length = self._vector(field, 4)
        if length > MAX_VECTOR:
            raise ModelLoadFailed(f"damaged: a list claims {length} entries")
        places = range(start, start + 4 * length, 4)
        return [Table(self.view, at + _number(self.view, at, "<I")) for at in places]

    def integers(self, field: int) -> tuple[int, ...]:
        """A list of 32-bit integers."""
        start, length = self._vector(field, 4)
        if length > MAX_VECTOR:
            raise ModelLoadFailed(f"damaged: a list claims {length} entries")
        return struct.unpack_from(f"<{length}i", self.view, start)

    def byte_length(self, field: int) -> int:
        """Length of a list of bytes."""
        return self._vector(field, 1)[1]

    def raw(self, field: int, limit: int) -> bytes:
        """A list of bytes, at most `limit` of them."""
        start, length = self._vector(field, 1)
        return bytes(self.view[start : start + min(length, limit)])

    def text(self, field: int) -> str:
        """A string, replaced characters where it is not UTF-8."""
        return self.raw(field, 1024).decode(errors="replace")
