"""KV pool: keys and values of many sequences, each of its own length, in buffers that the runtime writes in place."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from agent.llm.folder import DecoderFolder

Cached = npt.NDArray[Any]


class KvPool:
    """`rows` sequences of up to `capacity` positions. Memory is taken when positions are first written."""

    def __init__(self, folder: DecoderFolder, rows: int, capacity: int, kv_type: type[np.generic] = np.float32) -> None:
        shape = (rows, folder.kv_heads, capacity, folder.head_size)
        count = 2 * folder.layers
        self.rows, self.capacity = rows, capacity
        item_bytes = np.dtype(kv_type).itemsize
        self.position_bytes = count * folder.kv_heads * folder.head_size * item_bytes
        self.size_bytes = rows * capacity * self.position_bytes
        # Private and anonymous, so that `release` really hands the pages back.
        self._memory = mmap.mmap(-1, self.size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._all = np.frombuffer(self._memory, kv_type).reshape(count, *shape)

    def rows_of(self, first: int, count: int) -> list[Cached]:
        """Buffers of `count` neighbouring rows, one for each layer's keys and values."""
        return list(self._all[:, first : first + count])

    def copy(self, origin: int, target: int, length: int) -> None:
        """Make the first `length` positions of a row those of another one."""
        if origin != target:
            self._all[:, target, :, :length] = self._all[:, origin, :, :length]

    def read(self, row: int, start: int, end: int) -> Cached:
        """A copy of some positions, (layers and sides, kv_heads, positions, head_size)."""
        return np.array(self._all[:, row, :, start:end])

    def write(self, row: int, start: int, block: Cached) -> None:
        """Put positions back that `read` gave."""
        self._all[:, row, :, start : start + block.shape[2]] = block

    def release(self) -> None:
        """Give all memory back to the system; every row is empty then."""
        self._memory.madvise(mmap.MADV_DONTNEED)
