"""Messages to a prompt through the model's own chat template, in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from agent.errors import BadInput
from agent.llm.folder import DecoderFolder


def render(folder: DecoderFolder, messages: Sequence[Mapping[str, str]]) -> str:
    """The prompt, ready for the assistant's answer. Raises BadInput where there is no template or it refuses."""
    if folder.chat_template is None:
        raise BadInput(f"{folder.name} has no chat template; it continues plain text only")

    def refuse(message: str) -> None:
        raise TemplateError(message)

    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    values: dict[str, Any] = {"messages": list(messages), "add_generation_prompt": True, "raise_exception": refuse}
    try:
        return sandbox.from_string(folder.chat_template).render(**folder.special, **values)
    except (TemplateError, TypeError, ValueError, ArithmeticError) as error:
        raise BadInput(f"the chat template of {folder.name} does not take these messages: {error}") from error
