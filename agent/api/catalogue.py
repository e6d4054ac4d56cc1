"""Catalogue: which models there are and whether they are ready; the Open Inference Protocol's reading paths and the
model repository extension."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import Response

from agent import __version__
from agent.api import messages
from agent.api.body import BODY_READ, Body, BodyBudget
from agent.api.infer import check_version, settled
from agent.api.reply import dumps
from agent.errors import BadInput, Overloaded
from agent.ports import InferenceService, ModelMetadata, TextService
from agent.schema.workload import TensorSpec

if TYPE_CHECKING:  # boards without texts start sooner without it
    from agent.schema.text import TextModel

SERVER_NAME: Final = "qeil-edge-agent"
EXTENSIONS: Final = ("binary_tensor_data", "model_repository", "model_configuration")
TEXT_VERSION: Final = "1"
"""Language models have one version."""
MAX_CONTROL_BYTES: Final = 65_536
"""Bodies of the repository extension hold a flag or two."""


class Catalogue:
    """Handlers; each returns a response or raises a QeilError."""

    def __init__(self, service: InferenceService, budget: BodyBudget, texts: TextService | None) -> None:
        """`texts` serves language models, which are listed and waited for with the others."""
        self._service, self._texts = service, texts
        self._budget = budget

    async def server(self, _: Request) -> Response:
        """Name, version and extensions of the server."""
        return json_response({"name": SERVER_NAME, "version": __version__, "extensions": list(EXTENSIONS)})

    async def live(self, _: Request) -> Response:
        """200 while the supervisor makes progress."""
        if not self._service.live():
            raise Overloaded("the supervisor does not make progress; the service manager will restart the agent", 5.0)
        return json_response({"live": True})

    async def ready(self, _: Request) -> Response:
        """200 while every model can be served."""
        if not self._service.ready():
            waiting = [f"{m.name} ({m.reason or 'not ready'})" for m in self._every() if not m.ready]
            raise Overloaded(f"not ready: {', '.join(waiting) or 'the agent is starting'}", 1.0)
        return json_response({"ready": True})

    async def model(self, request: Request) -> Response:
        """Inputs and outputs of a model."""
        model = self._named(request)
        return json_response(
            {
                "name": model.name,
                "versions": list(model.versions),
                "platform": model.platform,
                "inputs": [_tensor(spec) for spec in model.inputs],
                "outputs": [_tensor(spec) for spec in model.outputs],
                "parameters": {"ready": model.ready, "reason": model.reason},
            }
        )

    async def model_ready(self, request: Request) -> Response:
        """200 while this model can be served."""
        model = self._text(request) or self._named(request)
        if not model.ready:
            raise Overloaded(f"model {model.name!r} is not ready: {model.reason or 'still loading'}", 1.0)
        return json_response({"name": model.name, "ready": True})

    async def model_config(self, request: Request) -> Response:
        """The model as Triton's clients describe one: what the agent knows of it, without batching."""
        model = self._named(request)
        return json_response(
            {
                "name": model.name,
                "platform": model.platform,
                "max_batch_size": 0,
                "input": [_config_tensor(spec) for spec in model.inputs],
                "output": [_config_tensor(spec) for spec in model.outputs],
            }
        )

    # ------------------------------------------------------------------ repository extension

    async def index(self, request: Request) -> Response:
        """Every model with its state; only ready ones where the body says `{"ready": true}`."""
        only_ready = (await self._control(request)).get("ready") is True
        rows = [
            {
                "name": m.name,
                "version": version,
                "state": "READY" if m.ready else "UNAVAILABLE",
                "reason": m.reason or "",
            }
            for m in self._every()
            for version in (m.versions if isinstance(m, ModelMetadata) else (TEXT_VERSION,))
            if m.ready or not only_ready
        ]
        return json_response(rows)

    async def load(self, request: Request) -> Response:
        """Serve a configured model again."""
        parameters = (await self._control(request)).get("parameters")
        if parameters:
            raise BadInput("load takes no parameters: a model's file and settings stand in agent.yaml")
        return await self._changed(request, self._service.load_model(request.path_params["model"]))

    async def unload(self, request: Request) -> Response:
        """Stop serving a model."""
        await self._control(request)
        return await self._changed(request, self._service.unload_model(request.path_params["model"]))

    def _every(self) -> list[ModelMetadata | TextModel]:
        """Models of tensors, then language models."""
        return [*self._service.models(), *(self._texts.text_models() if self._texts is not None else ())]

    def _text(self, request: Request) -> TextModel | None:
        """The language model of that name and, where one is named, that version."""
        if request.path_params.get("version", TEXT_VERSION) != TEXT_VERSION or self._texts is None:
            return None
        return next((m for m in self._texts.text_models() if m.name == request.path_params["model"]), None)

    async def _changed(self, request: Request, future: Future[None]) -> Response:
        await settled(future, request.receive)
        return json_response({})

    async def _control(self, request: Request) -> dict[str, Any]:
        raw = dict(request.headers.raw)
        body = Body(request.receive, self._budget, MAX_CONTROL_BYTES, "here")
        try:
            data = await body.read(raw.get(b"content-length"), raw.get(b"content-encoding"))
            return messages.parse_object(data, "the body")
        finally:
            request.scope[BODY_READ] = body.finished
            body.release()

    def _named(self, request: Request) -> ModelMetadata:
        model = self._service.model(request.path_params["model"])
        version = request.path_params.get("version")
        if version is not None:
            check_version(self._service, model.name, version)
        return model


def json_response(value: Any) -> Response:
    """A JSON document with status 200."""
    return Response(dumps(value), media_type="application/json")


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _config_tensor(spec: TensorSpec) -> dict[str, Any]:
    kind = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
    return {"name": spec.name, "data_type": kind, "dims": list(spec.shape)}
