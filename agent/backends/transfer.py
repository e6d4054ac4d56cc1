"""How the tensors of one call reach the process and come back: in a slot of the model's ring where they fit.

A slot is sized from the model's declared shapes. What does not fit (free dimensions, strings) crosses in a segment of
its own that lives for one call; where that happens again and again, a ring of larger slots takes over.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final, NamedTuple
from weakref import ref

from agent.backends import segments
from agent.backends.artifact import LoadOutcome
from agent.backends.calls import Call
from agent.backends.formats import Array, Signature, check_feeds, check_outputs
from agent.backends.layouts import REMEMBERED, Layout, TensorArea, copy_in
from agent.backends.messages import Channel
from agent.backends.packets import Done, pack_run, pack_work
from agent.backends.segments import Lease, Ring
from agent.errors import BackendError, InferenceFailed
from agent.ports import LaneReply, Tensors

SLOTS: Final = 8
MIN_AREA_BYTES: Final = 16 * 1024
"""Smallest input and output area of a slot, which leaves small models room for batches."""
MAX_RING_BYTES: Final = 256 * 1024 * 1024
MAX_GROWN_BYTES: Final = 64 * 1024 * 1024
"""Of a ring whose slots grew to what clients send."""
GROWS_AFTER: Final = 4
"""Calls that did not fit before it does: a segment of its own costs a call more than a copy, a rare one no memory."""
MAX_SEGMENT_BYTES: Final = 1024 * 1024 * 1024
"""Most bytes of one call's inputs, or outputs, outside the ring."""
MAX_OUTPUTS: Final = 255
COPY_BELOW_BYTES: Final = 64 * 1024
"""Answers smaller than this are copied: cheaper than holding a slot for as long as a client looks at them."""


class OutputChoice(NamedTuple):
    """Some outputs of a model: their indices as the process is told them, and where they come back."""

    indices: bytes
    area: TensorArea
    asked: dict[tuple[int, Layout], bytes]
    """The packed work of calls whose inputs lie so in that slot."""


class LoadedModel:
    """A model that the lane's process has loaded, with the ring its tensors cross in."""

    def __init__(self, model: str, number: int, outcome: LoadOutcome, ring: Ring) -> None:
        self.model = model
        self.number = number
        self._input_signatures, self._signatures = outcome.inputs, outcome.outputs
        self._take(ring)

    def _take(self, ring: Ring) -> None:
        self.ring = ring
        self._inputs = TensorArea(ring, self._input_signatures, output=False)
        self._choices: dict[tuple[str, ...] | None, OutputChoice] = {}

    @staticmethod
    def create(model: str, number: int, outcome: LoadOutcome, channel: Channel) -> LoadedModel:
        """Make the ring and send it. Raises OSError, BackendError."""
        if len(outcome.outputs) > MAX_OUTPUTS:
            raise BackendError(f"{model} has {len(outcome.outputs)} outputs; a lane carries {MAX_OUTPUTS}")
        ring = _made_ring(channel, number, *ring_size(outcome.inputs, outcome.outputs, outcome.output_bytes))
        return LoadedModel(model, number, outcome, ring)

    def reserve(self, shapes: dict[str, tuple[int, ...]]) -> Tensors | None:
        """Input arrays inside a free slot, or None: no slot to spare, too large, strings, or a shape is not given."""
        inputs = self._inputs
        layout = inputs.of_shapes(tuple([shapes.get(s.name, s.shape) for s in inputs.signatures]))
        if layout is None or layout.total > inputs.room_bytes or not self.ring.spare():
            return None
        lease = self.ring.acquire()
        if lease is None:
            return None
        arrays = inputs.views_of(lease.view(), segments.HEADER_BYTES, layout)
        lease.given = tuple([ref(array) for array in arrays])
        return dict(zip(inputs.names, arrays, strict=True))

    def send(self, channel: Channel, call: Call) -> bool:
        """Copy the inputs (unless they are in a slot already) and send the run packet; False without a free slot.

        Raises InferenceFailed for inputs the model does not take, Closed and BlockingIOError of the channel.
        """
        if self.ring.missed >= GROWS_AFTER:
            self._grow(channel)
        inputs = self._inputs
        choice = self._choices.get(call.outputs) or self._choice(call.outputs)
        recalled = inputs.recall(call.inputs)
        if recalled is not None:
            arrays, layout = recalled
            crossing = arrays
        else:
            check_feeds(call.model, call.inputs, inputs.signatures)
            arrays = [call.inputs[name] for name in inputs.names]
            crossing = inputs.packed(arrays)
            layout = inputs.describe(arrays, crossing)
        # An array of its own memory, which most are, lies in no slot.
        lease = self._written_in_place(arrays, layout) if arrays and arrays[0].base is not None else None
        fd, work = None, None
        if lease is None:
            lease = self.ring.acquire()
            if lease is None:
                return False
            if layout.total <= inputs.room_bytes:
                copy_in(inputs.views(lease.index, layout), crossing)
            else:
                fd = self._segment(crossing, layout)
                work = pack_work(self.number, lease.index, layout.total, choice.indices, layout.encoded)
                self.ring.miss(layout.total, 0)
        if work is None:
            work = choice.asked.get((lease.index, layout)) or self._asked(choice, lease.index, layout)
        try:
            channel.send_packet(pack_run(call.number, int(call.deadline_s * 1e9), work), fd)
        finally:
            if fd is not None:
                os.close(fd)
        call.lease, call.area = lease, choice.area
        return True

    def _asked(self, choice: OutputChoice, slot: int, layout: Layout) -> bytes:
        if len(choice.asked) >= REMEMBERED * self.ring.slots:
            choice.asked.clear()
        work = pack_work(self.number, slot, 0, choice.indices, layout.encoded)
        choice.asked[slot, layout] = work
        return work

    def _grow(self, channel: Channel) -> None:
        """Slots for what did not fit. Calls under way keep theirs in the old ring, which goes with the last of them."""
        ring = self.ring
        ring.missed = 0
        input_bytes = max(ring.input_bytes, segments.aligned(ring.missed_input_bytes))
        output_bytes = max(ring.output_bytes, segments.aligned(ring.missed_output_bytes))
        if ring.slots * segments.slot_bytes(input_bytes, output_bytes) <= MAX_GROWN_BYTES:
            with suppress(OSError):  # no memory, or no room for the message: later
                self._take(_made_ring(channel, self.number, input_bytes, output_bytes, ring.slots))

    def _choice(self, names: tuple[str, ...] | None) -> OutputChoice:
        all_names = [signature.name for signature in self._signatures]
        check_outputs(self.model, names or (), all_names)
        indices = [all_names.index(name) for name in (all_names if names is None else names)]
        area = TensorArea(self.ring, [self._signatures[index] for index in indices], output=True)
        if len(self._choices) >= REMEMBERED:
            self._choices.clear()
        self._choices[names] = OutputChoice(bytes(indices), area, {})
        return self._choices[names]

    def _written_in_place(self, arrays: list[Array], layout: Layout) -> Lease | None:
        """The lease that `reserve` gave these very arrays, or None."""
        lease = segments.lease_of(arrays[0])
        if lease is None or lease.ring is not self.ring:
            return None
        if len(lease.given) == len(arrays) and all(map(_is_given, lease.given, arrays)):
            return lease
        start = self.ring.address + self.ring.offset(lease.index, output=False)
        there = all(
            array.flags.c_contiguous and array.__array_interface__["data"][0] == start + at
            for array, at in zip(arrays, layout.offsets, strict=True)
        )
        return lease if there else None

    def _segment(self, crossing: list[Array], layout: Layout) -> int:
        if layout.total > MAX_SEGMENT_BYTES:
            limit = f"the {MAX_SEGMENT_BYTES} bytes that may cross"
            raise InferenceFailed(f"{self.model}: {layout.total} bytes of inputs exceed {limit}")
        try:
            fd, memory = segments.create("oversize", layout.total)
        except OSError as error:
            raise BackendError(f"no shared memory for {layout.total} bytes: {error.strerror}") from error
        copy_in(self._inputs.views_of(memory, 0, layout), crossing)
        return fd


