"""Failures: what a command that failed says – one line for a person, or one JSON object where --json was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from agent.errors import QeilError


def line(error: QeilError | click.ClickException, as_json: bool) -> str:
    """One line for stderr. As JSON: `error` (the sentence), `code`, and what else the error knows, such as the limit
    that binds and the value that would do."""
    message = _sentence(error)
    if not as_json:
        return f"qeil: {message}"
    code = error.code if isinstance(error, QeilError) else "usage"
    context = error.context if isinstance(error, QeilError) else {}
    return json.dumps({"error": message, "code": code, **_plain(context)}, ensure_ascii=False)


def _sentence(error: QeilError | click.ClickException) -> str:
    if isinstance(error, QeilError):
        return " ".join(error.message.split())
    text = " ".join(error.format_message().split())
    context = error.ctx if isinstance(error, click.UsageError) else None
    return text if context is None else f"{text.rstrip('.')} ({context.command_path} --help says how)"


def _plain(context: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON can hold of an error's context; a number that is none there is left out."""
    return {key: value for key, value in context.items() if _can_be_json(value)}


def _can_be_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True
