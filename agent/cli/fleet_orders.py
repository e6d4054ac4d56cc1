"""`qeil fleet exec`, `apply`, `rollout`, `rollback`: what is signed here and carried by the controller.

The secret key stays on this machine: the controller only ever sees what was signed.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from agent.cli.fleet_api import FleetApi, api_options
from agent.cli.fleet_ids import new_id
from agent.cli.fleet_keys import key_option, load_key

FINAL = frozenset({"ok", "failed", "rejected", "expired"})


@click.command("exec")
@click.argument("select")
@click.argument("name", metavar="COMMAND")
@click.argument("args", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--expires", "expires_s", type=click.FloatRange(1), default=300.0, show_default=True,
              help="seconds that the command is good for")  # fmt: skip
@click.option("--wait", "wait_s", type=click.FloatRange(0), default=30.0, show_default=True,
              help="seconds to wait for answers")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="the answers as JSON")
@key_option
@api_options
def exec_command(
    select: str,
    name: str,
    args: tuple[str, ...],
    expires_s: float,
    wait_s: float,
    as_json: bool,
    key_path: Path,
    url: str,
    token: str,
) -> None:
    """Run COMMAND on the boards that SELECT wants (such as board=edge-01), and wait for their answers."""
    from agent.errors import ConfigError
    from agent.schema.command import KINDS, Command, unknown
    from agent.storage import yaml_files
    from agent.storage.yaml_text import Document

    if wrong := unknown(name):
        raise ConfigError(wrong)
    yaml_files.validate(Document(dict(map(_pair, args)), {}), KINDS[name].args, name)
    api, key = FleetApi(url, token), load_key(key_path)
    boards = _boards(api, select)
    now_s = round(time.time(), 3)
    sent = {}
    for board in boards:
        document = {
            "v": 1, "kind": "command", "id": new_id(), "tenant": board["tenant"], "board": board["board"],
            "command": name, "args": dict(map(_pair, args)), "iat": now_s, "exp": round(now_s + expires_s, 3),
        }  # fmt: skip
        message = _signed(Command, document, key)
        sent[api.post("/v1/messages", message)["id"]] = f"{board['tenant']}/{board['board']}"
    answers = _await(api, sent, wait_s)
    if as_json:
        click.echo(json.dumps(answers))
    else:
        for answer in answers:
            more = answer["answer"] or {}
            told = more.get("message") or (json.dumps(more["out"]) if more.get("out") else "")
            click.echo(f"{answer['tenant']}/{answer['board']} {answer['status']} {told}".rstrip())
    if any(answer["status"] != "ok" for answer in answers):
        raise SystemExit(1)


@click.command("apply")
@click.argument("select")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--wait", "wait_s", type=click.FloatRange(0), default=60.0, show_default=True,
              help="seconds to wait for reports")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="the answers as JSON")
@key_option
@api_options
def apply_command(select: str, file: Path, wait_s: float, as_json: bool, key_path: Path, url: str, token: str) -> None:
    """Give the boards that SELECT wants the desired state in FILE, each as its own next version."""
    from agent.schema.desired import Desired
    from agent.storage import yaml_files

    api, key = FleetApi(url, token), load_key(key_path)
    wanted = yaml_files.read_document(file).data
    sent = {}
    for board in _boards(api, select):
        detail = api.get(f"/v1/boards/{board['tenant']}/{board['board']}")
        ver = int((detail["reported"] or {}).get("des_ver") or 0) + 1
        document = {
            "v": 1, "kind": "desired", "iat": round(time.time(), 3), **wanted, "tenant": board["tenant"],
            "board": board["board"], "ver": ver,
        }  # fmt: skip
        sent[api.post("/v1/messages", _signed(Desired, document, key))["id"]] = f"{board['tenant']}/{board['board']}"
    answers = _await(api, sent, wait_s)
    if as_json:
        click.echo(json.dumps(answers))
    else:
        for answer in answers:
            click.echo(f"{answer['tenant']}/{answer['board']} {answer['name']} {answer['status']}")
    if any(answer["status"] != "ok" for answer in answers):
        raise SystemExit(1)


@click.group("rollout")
def rollout_group() -> None:
    """Bundles for many boards, ring by ring."""


@rollout_group.command("start")
@click.argument("offer", type=click.Path(path_type=Path))
@click.option("--plan", type=click.Path(path_type=Path), help="YAML with rings, soak_s, max_failed, …")
@click.option("--select", default="", help="which boards of the tenant")
@api_options
def start_command(offer: Path, plan: Path | None, select: str, url: str, token: str) -> None:
    """Begin a rollout of OFFER (as `qeil fleet bundle` wrote it)."""
    from agent.storage import yaml_files

    wanted = {} if plan is None else dict(yaml_files.read_document(plan).data)
    if select:
        wanted["select"] = select
    body = {"offer": json.loads(offer.read_text(encoding="utf-8")), "plan": wanted}
    _show(FleetApi(url, token).post("/v1/rollouts", body))


@rollout_group.command("ls")
@click.option("--json", "as_json", is_flag=True, help="all rollouts as JSON")
@api_options
def list_command(as_json: bool, url: str, token: str) -> None:
    """List rollouts, newest first."""
    found = FleetApi(url, token).get("/v1/rollouts")
    if as_json:
        click.echo(json.dumps(found))
        return
    for rollout in found:
        _show(rollout)


def _steering(action: str, about: str) -> click.Command:
    @click.argument("rollout")
    @api_options
    def steer(rollout: str, url: str, token: str) -> None:
        _show(FleetApi(url, token).post(f"/v1/rollouts/{rollout}/{action}"))

    return click.command(action, help=about)(steer)


for _action, _about in (
    ("pause", "Offer it to no more boards until it is resumed."), ("resume", "Go on."),
    ("abort", "Offer it to no more boards, and take it from those that have not begun."),
    ("approve", "Agree to a rollout that takes several people."),
):  # fmt: skip
    rollout_group.add_command(_steering(_action, _about))


@click.command("rollback")
@click.argument("rollout")
@click.option("--expires", "expires_s", type=click.FloatRange(60), default=7 * 86_400.0, show_default=True,
              help="seconds that the offer is good for")  # fmt: skip
@key_option
@api_options
def rollback_command(rollout: str, expires_s: float, key_path: Path, url: str, token: str) -> None:
    """Give every board of a rollout what the last completed one before it brought, as a new version."""
    from agent.errors import BadInput
    from agent.schema.bundle import Offer

    api, key = FleetApi(url, token), load_key(key_path)
    found = api.get("/v1/rollouts")
    bad = next((r for r in found if r["id"] == rollout), None)
    if bad is None:
        raise BadInput(f"there is no rollout {rollout}")
    good = [r for r in found if r["tenant"] == bad["tenant"] and r["status"] == "done" and r["ver"] < bad["ver"]]
    if not good:
        raise BadInput("no rollout before it was completed; make a bundle of what is wanted: qeil fleet bundle")
    ver = max(r["ver"] for r in found if r["tenant"] == bad["tenant"]) + 1
    now_s = round(time.time(), 3)
    document = {**json.loads(good[0]["offer"]["doc"]), "ver": ver, "iat": now_s, "exp": round(now_s + expires_s, 3)}
    if bad["status"] in {"running", "paused", "approval"}:
        api.post(f"/v1/rollouts/{rollout}/abort")
    plan = {
        "rings": [1.0], "soak_s": 0, "ramp_boards": 1_000_000, "select": bad["plan"]["select"], "max_failed": 1.0,
    }  # fmt: skip
    _show(api.post("/v1/rollouts", {"offer": _signed(Offer, document, key), "plan": plan}))


def _signed(schema: Any, document: dict[str, Any], key: Any) -> dict[str, Any]:
    """Check and sign; ConfigError names what no board would take."""
    from agent.mqtt.envelope import sealed
    from agent.storage import yaml_files
    from agent.storage.yaml_text import Document

    yaml_files.validate(Document(document, {}), schema, document["kind"])
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    comment = f"{document['kind']} {document.get('id') or document.get('ver')} for {document['tenant']}"
    made: dict[str, Any] = json.loads(sealed(text, key.sign(text.encode(), comment)))
    return made


def _boards(api: FleetApi, select: str) -> list[dict[str, Any]]:
    from agent.errors import BadInput

    found: list[dict[str, Any]] = api.get("/v1/boards", select=select)
    if not found:
        raise BadInput(f"no board is meant by {select!r}; qeil fleet ls shows all")
    return found


def _await(api: FleetApi, sent: dict[str, str], wait_s: float) -> list[dict[str, Any]]:
    """Where each message stands, once all have ended or the time is over."""
    end_s = time.monotonic() + wait_s
    answers = {key: api.get(f"/v1/messages/{key}") for key in sent}
    while time.monotonic() < end_s and any(a["status"] not in FINAL for a in answers.values()):
        time.sleep(0.3)
        open_ones = [key for key, a in answers.items() if a["status"] not in FINAL]
        answers |= {key: api.get(f"/v1/messages/{key}") for key in open_ones}
    return list(answers.values())


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"{text!r}: expected KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _show(rollout: dict[str, Any]) -> None:
    boards = ", ".join(f"{count} {status}" for status, count in sorted(rollout["boards"].items()))
    ring = f"ring {rollout['ring'] + 1} of {len(rollout['plan']['rings'])}"
    click.echo(f"{rollout['id']} {rollout['status']} {ring}: {boards} {rollout['reason'] or ''}".rstrip())
