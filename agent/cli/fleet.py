"""`qeil fleet`: the fleet's side – keys, and signing what boards then obey."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.fleet_boards import label_command, ls_command, show_command, watch_command
from agent.cli.fleet_bundle import bundle_command
from agent.cli.fleet_ids import new_id
from agent.cli.fleet_keys import key_option, load_key, password
from agent.cli.fleet_migrate import migrate_command
from agent.cli.fleet_orders import apply_command, exec_command, rollback_command, rollout_group
from agent.cli.fleet_serve import serve_command, token_command
from agent.cli.fleet_simulate import simulate_command
from agent.cli.fleet_sparkplug import sparkplug_command

if TYPE_CHECKING:
    from agent.schema.base import FileModel


@click.group("fleet")
def fleet_command() -> None:
    """The fleet: keys and signatures, the controller, and what its boards do."""


@fleet_command.group("keys")
def keys_group() -> None:
    """The keys that commands and desired states are signed with."""


@keys_group.command("generate")
@key_option
@click.option("--no-password", is_flag=True, help="keep the key unencrypted (for tests, or where it is encrypted else)")
def generate_command(key_path: Path, no_password: bool) -> None:
    """Make a key pair in minisign's format: the secret key, and its public half beside it as KEY.pub.

    The password is asked for, or taken from QEIL_FLEET_PASSWORD.
    """
    from agent.mqtt import signing_key

    secret = None if no_password else password(confirm=True)
    key = signing_key.generate()
    signing_key.save(key, key_path, secret)
    click.echo(f"{key_path} is the secret key: keep it off the boards. Put its public half into their settings:")
    click.echo(f"  mqtt:\n    trusted_keys: [{key.public.text()}]")


@fleet_command.command("sign")
@click.argument("file", type=click.Path(path_type=Path))
@key_option
@click.option("--out", type=click.Path(path_type=Path), help="write here instead of to stdout")
@click.option(
    "--expires",
    "expires_s",
    type=click.FloatRange(1),
    default=300.0,
    show_default=True,
    help="seconds a command is good for",
)
def sign_command(file: Path, key_path: Path, out: Path | None, expires_s: float) -> None:
    """Check and sign FILE, a command or a desired state as YAML or JSON, and print the message to publish.

    A command's id, iat and exp are filled in where they are missing.
    """
    from agent.errors import ConfigError
    from agent.mqtt.envelope import sealed
    from agent.schema.command import KINDS, unknown
    from agent.storage import yaml_files

    document = yaml_files.read_document(file)
    schema, filled = _completed(document.data, expires_s)
    yaml_files.validate(type(document)(filled, document.positions), schema, str(file))
    if wrong := filled["kind"] == "command" and unknown(filled["command"]):
        raise ConfigError(f"{file}: command: {wrong}")
    if filled["kind"] == "command":
        places = {path[1:]: place for path, place in document.positions.items() if path[:1] == ("args",)}
        arguments = type(document)(filled.get("args") or {}, places)
        yaml_files.validate(arguments, KINDS[filled["command"]].args, str(file))
    text = json.dumps(filled, ensure_ascii=False, separators=(",", ":"))
    comment = f"{filled['kind']} {filled.get('id') or filled.get('ver')} for {filled['tenant']}/{filled['board']}"
    message = sealed(text, load_key(key_path).sign(text.encode(), comment))
    if out is None:
        click.echo(message.decode())
        return
    try:
        out.write_bytes(message)
    except OSError as error:
        raise click.ClickException(f"{out}: {error.strerror}") from error
    click.echo(f"written to {out}")


def _completed(data: dict[str, Any], expires_s: float) -> tuple[type[FileModel], dict[str, Any]]:
    from agent.schema.command import Command
    from agent.schema.desired import Desired

    now_s = round(time.time(), 3)
    if "command" not in data:
        return Desired, {"v": 1, "kind": "desired", "iat": now_s, **data}
    made = {"v": 1, "kind": "command", "id": new_id(), "iat": now_s, **data}
    made.setdefault("exp", round(made["iat"] + expires_s, 3) if isinstance(made["iat"], int | float) else now_s)
    return Command, made


for _command in (
    bundle_command, serve_command, token_command, ls_command, show_command, watch_command, label_command, exec_command,
    apply_command, rollout_group, rollback_command, simulate_command, migrate_command,
    sparkplug_command,
):  # fmt: skip
    fleet_command.add_command(_command)