def _is_given(given: ref[Array], array: Array) -> bool:
    return given() is array and array.flags.c_contiguous


def _made_ring(channel: Channel, number: int, input_bytes: int, output_bytes: int, slots: int) -> Ring:
    """A ring that the process knows of, too. Raises OSError, BackendError."""
    nbytes = slots * segments.slot_bytes(input_bytes, output_bytes)
    fd, memory = segments.create("tensors", nbytes)
    try:
        size = {"bytes": nbytes, "slots": slots, "in": input_bytes, "out": output_bytes}
        channel.send({"k": "ring", "load": number, **size}, fd)
    finally:
        os.close(fd)
    return Ring(memory, slots, input_bytes, output_bytes)


def ring_size(inputs: tuple[Signature, ...], outputs: tuple[Signature, ...], output_bytes: int) -> tuple[int, int, int]:
    """(input area, output area, slots) of a model's ring; an area too large for the bound shrinks to the minimum."""
    _, taken = segments.layout([s.nbytes() for s in inputs])
    _, declared = segments.layout([s.nbytes() for s in outputs])
    areas = [max(MIN_AREA_BYTES, taken), max(MIN_AREA_BYTES, declared, segments.aligned(output_bytes))]
    if 2 * segments.slot_bytes(*areas) > MAX_RING_BYTES:
        areas = [area if 4 * area <= MAX_RING_BYTES else MIN_AREA_BYTES for area in areas]
    slots = min(SLOTS, MAX_RING_BYTES // segments.slot_bytes(*areas))
    return areas[0], areas[1], max(2, slots)


def read_reply(call: Call, done: Done, fd: int | None) -> LaneReply:
    """The answer's arrays: copies of small ones, views of large ones. Raises BackendError."""
    lease, area = call.lease, call.area
    assert lease is not None  # noqa: S101  (the call was sent)
    assert area is not None  # noqa: S101
    layout = area.decode(done.tensors)
    if fd is not None:
        lease.ring.miss(0, layout.total)
        arrays = area.views_of(segments.attach(fd, done.segment_bytes), 0, layout)
    elif layout.total >= COPY_BELOW_BYTES and lease.ring.spare():
        arrays = area.views_of(lease.view(), segments.HEADER_BYTES + lease.ring.input_bytes, layout)
    else:
        arrays = [view.copy() for view in area.views(lease.index, layout)]
    if area.text:
        arrays = area.texts(arrays, layout)
    outputs = {area.names[0]: arrays[0]} if len(arrays) == 1 else dict(zip(area.names, arrays, strict=True))
    return LaneReply(outputs, done.execute_s, done.energy_j, "unknown" if done.energy_j is None else "modelled")
