"""`qeil run`: the agent in the foreground."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click


@click.command("run")
@click.option(
    "--config", type=click.Path(path_type=Path), help="settings file [default: /etc/qeil/agent.yaml if there]"
)
@click.option("--port", type=click.IntRange(0, 65535), help="HTTP port, over the settings; 0 takes any free one")
def run_command(config: Path | None, port: int | None) -> None:
    """Run the agent until SIGTERM; prints `ready URL` once every model is warm.

    SIGHUP reads the policy again. Settings come from the file, then QEIL_… in the environment, then the options.
    """
    from agent.service import configuration
    from agent.service.early_probe import EarlyProbe

    overrides = {} if port is None else {"QEIL_HTTP_PORT": str(port)}
    settings = configuration.load_settings(config, overrides, dict(os.environ))
    # The runtimes are looked at in processes of their own, which takes as long as importing the rest.
    inventory = EarlyProbe().result if settings.profile == "auto" else None

    from agent.service import app, logs

    logs.configure(settings.log_level)

    def announce(url: str, problems: list[str]) -> None:
        for problem in problems:
            click.echo(f"not ready: {problem}", err=True)
        click.echo(f"ready {url}")
        sys.stdout.flush()

    app.App(settings, dict(os.environ), inventory).run(announce)
