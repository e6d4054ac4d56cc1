"""The two packets of a call, in binary because they are on the path of every request: run, and done.

Everything else between a lane and its process is JSON (messages.py). Tensors are described by 64-bit integers, for each
its rank, its sizes and its bytes; where they lie follows from that (`layouts.Layout`).
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from agent.errors import BackendError

RUN: Final = 1
DONE: Final = 2
_ENERGY: Final = 1
_HEAD: Final = struct.Struct("<B7xQq")
HEAD_BYTES: Final = _HEAD.size
"""Of a run: what differs between two calls of the same form in the same slot. The rest, its work, does not."""
_WORK: Final = struct.Struct("<HHIQ")
_tuple: Final = tuple.__new__
_DONE: Final = struct.Struct("<BBHIQddQ")


class Work(NamedTuple):
    """Run the model of load `load` on the tensors in `slot`, or in the attached segment of `segment_bytes`."""

    load: int
    slot: int
    segment_bytes: int
    outputs: bytes
    """Indices of the outputs wanted, one byte each."""
    tensors: bytes


class Done(NamedTuple):
    """The call is done; its outputs are in its slot, or in the attached segment of `segment_bytes`."""

    number: int
    execute_s: float
    energy_j: float | None
    segment_bytes: int
    tensors: bytes


def pack_work(load: int, slot: int, segment_bytes: int, outputs: bytes, tensors: bytes) -> bytes:
    """A `Work` to bytes."""
    return _WORK.pack(slot, len(outputs), load, segment_bytes) + outputs + tensors


def unpack_work(packed: bytes) -> Work:
    """From bytes (of the agent, which are trusted)."""
    slot, count, load, segment_bytes = _WORK.unpack_from(packed)
    end = _WORK.size + count
    return Work(load, slot, segment_bytes, packed[_WORK.size : end], packed[end:])


def pack_run(number: int, deadline_ns: int, work: bytes) -> bytes:
    """The packet that asks for packed work."""
    return _HEAD.pack(RUN, number, deadline_ns) + work


def unpack_run(packet: bytes) -> tuple[int, int]:
    """(number, deadline in ns) of a run packet."""
    _, number, deadline_ns = _HEAD.unpack_from(packet)
    return number, deadline_ns


def pack_done(number: int, execute_s: float, energy_j: float | None, segment_bytes: int, tensors: bytes) -> bytes:
    """A `Done` to bytes."""
    flags = 0 if energy_j is None else _ENERGY
    return _DONE.pack(DONE, flags, 0, 0, number, execute_s, energy_j or 0.0, segment_bytes) + tensors


def unpack_done(packet: bytes) -> Done:
    """From bytes. Raises BackendError."""
    try:
        _, flags, _, _, number, execute_s, energy_j, segment_bytes = _DONE.unpack_from(packet)
    except struct.error as error:
        raise BackendError("the lane's process sent a packet that is too short") from error
    # As a class makes a tuple of its own, without the call that names the fields: one of these comes with every answer.
    return _tuple(Done, (number, execute_s, energy_j if flags & _ENERGY else None, segment_bytes, packet[_DONE.size :]))
