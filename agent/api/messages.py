"""Infer messages: the Open Inference Protocol's request and response documents, with tensors in JSON or appended raw.

Owns the documents' syntax. Whether names, types and shapes fit the model is checked by the service.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from agent.api import tensors
from agent.errors import BadInput
from agent.ports import InferenceAnswer, InferenceRequest, Tensor

MAX_ID_CHARACTERS: Final = 256
MAX_NAME_CHARACTERS: Final = 1024
_SHARED_MEMORY: Final = "shared_memory_region"
_STATEFUL: Final = ("sequence_id", "sequence_start", "sequence_end")


class DecodedRequest(NamedTuple):
    """A request for the service, and how the client wants its answer."""

    request: InferenceRequest
    client_id: str | None
    binary_by_default: bool
    binary: Mapping[str, bool]

    def wants_binary(self, output: str) -> bool:
        """Whether this output goes behind the JSON as raw bytes."""
        return self.binary.get(output, self.binary_by_default)


class EncodedAnswer(NamedTuple):
    """Body of an answer, in pieces; `header_bytes` is the length of its JSON part, None when it is all JSON."""

    pieces: tuple[bytes | memoryview, ...]
    header_bytes: int | None

    @property
    def body(self) -> bytes:
        """In one piece, which copies it."""
        return b"".join(self.pieces)

    @property
    def length(self) -> int:
        """Bytes of all pieces."""
        return sum(map(len, self.pieces))


def _refuse_constant(token: str) -> Any:
    raise BadInput(f"the JSON holds {token}, which JSON does not have: send such values as binary tensors")


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)
_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def parse_object(data: bytes | bytearray | memoryview, what: str) -> dict[str, Any]:
    """A JSON object; BadInput with line and column of the mistake. Empty data is an empty object."""
    if not len(data):
        return {}
    try:
        value = _DECODER.decode(str(data, "utf-8"))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise BadInput(f"{what} is not valid JSON: {error.msg} at {where}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{what} is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise BadInput(f"{what} is nested too deeply") from error
    except ValueError as error:
        raise BadInput(f"{what} holds a number with too many digits") from error
    if not isinstance(value, dict):
        raise BadInput(f"{what} must be a JSON object")
    return value


# ---------------------------------------------------------------------------------------------- request


def decode(
    model: str,
    body: bytes | bytearray,
    header_bytes: int | None,
    default_deadline_s: float | None,
    request_id: str,
) -> DecodedRequest:
    """The request in `body`. `header_bytes` is the length of its JSON part, None when it is all JSON.

    `default_deadline_s` (from a header) holds unless the document's own timeout says otherwise; `request_id` names
    the request in logs unless the client gave an id. Raises BadInput and TooLarge.
    """
    view = memoryview(body)
    split = len(view) if header_bytes is None else header_bytes
    if split > len(view):
        raise BadInput(f"Inference-Header-Content-Length is {split}, the body has only {len(view)} bytes")
    document = parse_object(view[:split], "the request")
    parameters = _parameters(document, "the request")
    for key in _STATEFUL:
        if key in parameters:
            raise BadInput(f"parameter {key!r}: models with state between requests are not served")
    client_id = document.get("id")
    if client_id is not None and (not isinstance(client_id, str) or len(client_id) > MAX_ID_CHARACTERS):
        raise BadInput(f"id must be a string of at most {MAX_ID_CHARACTERS} characters")
    inputs = _inputs(document, view[split:], header_bytes is not None)
    outputs, binary = _outputs(document)
    placement = parameters.get("placement")
    if placement is not None and not isinstance(placement, str):
        raise BadInput("parameter 'placement' must be the name of an accelerator")
    request = InferenceRequest(
        model=model, inputs=inputs, outputs=outputs, request_id=client_id or request_id,
        deadline_s=_timeout_s(parameters, default_deadline_s), placement=placement,
    )  # fmt: skip
    by_default = _flag(parameters, "binary_data_output", "the request") or False
    return DecodedRequest(request, client_id, by_default, binary)


def _inputs(document: dict[str, Any], raw: memoryview, has_raw: bool) -> dict[str, Tensor]:
    inputs: dict[str, Tensor] = {}
    offset = 0
    for entry in _entries(document, "inputs", required=True):
        name = _name(entry, "input", inputs)
        shape = tensors.check_shape(name, entry.get("datatype"), entry.get("shape"))
        parameters = _parameters(entry, f"input {name!r}")
        if _SHARED_MEMORY in parameters:
            raise BadInput(f"input {name!r}: shared memory is not offered, send the data as JSON or binary")
        size = parameters.get("binary_data_size")
        if (size is None) != ("data" in entry):
            has = "neither data nor" if size is None else "both data and"
            raise BadInput(f"input {name!r} has {has} parameter binary_data_size; give one of them")
        if size is None:
            inputs[name] = tensors.from_json(name, entry["datatype"], shape, entry["data"])
            continue
        chunk = _chunk(name, size, raw, offset, has_raw)
        inputs[name] = tensors.from_binary(name, entry["datatype"], shape, chunk)
        offset += len(chunk)
    if offset != len(raw):
        raise BadInput(f"{len(raw) - offset} bytes follow the last input's binary data")
    return inputs


def _chunk(name: str, size: Any, raw: memoryview, offset: int, has_raw: bool) -> memoryview:
    if type(size) is not int or not 0 <= size < 2**63:
        raise BadInput(f"input {name!r}: binary_data_size must be a number of bytes ≥ 0")
    if not has_raw:
        raise BadInput(
            f"input {name!r} has binary_data_size, but the header Inference-Header-Content-Length is missing"
        )
    if size > len(raw) - offset:
        raise BadInput(f"input {name!r}: binary_data_size is {size}, only {len(raw) - offset} bytes are left")
    return raw[offset : offset + size]


def _outputs(document: dict[str, Any]) -> tuple[tuple[str, ...] | None, dict[str, bool]]:
    names: dict[str, None] = {}
    binary: dict[str, bool] = {}
    for entry in _entries(document, "outputs", required=False):
        name = _name(entry, "output", names)
        names[name] = None
        parameters = _parameters(entry, f"output {name!r}")
        if parameters.get("classification"):
            raise BadInput(f"output {name!r}: classification is not offered, ask for the tensor and sort it yourself")
        if _SHARED_MEMORY in parameters:
            raise BadInput(f"output {name!r}: shared memory is not offered")
        wish = _flag(parameters, "binary_data", f"output {name!r}")
        if wish is not None:
            binary[name] = wish
    return tuple(names) or None, binary


def _entries(document: dict[str, Any], key: str, required: bool) -> list[dict[str, Any]]:
    entries = document.get(key)
    if entries is None and not required:
        return []
    if not isinstance(entries, list):
        raise BadInput(f"the request needs {key!r}: a list of tensors" if required else f"{key!r} must be a list")
    for entry in entries:
        if not isinstance(entry, dict):
            raise BadInput(f"each of {key!r} must be an object with a name")
    return entries


def _name(entry: dict[str, Any], kind: str, seen: Mapping[str, Any]) -> str:
    name = entry.get("name")
    if not isinstance(name, str) or not name or len(name) > MAX_NAME_CHARACTERS:
        raise BadInput(f"an {kind} has no name (a text of 1 to {MAX_NAME_CHARACTERS} characters)")
    if name in seen:
        raise BadInput(f"{kind} {name!r} is given twice")
    return name


def _parameters(holder: dict[str, Any], what: str) -> dict[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise BadInput(f"{what}: parameters must be an object")
    return parameters


def _flag(parameters: dict[str, Any], key: str, what: str) -> bool | None:
    value = parameters.get(key)
    if value is not None and not isinstance(value, bool):
        raise BadInput(f"{what}: parameter {key!r} must be true or false")
    return value


def _timeout_s(parameters: dict[str, Any], default_s: float | None) -> float | None:
    """The protocol counts microseconds; 0 means no wish."""
    value = parameters.get("timeout")
    if value is None:
        return default_s
    if type(value) is not int or not 0 <= value < 2**63:
        raise BadInput("parameter 'timeout' must be a whole number of microseconds")
    return value / 1e6 if value else default_s


# ---------------------------------------------------------------------------------------------- answer


def encode(answer: InferenceAnswer, decoded: DecodedRequest) -> EncodedAnswer:
    """The response document; raises BadInput where JSON cannot carry an output and BackendError for exotic types."""
    document, raw = document_of(answer, decoded)
    header = encoded(document)
    return EncodedAnswer((header, *raw), len(header) if raw else None)


def encoded(value: Any) -> bytes:
    """Compact JSON; NaN is an error, never a token."""
    return _ENCODER.encode(value).encode()


def document_of(answer: InferenceAnswer, decoded: DecodedRequest) -> tuple[dict[str, Any], list[bytes | memoryview]]:
    """(JSON part of the answer, what follows it). Errors as `encode`."""
    outputs: list[dict[str, Any]] = []
    raw: list[bytes | memoryview] = []
    for name, tensor in answer.outputs.items():
        entry: dict[str, Any] = {"name": name, "datatype": tensors.datatype_of(tensor), "shape": list(tensor.shape)}
        if decoded.wants_binary(name):
            data = tensors.to_binary(tensor)
            entry["parameters"] = {"binary_data_size": len(data)}
            raw.append(data)
        else:
            entry["data"] = tensors.to_json(name, tensor)
        outputs.append(entry)
    document: dict[str, Any] = {"model_name": answer.model, "model_version": answer.version}
    if decoded.client_id is not None:
        document["id"] = decoded.client_id
    document["parameters"] = cost_of(answer)
    document["outputs"] = outputs
    return document, raw


def cost_of(answer: InferenceAnswer) -> dict[str, Any]:
    """What the answer cost and who gave it; null is a figure nobody has."""
    return {
        "energy_j": answer.energy_j,
        "provenance": answer.provenance,
        "placement": answer.placement,
        "provider": answer.provider,
        "accelerated_fraction": answer.accelerated_fraction,
        "execute_ms": answer.execute_s * 1e3,
        "policy_digest": answer.policy_digest,
        "replays": answer.replays,
        **({"together": answer.together} if answer.together > 1 else {}),
    }
