"""How the tensors of one call reach the process and come back: in a slot of the model's ring where they fit.

A slot is sized from the model's declared shapes. What does not fit (free dimensions, strings) crosses in a segment of
its own that lives for one call.
"""

from __future__ import annotations

import os
from typing import Any, Final

from agent.backends import segments
from agent.backends.artifact import LoadOutcome
from agent.backends.calls import Call
from agent.backends.formats import STORAGE, Array, Signature, check_feeds, check_outputs, fits, pack_bytes, unpack_bytes
from agent.backends.messages import Channel, Header
from agent.backends.segments import Lease, Ring
from agent.errors import BackendError, InferenceFailed
from agent.ports import LaneReply, Tensors

SLOTS: Final = 8
MIN_AREA_BYTES: Final = 16 * 1024
"""Smallest input and output area of a slot, which leaves small models room for batches."""
MAX_RING_BYTES: Final = 256 * 1024 * 1024
MAX_SEGMENT_BYTES: Final = 1024 * 1024 * 1024
"""Most bytes of one call's inputs, or outputs, outside the ring."""
COPY_BELOW_BYTES: Final = 64 * 1024
"""Answers smaller than this are copied: cheaper than holding a slot for as long as a client looks at them."""


class LoadedModel:
    """A model that the lane's process has loaded, with the ring its tensors cross in."""

    def __init__(self, model: str, number: int, outcome: LoadOutcome, ring: Ring) -> None:
        self.model = model
        self.number = number
        self.inputs = outcome.inputs
        self.outputs = tuple(signature.name for signature in outcome.outputs)
        self.ring = ring

    @staticmethod
    def create(model: str, number: int, outcome: LoadOutcome, channel: Channel) -> LoadedModel:
        """Make the ring and send it. Raises OSError, BackendError."""
        input_bytes, output_bytes, slots = ring_size(outcome.inputs, outcome.outputs, outcome.output_bytes)
        nbytes = slots * segments.slot_bytes(input_bytes, output_bytes)
        fd, memory = segments.create("tensors", nbytes)
        try:
            size = {"bytes": nbytes, "slots": slots, "in": input_bytes, "out": output_bytes}
            channel.send({"k": "ring", "load": number, **size}, fd)
        finally:
            os.close(fd)
        return LoadedModel(model, number, outcome, Ring(memory, slots, input_bytes, output_bytes))

    def reserve(self, shapes: dict[str, tuple[int, ...]]) -> Tensors | None:
        """Input arrays inside a free slot, or None: no slot to spare, too large, strings, or a shape is not given."""
        wanted = [(s, shapes.get(s.name, s.shape)) for s in self.inputs]
        if any(s.datatype == "BYTES" or min(shape, default=0) < 0 or not fits(shape, s.shape) for s, shape in wanted):
            return None
        sizes = [Signature(s.name, s.datatype, shape).nbytes() for s, shape in wanted]
        offsets, total = segments.layout(sizes)
        lease = self.ring.acquire() if self.ring.spare() and total <= self.ring.input_bytes else None
        if lease is None:
            return None
        area = lease.view()[segments.HEADER_BYTES :]
        places = zip(wanted, offsets, strict=True)
        return {s.name: segments.tensor(area, at, STORAGE[s.datatype], shape) for (s, shape), at in places}

    def send(self, channel: Channel, call: Call) -> bool:
        """Copy the inputs (unless they are in a slot already) and send the run message; False without a free slot.

        Raises InferenceFailed for inputs the model does not take, Closed and BlockingIOError of the channel.
        """
        check_feeds(call.model, call.inputs, self.inputs)
        check_outputs(call.model, call.outputs or (), self.outputs)
        arrays = [self._crossing(s, call.inputs[s.name]) for s in self.inputs]
        lease = self._written_in_place(arrays)
        in_place = lease is not None
        lease = lease or self.ring.acquire()
        if lease is None:
            return False
        offsets, total = segments.layout([array.nbytes for array in arrays])
        header: Header = {
            "k": "run", "id": call.number, "load": self.number, "slot": lease.index,
            "deadline": int(call.deadline_s * 1e9), "out": call.outputs,
        }  # fmt: skip
        shapes = [call.inputs[s.name].shape for s in self.inputs]
        fd: int | None = None
        if in_place:
            offsets = [int(array.ctypes.data) - self.ring.address for array in arrays]
        elif total <= self.ring.input_bytes:
            base = self.ring.offset(lease.index, output=False)
            offsets = [base + at for at in offsets]
            _place_all(self.ring.memory, offsets, arrays)
        else:
            header["seg"] = total
            fd = _segment(call.model, arrays, offsets, total)
        header["in"] = [[shape, at, a.nbytes] for shape, at, a in zip(shapes, offsets, arrays, strict=True)]
        try:
            channel.send(header, fd)
        finally:
            if fd is not None:
                os.close(fd)
        call.lease, call.load = lease, self.number
        return True

    @staticmethod
    def _crossing(signature: Signature, array: Array) -> Array:
        return pack_bytes(signature.name, array) if signature.datatype == "BYTES" else array

    def _written_in_place(self, arrays: list[Array]) -> Lease | None:
        leases = {id(lease): lease for lease in map(segments.lease_of, arrays)}
        if len(leases) != 1:
            return None
        (lease,) = leases.values()
        inside = lease is not None and lease.ring is self.ring and all(a.flags.c_contiguous for a in arrays)
        return lease if inside else None


