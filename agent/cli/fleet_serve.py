"""`qeil fleet serve` and `token`: the controller, and who may use it."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import click

from agent import extras


@click.command("serve")
@click.option("--config", required=True, type=click.Path(path_type=Path), help="fleet.yaml")
@click.option("--json", "as_json", is_flag=True, help="the ready line as JSON")
def serve_command(config: Path, as_json: bool) -> None:
    """Run the controller until SIGTERM; prints `ready URL` once its API answers."""
    from agent.errors import ConfigError
    from agent.schema.fleet import FleetSettings
    from agent.service import logs
    from agent.service.clock import SystemClock
    from agent.storage import yaml_files

    settings = yaml_files.validate(yaml_files.read_document(config), FleetSettings, str(config))
    try:
        from agent.fleet.controller import Controller
    except ModuleNotFoundError as error:
        raise ConfigError(f"the fleet's side needs more: {extras.command('fleet')}") from error
    logs.configure(settings.log_level)
    controller = Controller(settings, SystemClock())
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        controller.start()
        click.echo(json.dumps({"ready": controller.url}) if as_json else f"ready {controller.url}")
        sys.stdout.flush()
        while not stop.wait(1.0):
            if not controller.alive():
                raise click.ClickException("a part of the controller died; its log says why")
    finally:
        controller.stop()


@click.command("token")
@click.argument("name")
@click.option("--role", type=click.Choice(["read", "operate", "admin"]), default="read", show_default=True,
              help="what it allows")  # fmt: skip
@click.option("--days", type=click.FloatRange(min=0), default=90.0, show_default=True, help="0: never expires")
@click.option("--file", type=click.Path(path_type=Path), default=Path("tokens"), show_default=True,
              help="that its digest is added to")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="token, name, role and end as JSON")
def token_command(name: str, role: str, days: float, file: Path, as_json: bool) -> None:
    """Make a token for NAME, print it once, and add its digest to the file of http.tokens_file."""
    from agent.errors import BadInput, StorageError
    from agent.fleet import tokens

    expires_s = time.time() + 86_400 * days if days else 0.0
    try:
        secret, made = tokens.make(name, tokens.ROLES[["read", "operate", "admin"].index(role)], expires_s)
    except ValueError as error:
        raise BadInput(str(error)) from error
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as stream:
            stream.write(made.line() + "\n")
    except OSError as error:
        raise StorageError(f"{file}: {error.strerror}") from error
    if as_json:
        click.echo(json.dumps({"token": secret, "name": name, "role": role, "expires_s": expires_s or None}))
    else:
        click.echo(secret)
