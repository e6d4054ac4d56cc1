"""Forms: JSON parts of binary answers seen before, with the two figures that differ every time left out."""

from __future__ import annotations

from math import isfinite
from typing import Any, Final

from agent.api import messages, tensors
from agent.api.messages import DecodedRequest, EncodedAnswer
from agent.ports import InferenceAnswer

MAX_FORMS: Final = 128
"""Forms remembered; all are forgotten when there are more."""
_ENERGY: Final = "\0energy"
_EXECUTE: Final = "\0execute"


class Forms:
    """See module. Not thread-safe."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[bytes, bytes, bytes]] = {}

    def encode(self, answer: InferenceAnswer, decoded: DecodedRequest) -> EncodedAnswer:
        """As `messages.encode`."""
        energy_j, execute_ms = answer.energy_j, answer.execute_s * 1e3
        if (
            decoded.client_id is not None
            or not isfinite(execute_ms)
            or (energy_j is not None and not isfinite(energy_j))
        ):
            return messages.encode(answer, decoded)
        raw: list[bytes | memoryview] = []
        key: list[Any] = [
            answer.model, answer.version, answer.provenance, answer.placement, answer.provider,
            answer.accelerated_fraction, answer.policy_digest, answer.replays, answer.together,
        ]  # fmt: skip
        for name, tensor in answer.outputs.items():
            if not decoded.wants_binary(name):
                return messages.encode(answer, decoded)
            data = tensors.to_binary(tensor)
            raw.append(data)
            key += (name, tensor.dtype, tensor.shape, len(data))
        remembered = tuple(key)
        form = self._known.get(remembered) or self._learn(remembered, answer, decoded)
        if form is None:
            return messages.encode(answer, decoded)
        energy = b"null" if energy_j is None else repr(float(energy_j)).encode()
        header = b"".join((form[0], energy, form[1], repr(float(execute_ms)).encode(), form[2]))
        return EncodedAnswer((header, *raw), len(header))

    def _learn(
        self, key: tuple[Any, ...], answer: InferenceAnswer, decoded: DecodedRequest
    ) -> tuple[bytes, bytes, bytes] | None:
        if not answer.outputs:
            return None
        document = messages.document_of(answer, decoded)[0]
        document["parameters"] |= {"energy_j": _ENERGY, "execute_ms": _EXECUTE}
        text = messages.encoded(document)
        first, *rest = text.split(messages.encoded(_ENERGY))
        if len(rest) != 1 or rest[0].count(messages.encoded(_EXECUTE)) != 1:
            return None  # a name that looks like the gap
        second, third = rest[0].split(messages.encoded(_EXECUTE))
        if len(self._known) >= MAX_FORMS:
            self._known.clear()
        self._known[key] = first, second, third
        return self._known[key]
