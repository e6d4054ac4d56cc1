"""Where the tensors of a call lie, one after the other, in a slot or a segment. Both sides compute it alike.

Models are mostly asked with the same few shapes, so layouts and the views they give into a ring are remembered.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

from agent.backends import segments
from agent.backends.formats import STORAGE, Array, Signature, fits, pack_bytes, unpack_bytes
from agent.backends.segments import Ring
from agent.errors import BackendError

REMEMBERED: Final = 64
"""Layouts remembered per model and direction; all are forgotten when there are more."""

Shape = tuple[int, ...]


class Layout:
    """Shapes, bytes and offsets of consecutive tensors."""

    __slots__ = ("encoded", "offsets", "shapes", "sizes", "total")

    def __init__(self, shapes: Sequence[Shape], sizes: Sequence[int], encoded: bytes) -> None:
        self.shapes = tuple(shapes)
        self.sizes = tuple(sizes)
        self.offsets, self.total = segments.layout(sizes)
        self.encoded = encoded


class TensorArea:
    """Inputs, or outputs, of one model in its ring. Not thread-safe."""

    def __init__(self, ring: Ring, signatures: Sequence[Signature], output: bool) -> None:
        self.signatures = tuple(signatures)
        self.names = tuple(signature.name for signature in signatures)
        self.room_bytes = ring.output_bytes if output else ring.input_bytes
        self.ring = ring
        self._output = output
        self._dtypes = [STORAGE[s.datatype] for s in signatures]
        self._typed = tuple(zip(self.names, self._dtypes, strict=True))
        self.text = any(s.datatype == "BYTES" for s in signatures)
        self._by_shapes: dict[tuple[Shape, ...], Layout] = {}
        self._by_code: dict[bytes, Layout] = {}
        self._views: dict[tuple[int, Layout], list[Array]] = {}
        self._single = self._typed[0] if len(self._typed) == 1 and not self.text else None

    def recall(self, feeds: Mapping[str, Array]) -> tuple[list[Array], Layout] | None:
        """(arrays in order, layout) of inputs whose like was described before; None for any that need a check."""
        if len(feeds) != len(self.names) or self.text:
            return None
        if self._single is not None:
            name, wanted = self._single
            only = feeds.get(name)
            if only is None or (only.dtype is not wanted and only.dtype != wanted):
                return None
            layout = self._by_shapes.get((only.shape,))
            return None if layout is None else ([only], layout)
        given: list[Array] = []
        shapes: list[Shape] = []
        for name, dtype in self._typed:
            array = feeds.get(name)
            if array is None or (array.dtype is not dtype and array.dtype != dtype):
                return None
            given.append(array)
            shapes.append(array.shape)
        known = self._by_shapes.get(tuple(shapes))
        return None if known is None else (given, known)

    def of_shapes(self, shapes: tuple[Shape, ...]) -> Layout | None:
        """The layout of tensors without strings that have these shapes; None if the model does not take them."""
        known = self._by_shapes.get(shapes)
        if known is not None:
            return known
        pairs = list(zip(self.signatures, shapes, strict=True))
        if self.text or any(min(shape, default=0) < 0 or not fits(shape, s.shape) for s, shape in pairs):
            return None
        sizes = [Signature(s.name, s.datatype, shape).nbytes() for s, shape in pairs]
        return self._remember(shapes, sizes)

    def describe(self, arrays: Sequence[Array], crossing: Sequence[Array]) -> Layout:
        """The layout of arrays, of which `crossing` are the packed forms."""
        shapes = tuple([array.shape for array in arrays])
        known = self._by_shapes.get(shapes)
        if known is not None:
            return known
        return self._remember(shapes, [array.nbytes for array in crossing])

    def _remember(self, shapes: tuple[Shape, ...], sizes: list[int]) -> Layout:
        numbers: list[int] = []
        for shape, size in zip(shapes, sizes, strict=True):
            numbers += (len(shape), *shape, size)
        layout = Layout(shapes, sizes, struct.pack(f"<{len(numbers)}q", *numbers))
        if not self.text:  # the bytes of strings do not follow from their shapes
            self._make_room(self._by_shapes)
            self._by_shapes[shapes] = layout
        return layout

    def decode(self, code: bytes) -> Layout:
        """The layout that the other side described. Raises BackendError."""
        known = self._by_code.get(code)
        if known is not None:
            return known
        layout = self._decode(code)
        self._make_room(self._by_code)
        self._by_code[code] = layout
        return layout

    def views(self, slot: int, layout: Layout) -> list[Array]:
        """Arrays in a slot of the ring (bytes for strings). Raises BackendError when they would not lie in it."""
        known = self._views.get((slot, layout))
        if known is None:
            if layout.total > self.room_bytes:
                raise BackendError(f"{layout.total} bytes of tensors do not lie in a slot of {self.room_bytes} bytes")
            known = self.views_of(self.ring.memory, self.ring.offset(slot, self._output), layout)
            if len(self._views) >= REMEMBERED * self.ring.slots:
                self._views.clear()
            self._views[slot, layout] = known
        return known

    def views_of(self, area: Array, start: int, layout: Layout) -> list[Array]:
        """Arrays in any area that begin at `start` (bytes for strings). Raises BackendError."""
        views: list[Array] = []
        for index, dtype in enumerate(self._dtypes):
            at, size = start + layout.offsets[index], layout.sizes[index]
            if dtype.kind == "O":
                views.append(area[at : at + size])
            else:
                views.append(segments.tensor(area, at, dtype, layout.shapes[index]))
        return views

    def packed(self, arrays: list[Array]) -> list[Array]:
        """Pack the strings among the arrays. Raises InferenceFailed."""
        if not self.text:
            return arrays
        pairs = zip(self.signatures, arrays, strict=True)
        return [pack_bytes(s.name, array) if s.datatype == "BYTES" else array for s, array in pairs]

    def texts(self, views: list[Array], layout: Layout) -> list[Array]:
        """Unpack the strings among the views. Raises InferenceFailed."""
        if not self.text:
            return views
        pairs = zip(self.signatures, views, layout.shapes, strict=True)
        return [unpack_bytes(s.name, view, shape) if s.datatype == "BYTES" else view for s, view, shape in pairs]

    def _decode(self, code: bytes) -> Layout:
        shapes: list[Shape] = []
        sizes: list[int] = []
        try:
            numbers = struct.unpack(f"<{len(code) // 8}q", code)
            at = 0
            for _ in self.signatures:
                end = at + 1 + numbers[at]
                shapes.append(numbers[at + 1 : end])
                sizes.append(numbers[end])
                at = end + 1
        except (struct.error, IndexError) as error:
            raise BackendError("the description of a call's tensors is incomplete") from error
        if at != len(numbers) or min((*sizes, *(n for shape in shapes for n in shape)), default=0) < 0:
            raise BackendError("the description of a call's tensors makes no sense")
        return Layout(shapes, sizes, code)

    def _make_room(self, remembered: dict[tuple[Shape, ...], Layout] | dict[bytes, Layout]) -> None:
        if len(remembered) >= REMEMBERED:
            remembered.clear()
            self._views.clear()


def copy_in(views: Sequence[Array], arrays: Sequence[Array]) -> None:
    """Copy arrays to where their views are."""
    if len(views) == len(arrays) == 1:
        views[0][...] = arrays[0]
        return
    for view, array in zip(views, arrays, strict=True):
        view[...] = array
