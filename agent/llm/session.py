"""A decoder on ONNX Runtime with a key/value cache of its own, shared by all rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agent.errors import BadInput, InferenceFailed, ModelLoadFailed
from agent.llm.folder import DecoderFolder
from agent.llm.graph_part import Cut, GraphPart, cut
from agent.llm.kv_pool import KvPool, KvRows
from agent.llm.peer import Peer, PeerLost

Floats = npt.NDArray[np.float32]
_KV_TYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8,
}  # fmt: skip
_TAKEN = ("input_ids", "attention_mask", "position_ids", "use_cache_branch")
EXACT = "exact"
"""The mode whose products round nothing but floats."""
PREFILL_STEP = 256
"""Prompt tokens of one call: how long a cancellation can wait."""


class Cache:
    """Keys and values of `rows` sequences of equal length, in buffers that the runtime writes in place."""

    def __init__(self, folder: DecoderFolder, rows: int, capacity: int, kv_type: type[np.generic] = np.float32) -> None:
        shape = (rows, folder.kv_heads, capacity, folder.head_size)
        self._kv_type = kv_type
        self.buffers = KvRows((np.zeros(shape, kv_type) for _ in range(2 * folder.layers)), 0, rows)
        self.rows, self.capacity, self.length = rows, capacity, 0

    @property
    def size_bytes(self) -> int:
        """Bytes of all buffers."""
        return sum(buffer.nbytes for buffer in self.buffers)

    def forked(self, folder: DecoderFolder, rows: int) -> Cache:
        """The same prefix in `rows` rows."""
        copy = Cache(folder, rows, self.capacity, self._kv_type)
        copy.length = self.length
        for mine, theirs in zip(self.buffers, copy.buffers, strict=True):
            theirs[:, :, : self.length] = mine[:1, :, : self.length]
        return copy

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these (ascending), by moving the kept ones to the front."""
        for buffer in self.buffers:
            for target, origin in enumerate(rows):
                if target != origin:
                    buffer[target, :, : self.length] = buffer[origin, :, : self.length]
        self.buffers = KvRows((buffer[: len(rows)] for buffer in self.buffers), 0, len(rows))
        self.rows = len(rows)


