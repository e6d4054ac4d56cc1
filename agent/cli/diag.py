"""`qeil diag`: the bundle for finding faults, made from outside, whether the agent runs or not."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import click

from agent.cli.reach import Reach, reach_options


@click.command("diag")
@click.option("--config", type=click.Path(path_type=Path), help="settings file; says which state folder")
@reach_options
@click.option("--json", "as_json", is_flag=True, help="path, size, digest and contents as JSON")
def diag_command(config: Path | None, reach: Reach, as_json: bool) -> None:
    """Pack logs, status, settings, what doctor says and recent telemetry into one tar.gz, without secrets."""
    from agent.cli.client import AgentClient
    from agent.errors import QeilError
    from agent.service import configuration
    from agent.service.doctor import diag

    settings = configuration.load_settings(config, {}, dict(os.environ))
    try:
        with AgentClient(reach, timeout_s=5.0) as client:
            status = client.get("/status")
            note = None
    except QeilError as error:
        status, note = None, error.message
    made = diag.collect(settings, time.time(), status, None, config=config)
    if as_json:
        click.echo(json.dumps(made.as_json(), indent=2))
        return
    click.echo(f"{made.path}: {len(made.files)} files, {made.size_bytes} bytes, sha256 {made.sha256}")
    for line in (*([f"status: {note}"] if note else []), *made.missing):
        click.echo(f"‼ not in it: {line}", err=True)
