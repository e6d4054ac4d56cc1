"""Heads: JSON parts of infer requests that were seen before.

A client asks with the same JSON part again and again; only the bytes behind it differ. What such a part says is
remembered, so that a request like an earlier one is decoded without reading its JSON.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from agent.api import messages
from agent.api.messages import DecodedRequest
from agent.ports import InferenceRequest
from agent.records import record

MAX_HEADS: Final = 128
"""Parts remembered; all are forgotten when there are more."""
MAX_HEAD_BYTES: Final = 4096


@record(frozen=True)
class _Head:
    decoded: DecodedRequest
    tensors: tuple[tuple[str, np.dtype[Any], tuple[int, ...], int, int], ...]
    """(name, type, shape, where it begins, elements) of each input."""
    size_bytes: int


class Heads:
    """See module. Not thread-safe."""

    def __init__(self) -> None:
        self._known: dict[bytes, _Head] = {}

    def decode(
        self, model: str, body: bytes | bytearray, header_bytes: int | None, deadline_s: float | None, request_id: str
    ) -> DecodedRequest:
        """As `messages.decode`."""
        if header_bytes is None or header_bytes > MAX_HEAD_BYTES or deadline_s is not None:
            return messages.decode(model, body, header_bytes, deadline_s, request_id)
        part = bytes(body[:header_bytes])
        head = self._known.get(part)
        if head is None or head.size_bytes != len(body):
            decoded = messages.decode(model, body, header_bytes, None, request_id)
            self._remember(part, decoded, len(body))
            return decoded
        inputs = {
            name: np.frombuffer(body, dtype, elements, at).reshape(shape)
            for name, dtype, shape, at, elements in head.tensors
        }
        like = head.decoded
        request = InferenceRequest(
            model, inputs, like.request.outputs, request_id, like.request.deadline_s, like.request.placement
        )
        return DecodedRequest(request, None, like.binary_by_default, like.binary)

    def _remember(self, part: bytes, decoded: DecodedRequest, size_bytes: int) -> None:
        """Keep what the part says, if another body behind it can only differ in values that need no check."""
        arrays = decoded.request.inputs
        at = len(part)
        tensors = []
        for name, array in arrays.items():
            if array.dtype.kind in "Ob":
                return  # strings vary in length, and a BOOL must be checked
            tensors.append((name, array.dtype, array.shape, at, array.size))
            at += array.nbytes
        # Values inside the JSON part take no bytes behind it: then the sum differs.
        if decoded.client_id is not None or at != size_bytes or any(not array.size for array in arrays.values()):
            return
        if len(self._known) >= MAX_HEADS:
            self._known.clear()
        request = decoded.request
        bare = InferenceRequest(request.model, {}, request.outputs, "", request.deadline_s, request.placement)
        kept = DecodedRequest(bare, None, decoded.binary_by_default, decoded.binary)
        self._known[part] = _Head(kept, tuple(tensors), size_bytes)
