"""KV pool: keys and values of many sequences, each of its own length, in buffers that the runtime writes in place."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from agent.llm.folder import DecoderFolder

Cached = npt.NDArray[Any]
_MADV_REMOVE = getattr(mmap, "MADV_REMOVE", 9)
"""Frees the pages of shared memory for every process that maps it."""


class KvRows(list[Cached]):
    """Buffers of `rows` neighbouring rows from `first` on, one for each layer's keys and values."""

    def __init__(self, buffers: Iterable[Cached], first: int, rows: int) -> None:
        super().__init__(buffers)
        self.first, self.rows = first, rows


class KvPool:
    """`rows` sequences of up to `capacity` positions. Memory is taken when positions are first written."""

    def __init__(
        self, folder: DecoderFolder, rows: int, capacity: int, kv_type: type[np.generic] = np.float32, *,
        shared: bool | tuple[int, mmap.mmap] = False,
    ) -> None:  # fmt: skip
        """`shared`: other processes can map it through `fd`; a descriptor with its mapping joins a pool of another."""
        shape = (rows, folder.kv_heads, capacity, folder.head_size)
        count = 2 * folder.layers
        self.rows, self.capacity = rows, capacity
        item_bytes = np.dtype(kv_type).itemsize
        self.position_bytes = count * folder.kv_heads * folder.head_size * item_bytes
        self.size_bytes = rows * capacity * self.position_bytes
        self.fd = -1
        self._drop = mmap.MADV_DONTNEED
        if isinstance(shared, tuple):
            self.fd, self._memory = shared
        elif shared:
            self.fd = os.memfd_create("kv", os.MFD_CLOEXEC)
            os.ftruncate(self.fd, self.size_bytes)
            self._memory = mmap.mmap(self.fd, self.size_bytes, mmap.MAP_SHARED)
            self._drop = _MADV_REMOVE
        else:  # private and anonymous, so that `release` really hands the pages back
            self._memory = mmap.mmap(-1, self.size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._all = np.frombuffer(self._memory, kv_type).reshape(count, *shape)
        self._rows: dict[tuple[int, int], KvRows] = {}

    def rows_of(self, first: int, count: int) -> KvRows:
        """Buffers of `count` neighbouring rows, one for each layer's keys and values; the same ones every time."""
        found = self._rows.get((first, count))
        if found is None:
            found = self._rows[first, count] = KvRows(self._all[:, first : first + count], first, count)
        return found

    def copy(self, origin: int, target: int, length: int) -> None:
        """Make the first `length` positions of a row those of another one."""
        if origin != target:
            self._all[:, target, :, :length] = self._all[:, origin, :, :length]

    def read(self, row: int, start: int, end: int) -> Cached:
        """A copy of some positions, (layers and sides, kv_heads, positions, head_size)."""
        return np.array(self._all[:, row, :, start:end])

    def write(self, row: int, start: int, end: int, block: Cached) -> None:
        """Put positions back that `read` gave. Raises ValueError where the block holds others than so many."""
        target = self._all[:, row, :, start:end]
        if block.shape != target.shape or target.shape[2] != end - start:
            raise ValueError(f"a block of shape {block.shape} does not fill positions {start} to {end} of a row")
        target[...] = block

    def release(self) -> None:
        """Give all memory back to the system; every row is empty then."""
        self._memory.madvise(self._drop)