def ring_size(inputs: tuple[Signature, ...], outputs: tuple[Signature, ...], output_bytes: int) -> tuple[int, int, int]:
    """(input area, output area, slots) of a model's ring; an area too large for the bound shrinks to the minimum."""
    _, taken = segments.layout([s.nbytes() for s in inputs])
    _, declared = segments.layout([s.nbytes() for s in outputs])
    areas = [max(MIN_AREA_BYTES, taken), max(MIN_AREA_BYTES, declared, segments.aligned(output_bytes))]
    if 2 * segments.slot_bytes(*areas) > MAX_RING_BYTES:
        areas = [area if 4 * area <= MAX_RING_BYTES else MIN_AREA_BYTES for area in areas]
    slots = min(SLOTS, MAX_RING_BYTES // segments.slot_bytes(*areas))
    return areas[0], areas[1], max(2, slots)


def read_reply(call: Call, header: Header, fd: int | None) -> LaneReply:
    """The answer's arrays: copies of small ones, views of large ones. Raises BackendError."""
    lease = call.lease
    assert lease is not None  # noqa: S101  (the call was sent)
    keep = True
    if fd is not None:
        area = segments.attach(fd, header["seg"])
    else:
        listed = header["out"]
        keep = sum(size for *_, size in listed) >= COPY_BELOW_BYTES and lease.ring.spare()
        area = lease.view() if keep else lease.ring.memory
    outputs: dict[str, Array] = {}
    start = 0 if fd is not None or not keep else lease.start
    for name, datatype, shape, at, size in header["out"]:
        outputs[name] = _received(area, name, datatype, tuple(shape), (at - start, size), keep)
    return LaneReply(outputs, header["t"], header.get("e"), header.get("p", "unknown"))


def _received(
    area: Array, name: str, datatype: str, shape: tuple[int, ...], extent: tuple[int, int], keep: bool
) -> Array:
    at, size = extent
    if datatype == "BYTES":
        return unpack_bytes(name, area[at : at + size], shape)
    view = segments.tensor(area, at, STORAGE[datatype], shape)
    return view if keep else view.copy()


def _place_all(area: Array, offsets: list[int], arrays: list[Any]) -> None:
    for at, array in zip(offsets, arrays, strict=True):
        segments.place(area, at, array)


def _segment(model: str, arrays: list[Array], offsets: list[int], total: int) -> int:
    if total > MAX_SEGMENT_BYTES:
        raise InferenceFailed(f"{model}: {total} bytes of inputs exceed the {MAX_SEGMENT_BYTES} bytes that may cross")
    try:
        fd, memory = segments.create("oversize", total)
    except OSError as error:
        raise BackendError(f"no shared memory for {total} bytes: {error.strerror}") from error
    _place_all(memory, offsets, arrays)
    return fd