class DecoderSession:
    """A loaded decoder. Not thread-safe: one thread runs it.

    Its first layers may be computed by a peer (`layers_elsewhere`, needed at every step), or prompts may (`prompts`).
    """

    def __init__(
        self, folder: DecoderFolder, *, threads: int, mode: str | None = None, graph: Path | None = None,
        layers_elsewhere: int = 0,
    ) -> None:  # fmt: skip
        self.folder = folder
        self._errors = runtime_errors()
        path: Path | Cut = graph or folder.graph(mode)
        if layers_elsewhere:
            path = cut(folder, mode, layers_elsewhere, "last")
            self._crossing = path.crossing
        self.layers_elsewhere = layers_elsewhere
        self._part = GraphPart(path, folder, threads, self._errors)
        self._session = self._part.session
        self.providers: list[str] = self._session.get_providers()
        types = self._part.types
        self._inputs = frozenset(types)
        self._names = self._part.names
        self.kv_type = cache_type(types, self._names, f"{graph or folder.graph(mode)}", self.crossing)
        # For one row the runtime multiplies with packed weights as they are, for more it unpacks them all: a step of
        # two rows takes 1.3 to 1.7 times the CPU time of two steps of one, of three as much as three, of four less.
        self._pairs_apart = folder.packed and (mode or folder.default_mode) == EXACT and not layers_elsewhere
        self.earlier: Peer | None = None
        self.prompts: Peer | None = None
        self.elsewhere_s = 0.0
        self._ids: dict[int, npt.NDArray[np.int64]] = {}
        self._ones = np.ones(0, np.int64)
        self._asked: tuple[KvRows, npt.NDArray[np.int64], Sequence[int]] | None = None

    @property
    def crossing(self) -> tuple[str, ...]:
        """Tensors that a peer sends at every step."""
        return self._crossing if self.layers_elsewhere else ()

    @property
    def complete(self) -> bool:
        """Whether every layer has somebody who computes it."""
        return not self.layers_elsewhere or self.earlier is not None

    def cache(self, rows: int, capacity: int) -> Cache:
        """An empty cache. Raises BadInput where it would exceed the context."""
        if capacity > self.folder.context:
            raise BadInput(
                f"{capacity} tokens asked, the context is {self.folder.context}; shorten the prompt or answer"
            )
        return Cache(self.folder, rows, capacity, self.kv_type)

    def step(self, cache: Cache, ids: npt.NDArray[np.int64]) -> Floats:
        """Append `ids` (rows, steps) to the cache; the logits that the graph gives, (rows, 1 or steps, vocabulary)."""
        rows, steps = ids.shape
        total = cache.length + steps
        if rows != cache.rows or total > cache.capacity:
            raise BadInput(f"{rows} rows and {total} tokens do not fit a cache of {cache.rows} x {cache.capacity}")
        logits = self.forward(cache.buffers, ids, [cache.length] * rows)
        cache.length = total
        return logits

    def forward(self, buffers: KvRows, ids: npt.NDArray[np.int64], lengths: Sequence[int]) -> Floats:
        """Run `ids` (rows, steps) behind the first `lengths[i]` positions of row i of the buffers.

        Their keys and values are written there; rows of unequal length take one step at a time. Returns the logits
        that the graph gives. Raises InferenceFailed.
        """
        run = self._shared if self.folder.shared_cache else self._grown
        try:
            return run(buffers, np.ascontiguousarray(ids, np.int64), np.asarray(lengths, np.int64))
        except self._errors as error:
            raise InferenceFailed(f"decoder {self.folder.name}: {_first_line(error)}") from error

    def decode(self, pool: KvPool, ids: npt.NDArray[np.int64], lengths: Sequence[int]) -> Floats:
        """Step the first rows of a pool with `ids` (rows, 1): logits, (rows, vocabulary). Raises InferenceFailed."""
        if len(lengths) == 2 and self._pairs_apart:
            each = [self.forward(pool.rows_of(at, 1), ids[at : at + 1], lengths[at : at + 1]) for at in range(2)]
            return np.concatenate(each)[:, -1]
        return self.forward(pool.rows_of(0, len(lengths)), ids, lengths)[:, -1]

    def prompt(self, buffers: KvRows, ids: npt.NDArray[np.int64], lengths: Sequence[int]) -> Floats | None:
        """As `forward`, or None where a peer computes it: `prompted` gives it then."""
        if self.prompts is None:
            return self.forward(buffers, ids, lengths)
        self._asked = (buffers, ids, lengths)
        try:
            self.prompts.ask(self._named(ids, np.asarray(lengths, np.int64)), buffers)
        except PeerLost:
            return self._alone()
        return None

    def prompted(self, *, wait: bool) -> Floats | None:
        """What a peer was asked; None where it is not there yet. Computed here where the peer was lost."""
        if self.prompts is None:
            return self._alone()
        try:
            answer = self.prompts.answer(wait=wait)
        except PeerLost:
            return self._alone()
        if answer is None:
            return None
        self.elsewhere_s += answer[1]
        return np.asarray(answer[0][0], np.float32)

    def took_elsewhere_s(self) -> float:
        """Core seconds over threads that peers took since this was asked last."""
        took_s, self.elsewhere_s = self.elsewhere_s, 0.0
        return took_s

    def _alone(self) -> Floats:
        """The block of a prompt whose peer was lost: its positions are written once more, with the same bits."""
        self.prompts = None
        assert self._asked is not None  # noqa: S101  (a peer was asked)
        return self.forward(*self._asked)

    def _named(self, ids: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        """Every input but the cache, for a graph that writes into it; each row's own mask tells where.

        A step's ids lie in the same array every time and equal rows share a mask of ones: both cost next to nothing.
        """
        rows, steps = ids.shape
        width = int(lengths.max()) + steps
        if steps == 1:
            kept = self._ids.setdefault(rows, np.empty((rows, 1), np.int64))
            kept[...] = ids
            ids = kept
        if rows == 1 or lengths.min() == lengths.max():
            if len(self._ones) < rows * width:
                self._ones = np.ones(2 * rows * width, np.int64)
            mask = self._ones[: rows * width].reshape(rows, width)
        else:
            mask = (np.arange(width)[None, :] < lengths[:, None] + steps).astype(np.int64)
        return self._given(np.ascontiguousarray(ids, np.int64), mask, lengths)

    def _shared(self, buffers: KvRows, ids: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Floats:
        """The graph writes into the buffers."""
        given = self._named(ids, lengths)
        if self.layers_elsewhere:
            if self.earlier is None:
                raise PeerLost(f"nobody computes the first {self.layers_elsewhere} layers of {self.folder.name}")
            self.earlier.ask(given, buffers)
            answer = self.earlier.answer(wait=True)
            assert answer is not None  # noqa: S101  (it was waited for)
            self.elsewhere_s += answer[1]
            given |= zip(self._crossing, answer[0], strict=True)
        return np.asarray(self._part.run(given, buffers)[0], np.float32)

    def _grown(self, buffers: KvRows, ids: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> Floats:
        """The graph gives longer tensors back. Shorter rows have a gap behind them, which the mask hides."""
        steps, longest = ids.shape[1], int(lengths.max())
        held = np.arange(longest)[None, :] < lengths[:, None]
        mask = np.concatenate([held, np.ones(ids.shape, bool)], axis=1).astype(np.int64)
        feeds: dict[str, Any] = dict(self._given(ids, mask, lengths))
        for name, buffer in zip(self._names, buffers, strict=True):
            feeds[f"past_key_values.{name}"] = np.ascontiguousarray(buffer[:, :, :longest])
        logits, *present = self._session.run(["logits", *(f"present.{name}" for name in self._names)], feeds)
        for grown, buffer in zip(present, buffers, strict=True):
            for row, length in enumerate(lengths):
                buffer[row, :, length : length + steps] = grown[row, :, longest:]
        return np.asarray(logits, np.float32)

    def _given(
        self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
    ) -> dict[str, npt.NDArray[Any]]:
        """Everything but the cache, as far as this graph takes it."""
        given: dict[str, npt.NDArray[Any]] = {"input_ids": ids, "attention_mask": mask}
        if self.layers_elsewhere or "position_ids" in self._inputs:
            given["position_ids"] = lengths[:, None] + np.arange(ids.shape[1])
        if self.layers_elsewhere or "use_cache_branch" in self._inputs:
            given["use_cache_branch"] = np.array([bool(lengths.max())])
        return given if self.layers_elsewhere else {name: given[name] for name in given if name in self._inputs}


def cache_type(
    types: Mapping[str, str], names: Sequence[str], where: str, crossing: Sequence[str] = ()
) -> type[np.generic]:
    """Type of keys and values. Raises ModelLoadFailed for inputs that are not a decoder's."""
    unknown = {*types} - {*_TAKEN, *crossing, *(f"past_key_values.{name}" for name in names)}
    kind = types.get(f"past_key_values.{names[0]}", "nothing")
    if kind not in _KV_TYPES or unknown:
        what = f"the input {min(unknown)!r}" if unknown else f"a cache of {kind}"
        raise ModelLoadFailed(
            f"{where}: {what} is not known here; expected a decoder with a cache of floats or 8-bit integers"
        )
    return _KV_TYPES[kind]


def runtime_errors() -> tuple[type[Exception], ...]:
    """What the runtime raises: classes of its own without a common base, and plain RuntimeError."""
    from onnxruntime.capi import onnxruntime_pybind11_state as native  # noqa: PLC0415 - as above

    own = [kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError, MemoryError)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
