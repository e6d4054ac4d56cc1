"""`qeil models load` and `unload`: begin or end serving a configured model in a running agent."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import click

from agent.cli import complete
from agent.cli.client import AgentClient, AgentError
from agent.cli.reach import Reach, reach_options

POLL_S = 0.1
_ENDED = frozenset({"ready", "unavailable"})

_json_option = click.option("--json", "as_json", is_flag=True, help="the model's row of /status as JSON")


@click.command("load")
@click.argument("name", shell_complete=complete.names(complete.models))
@click.option("--wait", "wait_s", type=click.FloatRange(0), default=120.0, show_default=True, help="seconds at most")
@reach_options
@_json_option
def load_command(name: str, wait_s: float, reach: Reach, as_json: bool) -> None:
    """Serve NAME, a model of the settings or the store, and wait until it answers."""
    with AgentClient(reach) as client:
        client.post(f"/v2/repository/models/{name}/load")
        row = _settled(client, name, time.monotonic() + wait_s)
        if row.get("state") != "ready":
            raise AgentError(f"{name} is {row.get('state', 'not there yet')}: {row.get('reason') or 'no reason given'}")
        if as_json:
            click.echo(json.dumps(row, ensure_ascii=False))
        else:
            click.echo(f"{name} is ready on {row['placement']} ({row['actual']}); try: qeil infer {name}")


@click.command("unload")
@click.argument("name", shell_complete=complete.names(complete.models))
@click.option("--wait", "wait_s", type=click.FloatRange(0), default=30.0, show_default=True, help="seconds at most")
@reach_options
@_json_option
def unload_command(name: str, wait_s: float, reach: Reach, as_json: bool) -> None:
    """Stop serving NAME and wait until it is not; its file and configuration stay."""
    with AgentClient(reach) as client:
        client.post(f"/v2/repository/models/{name}/unload")
        if _row(client, name, time.monotonic() + wait_s, lambda row: not row):
            raise AgentError(f"{name} is still served after {wait_s:g} s; see qeil status")
        if as_json:
            click.echo(json.dumps({"name": name, "state": "unloaded"}))
        else:
            click.echo(f"{name} is no longer served; back with: qeil models load {name}")


def _settled(client: AgentClient, name: str, deadline_s: float) -> dict[str, Any]:
    """The model's row of /status once it has ended loading, or as it is at the deadline; {} where there is none."""
    return _row(client, name, deadline_s, lambda row: row.get("state") in _ENDED)


def _row(client: AgentClient, name: str, deadline_s: float, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    while True:
        rows = {m["name"]: m for m in client.get("/status")["models"]}
        row: dict[str, Any] = rows.get(name, {})
        if done(row) or time.monotonic() >= deadline_s:
            return row
        time.sleep(POLL_S)
