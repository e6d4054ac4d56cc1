"""`qeil fleet ls`, `show`, `watch`, `label`: what the fleet is doing."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from agent.cli.fleet_api import FleetApi, api_options


@click.command("ls")
@click.argument("select", default="")
@click.option("--tenant", help="only the boards of this one")
@click.option("--json", "as_json", is_flag=True, help="the boards as JSON")
@api_options
def ls_command(select: str, tenant: str | None, as_json: bool, url: str, token: str) -> None:
    """List boards. SELECT: parts such as site=berlin,stage!=test,canary,status=offline; `*` in values."""
    boards = FleetApi(url, token).get("/v1/boards", select=select, tenant=tenant)
    if as_json:
        click.echo(json.dumps(boards))
    else:
        show_boards(boards)


def show_boards(boards: list[dict[str, Any]]) -> None:
    """As a table."""
    from agent.cli.tables import counted, dash, print_table

    rows = [
        [
            f"{b['tenant']}/{b['board']}", b["status"], b["mode"] or "–", b["policy"] or "–",
            dash(b["temperature_c"], ".1f"),
            dash(b["energy_j"], ".4g") + {"modelled": " modelled", "unknown": ""}.get(b["provenance"], ""),
            str(b["missing"] or ""), " ".join(c["type"] for c in b["conditions"]),
        ]
        for b in boards
    ]  # fmt: skip
    columns = ("board", "status", "mode", "policy", "°C", "J per inference", "missing", "conditions")
    print_table(counted(len(boards), "board"), columns, rows)


@click.command("show")
@click.argument("board", metavar="TENANT/BOARD")
@click.option("--json", "as_json", is_flag=True, help="everything as JSON")
@api_options
def show_command(board: str, as_json: bool, url: str, token: str) -> None:
    """Show everything known of one board, and its last events."""
    api = FleetApi(url, token)
    detail = api.get(f"/v1/boards/{_path(board)}")
    detail["events"] = api.get(f"/v1/boards/{_path(board)}/rows/evt", limit=20)
    if as_json:
        click.echo(json.dumps(detail))
        return
    show_boards([detail])
    for condition in detail["conditions"]:
        click.echo(f"! {condition['type']} since {condition.get('since') or '–'} {condition.get('cause', '')}")
    for label, value in sorted(detail["labels"].items()):
        click.echo(f"label {label}={value}")
    bundle = detail["bundle"]
    if bundle is not None:
        click.echo(f"bundle {bundle.get('ver')}: {bundle.get('status')} {bundle.get('message') or ''}".rstrip())
    click.echo("last events, newest first:" if detail["events"] else "no events of it are stored")
    for event in detail["events"]:
        row = event["row"]
        told = (row.get("event"), row.get("command"), row.get("message") or row.get("status"))
        click.echo(" ".join([f"{event['boot']}.{event['seq']}", *(str(part) for part in told if part)]))


@click.command("watch")
@click.argument("select", default="")
@click.option("--every", "every_s", type=click.FloatRange(0.2), default=2.0, show_default=True, help="seconds")
@click.option("--rounds", type=click.IntRange(0), default=0, help="stop after so many; 0: until interrupted")
@click.option("--json", "as_json", is_flag=True, help="a JSON document per change")
@api_options
def watch_command(select: str, every_s: float, rounds: int, as_json: bool, url: str, token: str) -> None:
    """Tell what changes: boards that come, go, fall silent or change their mode or conditions."""
    api = FleetApi(url, token)
    before: dict[str, dict[str, Any]] = {}
    count = 0
    while rounds == 0 or count < rounds:
        count += 1
        now = {f"{b['tenant']}/{b['board']}": _look(b) for b in api.get("/v1/boards", select=select)}
        for name in sorted(now):
            if before.get(name) != now[name]:
                change = {"board": name, **now[name]}
                told = f"{time.strftime('%H:%M:%S')} {name} {_words(now[name])}"
                click.echo(json.dumps(change) if as_json else told)
        before = now
        if rounds == 0 or count < rounds:
            time.sleep(every_s)


def _look(board: dict[str, Any]) -> dict[str, Any]:
    conditions = sorted(c["type"] for c in board["conditions"])
    shown = {key: board[key] for key in ("status", "mode", "policy", "bundle_ver", "bundle_status")}
    return {**shown, "conditions": conditions}


def _words(look: dict[str, Any]) -> str:
    parts = [look["status"], look["mode"] or "", look["policy"] or "", *look["conditions"]]
    if look["bundle_status"]:
        parts.append(f"bundle {look['bundle_status']}")
    return " ".join(part for part in parts if part)


@click.command("label")
@click.argument("board", metavar="TENANT/BOARD")
@click.argument("labels", nargs=-1, metavar="[NAME=VALUE | NAME-]...")
@api_options
def label_command(board: str, labels: tuple[str, ...], url: str, token: str) -> None:
    """Set labels of a board, or take them away (NAME-)."""
    api = FleetApi(url, token)
    found: dict[str, str] = dict(api.get(f"/v1/boards/{_path(board)}")["labels"])
    for text in labels:
        name, equals, value = text.partition("=")
        if equals:
            found[name] = value
        elif text.endswith("-"):
            found.pop(text[:-1], None)
        else:
            raise click.UsageError(f"{text!r}: expected NAME=VALUE, or NAME- to take it away")
    click.echo(json.dumps(api.put(f"/v1/boards/{_path(board)}/labels", {"labels": found})["labels"]))


def _path(board: str) -> str:
    tenant, slash, name = board.partition("/")
    if not slash or not name:
        raise click.UsageError(f"{board!r}: expected TENANT/BOARD")
    return f"{tenant}/{name}"
