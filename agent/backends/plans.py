"""What a lane's process knows of a run it was asked for before: where the tensors lie, and how to run between them.

Clients ask for the same few forms again and again, in the few slots of a ring. So everything but the run itself is done
for a form once per slot; from its second answer on, where the runtime can, the run is bound to the slot's memory: it
reads the inputs and writes the outputs there, and nothing is wrapped, allocated or copied for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Final, NamedTuple

from agent.backends import segments
from agent.backends.execution import LoadedSession
from agent.backends.formats import Array
from agent.backends.layouts import REMEMBERED, Layout, TensorArea, copy_in
from agent.backends.packets import Work
from agent.errors import BackendError, InferenceFailed, InputRefused, TooLarge
from agent.records import record

MAX_SEGMENT_BYTES: Final = 1024 * 1024 * 1024
BINDS_AFTER: Final = 2
"""Answers of a form in a slot: one of a form that never returns is not worth a binding."""


class Choice(NamedTuple):
    """Some outputs of a model, and where they go."""

    names: tuple[str, ...]
    area: TensorArea


@record
class Model:
    """A model and its ring."""

    loaded: LoadedSession
    inputs: TensorArea | None = None
    binds: bool = True
    """Its outputs have had the shapes that the same inputs gave before."""
    choices: dict[bytes, Choice] = field(default_factory=dict)

    def choice(self, inputs: TensorArea, indices: bytes) -> Choice:
        """The outputs wanted, by their indices."""
        known = self.choices.get(indices)
        if known is None:
            signatures = [self.loaded.session.outputs[index] for index in indices]
            area = TensorArea(inputs.ring, signatures, output=True)
            if len(self.choices) >= REMEMBERED:
                self.choices.clear()
            known = self.choices[indices] = Choice(area.names, area)
        return known


class Plan:
    """One form of run in one slot."""

    __slots__ = ("_answers", "_outputs", "_slot", "again", "encoded", "feeds", "lasting", "mark", "model", "names")

    def __init__(self, model: Model, inputs: TensorArea, work: Work, segment: Array | None) -> None:
        """Raises BackendError, and InputRefused for strings that are none."""
        layout = inputs.decode(work.tensors)
        views = inputs.views(work.slot, layout) if segment is None else inputs.views_of(segment, 0, layout)
        choice = model.choice(inputs, work.outputs)
        self.model = model
        self.feeds = dict(zip(inputs.names, _texts(inputs, views, layout), strict=True))
        self.names = choice.names
        self.lasting = segment is None and not inputs.text
        """Whether the same bytes mean the same arrays again."""
        self.again: Callable[[], None] | None = None
        """The bound run, and the description of what it writes."""
        self.encoded = b""
        self._outputs = choice.area
        self.mark = inputs.ring.mark(work.slot)
        """Its first byte is 1 once the call in the slot was given up."""
        self._slot = work.slot
        self._answers = 0

    def place(self, arrays: list[Array]) -> tuple[bytes, int, int | None]:
        """Copy outputs into the slot, or where they do not fit into a segment.

        Returns their description, bytes and descriptor of the segment. Raises InferenceFailed, TooLarge, BackendError.
        """
        area = self._outputs
        crossing = area.packed(arrays)
        layout = area.describe(arrays, crossing)
        if layout.total <= area.room_bytes:
            copy_in(area.views(self._slot, layout), crossing)
            return layout.encoded, 0, None
        if layout.total > MAX_SEGMENT_BYTES:
            name, limit = self.model.loaded.order.model, f"the {MAX_SEGMENT_BYTES} that may cross"
            raise TooLarge(f"{name}: {layout.total} bytes of outputs exceed {limit}")
        return layout.encoded, layout.total, _segment(area, layout, crossing)

    def answered(self, encoded: bytes) -> None:
        """It ran, and its outputs, so described, are in the slot: the next one like it may be bound."""
        self._answers += 1
        if self._answers != BINDS_AFTER or not self.model.binds or not self.lasting or self._outputs.text:
            return
        area = self._outputs
        views = area.views(self._slot, area.decode(encoded))
        self.encoded = encoded
        self.again = self.model.loaded.session.bind(self.feeds, dict(zip(area.names, views, strict=True)))

    def unbind(self) -> None:
        """Its outputs had other shapes than before: those of this model follow from more than its inputs' shapes."""
        self.again = None
        self.model.binds = False


def _texts(inputs: TensorArea, views: list[Array], layout: Layout) -> list[Array]:
    try:
        return inputs.texts(views, layout)
    except InferenceFailed as error:  # what a client sent speaks against no lane
        raise InputRefused(error.message) from error


def _segment(area: TensorArea, layout: Layout, crossing: list[Array]) -> int:
    try:
        fd, memory = segments.create("oversize", layout.total)
    except OSError as error:
        raise BackendError(f"no shared memory for {layout.total} bytes of outputs: {error.strerror}") from error
    copy_in(area.views_of(memory, 0, layout), crossing)
    return fd
