"""KV pool: keys and values of many sequences, each of its own length, in buffers that the runtime writes in place."""

from __future__ import annotations

import mmap

import numpy as np
import numpy.typing as npt

from agent.llm.folder import DecoderFolder

Floats = npt.NDArray[np.float32]
_ITEM_BYTES = 4


class KvPool:
    """`rows` sequences of up to `capacity` positions. Memory is taken when positions are first written."""

    def __init__(self, folder: DecoderFolder, rows: int, capacity: int) -> None:
        shape = (rows, folder.kv_heads, capacity, folder.head_size)
        count = 2 * folder.layers
        self.rows, self.capacity = rows, capacity
        self.position_bytes = folder.kv_bytes_per_token
        self.size_bytes = rows * capacity * self.position_bytes
        # Private and anonymous, so that `release` really hands the pages back.
        self._memory = mmap.mmap(-1, self.size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._all = np.frombuffer(self._memory, np.float32).reshape(count, *shape)

    def rows_of(self, first: int, count: int) -> list[Floats]:
        """Buffers of `count` neighbouring rows, one for each layer's keys and values."""
        return list(self._all[:, first : first + count])

    def copy(self, origin: int, target: int, length: int) -> None:
        """Make the first `length` positions of a row those of another one."""
        if origin != target:
            self._all[:, target, :, :length] = self._all[:, origin, :, :length]

    def read(self, row: int, start: int, end: int) -> Floats:
        """A copy of some positions, (layers and sides, kv_heads, positions, head_size)."""
        return np.array(self._all[:, row, :, start:end])

    def write(self, row: int, start: int, block: Floats) -> None:
        """Put positions back that `read` gave."""
        self._all[:, row, :, start : start + block.shape[2]] = block

    def release(self) -> None:
        """Give all memory back to the system; every row is empty then."""
        self._memory.madvise(mmap.MADV_DONTNEED)
