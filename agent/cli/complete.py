"""Completion of names: device profiles, policies, well-known workloads, and the models of the agent.

Runs at every press of the tab key: whatever fails means that there is nothing to offer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Final

import click
from click.shell_completion import CompletionItem

ASK_S: Final = 0.5
"""For an agent to say its models; a person waits."""
_Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def profiles() -> Iterable[str]:
    """`auto` and every device profile that can be named."""
    from agent.storage import share

    return ("auto", *share.list_files("device_profiles"))


def policies() -> Iterable[str]:
    """Every policy that can be named."""
    from agent.storage import share

    return share.list_files("policies")


def models() -> Iterable[str]:
    """Models of the running agent; where none answers, of the settings and the store."""
    from agent.cli.client import AgentClient
    from agent.cli.reach import find
    from agent.errors import QeilError

    try:
        with AgentClient(find(), timeout_s=ASK_S) as client:
            served = [str(model["name"]) for model in client.get("/status")["models"]]
    except (QeilError, ValueError, KeyError, TypeError):  # the last three: something else answers at that address
        served = []
    return sorted({*served, *_configured()})


def _configured() -> Iterable[str]:
    from agent.errors import QeilError
    from agent.service import configuration
    from agent.service.serving import model_store

    try:
        return [m.name for m in model_store.configured(configuration.load_settings(None, {}, dict(os.environ)))]
    except (QeilError, OSError):
        return []


def names(of: Callable[[], Iterable[str]]) -> _Complete:
    """Completion by these names, and by files once a path is begun."""

    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
        if "/" in incomplete or incomplete.startswith("."):
            return [CompletionItem(incomplete, type="file")]
        return [CompletionItem(name) for name in of() if name.startswith(incomplete)]

    return complete
