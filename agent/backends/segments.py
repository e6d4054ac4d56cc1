"""Shared memory for tensors: anonymous memfd segments, and rings of equal slots inside them.

A slot belongs to its lease: whoever needs the bytes (the call in flight, the arrays handed to a client) refers to the
lease, and the slot returns to the ring when the last reference goes. Nobody frees a slot by hand, so a call that was
given up can never lose the slot that the other process still writes into.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any
from weakref import ref

import numpy as np

from agent.backends import sealed
from agent.backends.formats import Array
from agent.errors import BackendError

ALIGNMENT_BYTES = 64
HEADER_BYTES = ALIGNMENT_BYTES
"""Start of each slot; its first byte is the cancel mark."""
PAGE_BYTES = 4096


def aligned(nbytes: int, to: int = ALIGNMENT_BYTES) -> int:
    """The next multiple of `to`."""
    return -(-nbytes // to) * to


def create(name: str, nbytes: int) -> tuple[int, Array]:
    """A new segment: (file descriptor to send and close, its bytes). Sealed, so that no peer can shrink it."""
    fd, memory = sealed.create(name, nbytes)
    return fd, np.frombuffer(memory, np.uint8)


def attach(fd: int, nbytes: int) -> Array:
    """The bytes of a received segment; closes `fd`. Raises BackendError when it is smaller than said or unsealed."""
    return np.frombuffer(sealed.attach(fd, nbytes), np.uint8)


class Lease:
    """One slot of a ring while somebody refers to it. Arrays made by `view` keep it alive."""

    __slots__ = ("given", "index", "ring", "start")

    def __init__(self, ring: Ring, index: int) -> None:
        self.ring = ring
        self.index = index
        self.start = index * ring.slot_bytes
        self.given: tuple[ref[Array], ...] = ()
        """The arrays that a client was given to write its inputs into."""

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """How numpy sees the slot's bytes."""
        address = self.ring.address + self.start
        return {"shape": (self.ring.slot_bytes,), "typestr": "|u1", "data": (address, False), "version": 3}

    def view(self) -> Array:
        """The slot's bytes as an array that refers to this lease."""
        return np.asarray(self)

    def cancel(self) -> None:
        """Mark the call, so that the process skips it if it has not begun."""
        self.ring.memory[self.start] = 1

    def __del__(self) -> None:
        self.ring.free.append(self.index)


class Ring:
    """Equal slots of header, input area and output area, taken last-in-first-out so that few pages are touched."""

    def __init__(self, memory: Array, slots: int, input_bytes: int, output_bytes: int) -> None:
        self.memory = memory
        self.address = int(memory.ctypes.data)
        self.slots = slots
        self.input_bytes = input_bytes
        self.output_bytes = output_bytes
        self.slot_bytes = slot_bytes(input_bytes, output_bytes)
        self.free: deque[int] = deque(reversed(range(slots)))
        self.missed = 0
        """Calls whose tensors did not fit, and the most bytes that they had of each."""
        self.missed_input_bytes = self.missed_output_bytes = 0

    def acquire(self) -> Lease | None:
        """A slot, or None while all are taken."""
        try:
            index = self.free.pop()
        except IndexError:
            return None
        lease = Lease(self, index)
        self.memory[lease.start] = 0
        return lease

    def miss(self, input_bytes: int, output_bytes: int) -> None:
        """A call's inputs, or outputs, did not fit a slot."""
        self.missed += 1
        self.missed_input_bytes = max(self.missed_input_bytes, input_bytes)
        self.missed_output_bytes = max(self.missed_output_bytes, output_bytes)

    def spare(self) -> bool:
        """Whether more than half of the slots are free, so that a client may keep one for a while."""
        return len(self.free) * 2 > self.slots

    def mark(self, index: int) -> memoryview:
        """The byte of a slot that is 1 once its call was given up."""
        start = index * self.slot_bytes
        return self.memory.data[start : start + 1]

    def offset(self, index: int, output: bool) -> int:
        """Where a slot's input or output area begins."""
        return index * self.slot_bytes + HEADER_BYTES + (self.input_bytes if output else 0)


def slot_bytes(input_bytes: int, output_bytes: int) -> int:
    """Bytes of a slot, in whole pages."""
    return aligned(HEADER_BYTES + input_bytes + output_bytes, PAGE_BYTES)


def lease_of(array: Array) -> Lease | None:
    """The lease that an array's memory belongs to, if any."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, Lease) else None


def layout(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Aligned offsets of consecutive tensors, and the bytes they take together."""
    offsets: list[int] = []
    at = 0
    for size in sizes:
        offsets.append(at)
        at += aligned(size)
    return offsets, at


def tensor(area: Array, at: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """A view of a tensor inside an area. Raises BackendError when it would reach beyond."""
    try:
        view: Array = np.ndarray(shape, dtype, area, at)
    except (TypeError, ValueError) as error:
        raise BackendError(f"a tensor of shape {shape} does not lie inside its shared memory") from error
    return view
