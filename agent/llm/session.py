"""A decoder on ONNX Runtime with a key/value cache of its own, shared by all rows of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agent.errors import BadInput, InferenceFailed, ModelLoadFailed
from agent.llm.folder import DecoderFolder

Floats = npt.NDArray[np.float32]
PREFILL_STEP = 256
"""Prompt tokens of one call: how long a cancellation can wait."""


class Cache:
    """Keys and values of `rows` sequences of equal length, in buffers that the runtime writes in place."""

    def __init__(self, folder: DecoderFolder, rows: int, capacity: int) -> None:
        shape = (rows, folder.kv_heads, capacity, folder.head_size)
        self.buffers = [np.zeros(shape, np.float32) for _ in range(2 * folder.layers)]
        self.rows, self.capacity, self.length = rows, capacity, 0

    @property
    def size_bytes(self) -> int:
        """Bytes of all buffers."""
        return sum(buffer.nbytes for buffer in self.buffers)

    def forked(self, folder: DecoderFolder, rows: int) -> Cache:
        """The same prefix in `rows` rows."""
        copy = Cache(folder, rows, self.capacity)
        copy.length = self.length
        for mine, theirs in zip(self.buffers, copy.buffers, strict=True):
            theirs[:, :, : self.length] = mine[:1, :, : self.length]
        return copy

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these (ascending), by moving the kept ones to the front."""
        for index, buffer in enumerate(self.buffers):
            for target, origin in enumerate(rows):
                if target != origin:
                    buffer[target, :, : self.length] = buffer[origin, :, : self.length]
            self.buffers[index] = buffer[: len(rows)]
        self.rows = len(rows)


class DecoderSession:
    """A loaded decoder. Not thread-safe: one thread runs it."""

    def __init__(
        self, folder: DecoderFolder, *, threads: int, mode: str | None = None, graph: Path | None = None
    ) -> None:
        import onnxruntime as ort  # noqa: PLC0415 - the package must import without the runtime

        self.folder = folder
        self._errors = _runtime_errors()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        path = graph or folder.graph(mode)
        try:
            self._session: Any = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except self._errors as error:
            raise ModelLoadFailed(f"{path}: {_first_line(error)}") from error
        self.providers: list[str] = self._session.get_providers()
        self._names = [f"{i}.{side}" for i in range(folder.layers) for side in ("key", "value")]

    def cache(self, rows: int, capacity: int) -> Cache:
        """An empty cache. Raises BadInput where it would exceed the context."""
        if capacity > self.folder.context:
            raise BadInput(
                f"{capacity} tokens asked, the context is {self.folder.context}; shorten the prompt or answer"
            )
        return Cache(self.folder, rows, capacity)

    def step(self, cache: Cache, ids: npt.NDArray[np.int64]) -> Floats:
        """Append `ids` (rows, steps) to the cache; the logits that the graph gives, (rows, 1 or steps, vocabulary)."""
        rows, steps = ids.shape
        total = cache.length + steps
        if rows != cache.rows or total > cache.capacity:
            raise BadInput(f"{rows} rows and {total} tokens do not fit a cache of {cache.rows} x {cache.capacity}")
        logits = self.forward(cache.buffers, ids, [cache.length] * rows)
        cache.length = total
        return logits

    def forward(self, buffers: Sequence[Floats], ids: npt.NDArray[np.int64], lengths: Sequence[int]) -> Floats:
        """Run `ids` (rows, steps) behind the first `lengths[i]` positions of row i of the buffers.

        Their keys and values are written there; rows of unequal length take one step at a time. Returns the logits
        that the graph gives. Raises InferenceFailed.
        """
        steps = ids.shape[1]
        reach = np.asarray(lengths, np.int64)[:, None] + steps
        mask = (np.arange(int(reach.max()))[None, :] < reach).astype(np.int64)
        binding = self._session.io_binding()
        binding.bind_cpu_input("input_ids", np.ascontiguousarray(ids, np.int64))
        binding.bind_cpu_input("attention_mask", mask)
        binding.bind_output("logits")  # bound first, so it is the first of get_outputs
        for name, buffer in zip(self._names, buffers, strict=True):
            where = ("cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)
            binding.bind_input(f"past_key_values.{name}", *where)
            binding.bind_output(f"present.{name}", *where)
        try:
            self._session.run_with_iobinding(binding)
        except self._errors as error:
            raise InferenceFailed(f"decoder {self.folder.name}: {_first_line(error)}") from error
        return np.asarray(binding.get_outputs()[0].numpy(), np.float32)


def _runtime_errors() -> tuple[type[Exception], ...]:
    """What the runtime raises: classes of its own without a common base, and plain RuntimeError."""
    from onnxruntime.capi import onnxruntime_pybind11_state as native  # noqa: PLC0415 - as above

    own = [kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError, MemoryError)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
