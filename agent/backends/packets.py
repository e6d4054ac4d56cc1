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
_RUN: Final = struct.Struct("<BBHIQqQ")
_DONE: Final = struct.Struct("<BBHIQddQ")


class Run(NamedTuple):
    """Run the model of load `load` on the tensors in `slot`, or in the attached segment of `segment_bytes`."""

    number: int
    load: int
    slot: int
    deadline_ns: int
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


def counted(outputs: bytes) -> bytes:
    """Indices of outputs as `pack_run` takes them, which are the same for many calls."""
    return bytes((len(outputs),)) + outputs


def pack_run(
    number: int, load: int, slot: int, deadline_ns: int, segment_bytes: int, outputs: bytes, tensors: bytes
) -> bytes:
    """A `Run` to bytes; `outputs` are `counted`."""
    return _RUN.pack(RUN, 0, slot, load, number, deadline_ns, segment_bytes) + outputs + tensors


def unpack_run(packet: bytes) -> Run:
    """From bytes (of the agent, which are trusted)."""
    _, _, slot, load, number, deadline_ns, segment_bytes = _RUN.unpack_from(packet)
    start = _RUN.size + 1
    end = start + packet[_RUN.size]
    return Run(number, load, slot, deadline_ns, segment_bytes, packet[start:end], packet[end:])


def pack_done(done: Done) -> bytes:
    """To bytes."""
    number, execute_s, energy_j, segment_bytes, tensors = done
    flags = 0 if energy_j is None else _ENERGY
    return _DONE.pack(DONE, flags, 0, 0, number, execute_s, energy_j or 0.0, segment_bytes) + tensors


def unpack_done(packet: bytes) -> Done:
    """From bytes. Raises BackendError."""
    try:
        _, flags, _, _, number, execute_s, energy_j, segment_bytes = _DONE.unpack_from(packet)
    except struct.error as error:
        raise BackendError("the lane's process sent a packet that is too short") from error
    return Done(number, execute_s, energy_j if flags & _ENERGY else None, segment_bytes, packet[_DONE.size :])
