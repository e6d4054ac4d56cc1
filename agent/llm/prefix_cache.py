"""Prefix cache: keys and values of prompts' beginnings, in blocks, within a bound of bytes.

Blocks end at fixed positions and were computed in the same steps as they would be again, so that a hit gives the same
bits as computing the prompt anew.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from agent.llm.kv_pool import Cached

BLOCK = 128
"""Positions of a block, and tokens of one step of a prompt: how long a cancellation can wait."""


class PrefixCache:
    """The block least recently used goes first; of one prompt the last."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.size_bytes, self.hits, self.misses = max_bytes, 0, 0, 0
        self._blocks: OrderedDict[bytes, Cached] = OrderedDict()

    def find(self, ids: Sequence[int]) -> list[Cached]:
        """Blocks of the longest known beginning; at least one token of `ids` is left over."""
        found: list[bytes] = []
        for key in _keys(ids[:-1]):
            if key not in self._blocks:
                break
            found.append(key)
        for key in reversed(found):
            self._blocks.move_to_end(key)
        self.hits += bool(found)
        self.misses += not found
        return [self._blocks[key] for key in found]

    def wants(self, ids: Sequence[int], block_bytes: int) -> bool:
        """Whether `ids`, whole blocks, are worth reading for `add`."""
        return block_bytes <= self.max_bytes and _keys(ids)[-1] not in self._blocks

    def add(self, ids: Sequence[int], block: Cached) -> None:
        """Keep the last block of `ids`. Raises ValueError where it is not a whole one."""
        if block.shape[2] != BLOCK or not ids or len(ids) % BLOCK:
            raise ValueError(f"a block of {block.shape[2]} positions behind {len(ids)} tokens is not one of {BLOCK}")
        self._blocks[_keys(ids)[-1]] = block
        self.size_bytes += block.nbytes
        while self.size_bytes > self.max_bytes:
            _, gone = self._blocks.popitem(last=False)
            self.size_bytes -= gone.nbytes


def _keys(ids: Sequence[int]) -> list[bytes]:
    """One key for each whole block, of everything up to its end."""
    running = hashlib.blake2b(digest_size=16)
    keys = []
    for end in range(BLOCK, len(ids) + 1, BLOCK):
        running.update(np.asarray(ids[end - BLOCK : end], np.int64).tobytes())
        keys.append(running.digest())
    return keys
