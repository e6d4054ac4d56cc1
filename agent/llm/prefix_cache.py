"""Prefix cache: keys and values of prompts' beginnings, in blocks, within a bound of bytes.

Blocks end at fixed positions and were computed in the same steps as they would be again, so that a hit gives the same
bits as computing the prompt anew. A whole prompt is kept besides where more samples of it are to come: under a name, so
that what a question is charged does not depend on who asked the same before.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from agent.llm.kv_pool import Cached
from agent.records import record

Logits = npt.NDArray[np.float32]
BLOCK = 128
"""Positions of a block, and tokens of one step of a prompt: how long a cancellation can wait."""


@record(frozen=True)
class _Entry:
    """Positions of a block, or of a whole prompt with the logits behind it."""

    positions: Cached
    logits: Logits | None = None

    @property
    def bytes_(self) -> int:
        return self.positions.nbytes + (0 if self.logits is None else self.logits.nbytes)


class PrefixCache:
    """The block least recently used goes first; of one prompt the last."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.size_bytes, self.hits, self.misses = max_bytes, 0, 0, 0
        self._blocks: OrderedDict[bytes, _Entry] = OrderedDict()

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
        return [self._blocks[key].positions for key in found]

    def wants(self, ids: Sequence[int], block_bytes: int) -> bool:
        """Whether `ids`, whole blocks, are worth reading for `add`."""
        return block_bytes <= self.max_bytes and _keys(ids)[-1] not in self._blocks

    def add(self, ids: Sequence[int], block: Cached) -> None:
        """Keep the last block of `ids`. Raises ValueError where it is not a whole one."""
        if block.shape[2] != BLOCK or not ids or len(ids) % BLOCK:
            raise ValueError(f"a block of {block.shape[2]} positions behind {len(ids)} tokens is not one of {BLOCK}")
        self._put(_keys(ids)[-1], _Entry(block))

    def kept(self, name: str, ids: Sequence[int]) -> tuple[Cached, Logits] | None:
        """All positions of a prompt and the logits behind it, where `keep` was told of both."""
        key = _whole(name, ids)
        found = self._blocks.get(key)
        if found is None or found.logits is None:
            return None
        self._blocks.move_to_end(key)
        return found.positions, found.logits

    def keep(self, name: str, ids: Sequence[int], positions: Cached, logits: Logits) -> None:
        """Keep a whole prompt under a name. Raises ValueError where the positions are not those of `ids`."""
        if positions.shape[2] != len(ids):
            raise ValueError(f"{positions.shape[2]} positions are not those of {len(ids)} tokens")
        self._put(_whole(name, ids), _Entry(positions, logits))

    def _put(self, key: bytes, entry: _Entry) -> None:
        before = self._blocks.pop(key, None)
        self.size_bytes += entry.bytes_ - (0 if before is None else before.bytes_)
        self._blocks[key] = entry
        while self.size_bytes > self.max_bytes:
            _, gone = self._blocks.popitem(last=False)
            self.size_bytes -= gone.bytes_


def _whole(name: str, ids: Sequence[int]) -> bytes:
    """Key of a whole prompt; longer than those of blocks, so that it is none of them."""
    return hashlib.blake2b(
        name.encode(errors="surrogatepass") + b"\0" + np.asarray(ids, np.int64).tobytes(), digest_size=24
    ).digest()


def _keys(ids: Sequence[int]) -> list[bytes]:
    """One key for each whole block, of everything up to its end."""
    running = hashlib.blake2b(digest_size=16)
    keys = []
    for end in range(BLOCK, len(ids) + 1, BLOCK):
        running.update(np.asarray(ids[end - BLOCK : end], np.int64).tobytes())
        keys.append(running.digest())
    return keys
