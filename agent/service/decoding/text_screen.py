"""Text screen: what the policy's guard says of a request's texts before a language model reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from agent.control import text_guard
from agent.control.verdict import Finding, weigh
from agent.errors import BadInput
from agent.schema.guard import Reaction, TextGuard
from agent.schema.text import TextRequest
from agent.service.serving.input_screen import InputScreen


class TextScreen:
    """Thread-safe. Token ids are what the client's own tokenizer made of a text, and are not looked at."""

    def __init__(self, screen: InputScreen, guard: Callable[[], TextGuard]) -> None:
        """Findings are counted, told and kept by `screen`, with those of tensors."""
        self._screen, self._guard = screen, guard

    def check(self, request: TextRequest) -> None:
        """Look at every text of a request. Raises BadInput where the policy refuses one."""
        limits = self._guard()
        for where, text in _texts(request):
            verdict = text_guard.judge(text, limits)
            if verdict.action == "allow":
                continue
            self._screen.found(request.model, request.request_id, verdict)
            if verdict.action == "quarantine":
                written = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)
                self._screen.keep(request.model, {where: written})
            if verdict.action != "flag":
                raise BadInput(
                    f"model {request.model!r}: {where}: {verdict.sentence} (policy guard.texts)",
                    code=verdict.findings[0].kind,
                )

    def found(self, request: TextRequest, sentence: str, reaction: Reaction) -> None:
        """Count and tell what the model itself found in a prompt; keep it where the policy says so."""
        self._screen.found(request.model, request.request_id, weigh([Finding("suffix", reaction, sentence)]))
        if reaction == "quarantine":
            texts = "\n".join(text for _, text in _texts(request))
            self._screen.keep(
                request.model, {"prompt": np.frombuffer(texts.encode("utf-8", "surrogatepass"), np.uint8)}
            )


def _texts(request: TextRequest) -> Iterator[tuple[str, str]]:
    if isinstance(request.prompt, str):
        yield "prompt", request.prompt
    for at, message in enumerate(request.messages or ()):
        yield f"messages[{at}]", message.get("content", "")
