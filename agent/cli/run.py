"""`qeil run`: the agent in the foreground."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from agent.service.app import App
    from agent.service.early_probe import EarlyStart


@click.command("run")
@click.option(
    "--config", type=click.Path(path_type=Path), help="settings file [default: /etc/qeil/agent.yaml if there]"
)
@click.option("--port", type=click.IntRange(0, 65535), help="HTTP port, over the settings; 0 takes any free one")
def run_command(config: Path | None, port: int | None) -> None:
    """Run the agent until SIGTERM; prints `ready URL` once every model is warm.

    SIGHUP reads the policy again. Settings come from the file, then QEIL_… in the environment, then the options.
    """
    from agent.service import interpreter
    from agent.service.early_probe import EarlyStart

    interpreter.begin()
    early = EarlyStart(os.environ)  # first of all: it takes as long as importing the rest
    try:
        agent = _made(config, port, early)
    except BaseException:
        early.end()
        raise

    def announce(url: str, problems: list[str]) -> None:
        interpreter.settle()
        for problem in problems:
            click.echo(f"not ready: {problem}", err=True)
        click.echo(f"ready {url}")
        sys.stdout.flush()

    agent.run(announce)


def _made(config: Path | None, port: int | None, early: EarlyStart) -> App:
    from agent.service import configuration

    overrides = {} if port is None else {"QEIL_HTTP_PORT": str(port)}
    settings = configuration.load_settings(config, overrides, dict(os.environ))
    if settings.profile != "auto":
        early.probe.end()
    early.read([m.path for m in settings.models], settings.state_dir / "workloads")

    from agent.service import app, logs

    logs.configure(settings.log_level)
    return app.App(settings, dict(os.environ), early, config)
