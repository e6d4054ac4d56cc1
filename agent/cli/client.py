"""Client: talks to the running agent over its own HTTP API, with nothing but the standard library."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from agent.cli import agent_connection
from agent.cli.reach import Reach
from agent.errors import QeilError
from agent.records import record

if TYPE_CHECKING:
    import numpy.typing as npt


class AgentUnreachable(QeilError):
    """Nothing answers at the URL."""

    code = "unreachable"


class AgentError(QeilError):
    """The agent answered with an error."""

    code = "agent_error"


@record(frozen=True)
class Answer:
    """Output tensors and the agent's own account of what they cost."""

    outputs: dict[str, npt.NDArray[Any]]
    parameters: dict[str, Any]


class AgentClient:
    """One keep-alive connection; not for use by several threads at once."""

    def __init__(self, reach: Reach | str, timeout_s: float = 60.0) -> None:
        """`reach`: what `reach.find` found, or the URL of an agent that needs neither key nor authority."""
        self._reach = Reach(reach) if isinstance(reach, str) else reach
        self.url = self._reach.url
        self._connection = agent_connection.connection(self._reach, timeout_s)
        self._headers = {"Authorization": f"Bearer {self._reach.api_key}"} if self._reach.api_key else {}

    def __enter__(self) -> AgentClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def get(self, path: str) -> Any:
        """A JSON document."""
        return json.loads(self._request("GET", path, b"", {})[1])

    def post(self, path: str) -> None:
        """A request without a body whose answer says only that it was done."""
        self._request("POST", path, b"", {})

    def events(self, path: str, document: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The JSON events of a streamed answer, as they come. Raises AgentError for one that is an error."""
        body = json.dumps(document).encode()
        headers = {**self._headers, "Content-Type": "application/json"}
        try:
            self._connection.request("POST", path, body, headers)
            response = self._connection.getresponse()
        except (TimeoutError, OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise AgentUnreachable(agent_connection.trouble(self._reach, error)) from error
        try:
            if response.status >= 400:
                raise self._refused(response.status, response.read())
            for line in response:
                data = line.removeprefix(b"data: ").strip()
                if data and data != b"[DONE]":
                    event = json.loads(data)
                    if "error" in event:
                        raise AgentError(_error_text(data))
                    yield event
        except (TimeoutError, OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise AgentUnreachable(f"the answer of {self.url} broke off ({error or type(error).__name__})") from error

    def infer(
        self, model: str, inputs: dict[str, npt.NDArray[Any]], parameters: dict[str, Any] | None = None
    ) -> Answer:
        """One inference with binary tensors."""
        from agent.cli import wire_tensors  # numpy: a tenth of a second that help, status and completion do without

        parts = [wire_tensors.encode(name, tensor) for name, tensor in inputs.items()]
        entries = [entry for entry, _ in parts]
        header = json.dumps(
            {"inputs": entries, "parameters": {"binary_data_output": True, **(parameters or {})}}
        ).encode()
        body = header + b"".join(raw for _, raw in parts)
        path = f"/v2/models/{model}/infer"
        headers = {"Inference-Header-Content-Length": str(len(header)), "Content-Type": "application/octet-stream"}
        answer_headers, data = self._request("POST", path, body, headers)
        return _decode(answer_headers, data)

    def _request(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[dict[str, str], bytes]:
        try:
            self._connection.request(method, path, body, {**self._headers, **headers})
            response = self._connection.getresponse()
            data = response.read()
        except (TimeoutError, OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise AgentUnreachable(agent_connection.trouble(self._reach, error)) from error
        if response.status >= 400:
            raise self._refused(response.status, data)
        return {k.lower(): v for k, v in response.getheaders()}, data

    def _refused(self, status: int, data: bytes) -> AgentError:
        said = _error_text(data) or f"HTTP {status}"
        if status == http.client.UNAUTHORIZED:
            said = agent_connection.refused(self._reach, said)
        return AgentError(said, status=status)


def _error_text(data: bytes) -> str:
    try:
        error = json.loads(data)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return data[:200].decode(errors="replace")


def _decode(headers: dict[str, str], data: bytes) -> Answer:
    from agent.cli import wire_tensors

    length = int(headers.get("inference-header-content-length", len(data)))
    header = json.loads(data[:length])
    offset, outputs = length, {}
    for entry in header["outputs"]:
        outputs[entry["name"]], offset = wire_tensors.decode(entry, data, offset)
    return Answer(outputs, header.get("parameters", {}))
