"""Feedback: clients say which answers were right, and see what was learnt from it. /v1/feedback."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, ValidationError
from starlette.types import Receive, Scope, Send

from agent.api import reply
from agent.api.body import BODY_READ, Body, BodyBudget
from agent.api.catalogue import json_response
from agent.api.wrong_fields import Param, refusal_of
from agent.errors import NotFound
from agent.ports import InferenceService, TextService

HINT: Final = "(admission.max_json_body_bytes)"


class _Told(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[StrictStr, Field(min_length=1, max_length=200)]
    answer: Annotated[StrictStr, Field(min_length=1, max_length=10_000)] | None = None
    right: StrictBool | None = None


class Feedback:
    """GET shows what was learnt, POST tells of one answer."""

    def __init__(self, texts: TextService | None, service: InferenceService, budget: BodyBudget) -> None:
        self._texts, self._service, self._budget = texts, service, budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; errors propagate to the application."""
        if self._texts is None:
            raise NotFound("this agent serves no language model", param="model")
        if scope["method"] != "POST":
            scores = asdict(self._texts.scores())
            await json_response({"object": "list", "data": scores.pop("sources"), **scores})(scope, receive, send)
            return
        headers = dict(scope["headers"])
        body = Body(receive, self._budget, self._service.limits().max_json_body_bytes, HINT)
        try:
            data = await body.read(headers.get(b"content-length"), headers.get(b"content-encoding"))
            told = decode(data)
        finally:
            scope[BODY_READ] = body.finished
            body.release()
        tell, loop = self._texts.tell, asyncio.get_running_loop()
        done = await loop.run_in_executor(None, lambda: tell(told.id, told.answer, told.right))
        await reply.send_body(send, 200, [reply.JSON], reply.dumps({"object": "feedback", **asdict(done)}))


def decode(data: bytes | bytearray) -> _Told:
    """What a body tells. Raises BadInput with one sentence."""
    try:
        document: Any = json.loads(data)
        told = _Told.model_validate(document)
    except ValidationError as error:
        raise refusal_of(error, _Told) from error
    except (ValueError, RecursionError) as error:
        raise Param(f"the body is not JSON that can be read ({error})", None) from error
    if (told.answer is None) == (told.right is None):
        raise Param("tell either answer, the right one, or right: true or false of the one that was given", "answer")
    return told
