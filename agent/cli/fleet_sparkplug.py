"""`qeil fleet sparkplug`: a tenant's boards as devices of a Sparkplug B edge node."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

import click

from agent import extras


@click.command("sparkplug")
@click.option("--config", required=True, type=click.Path(path_type=Path), help="fleet.yaml; its mqtt and name are used")
@click.option("--tenant", required=True, help="whose boards")
@click.option("--group", help="Sparkplug's group; the tenant's name by default")
@click.option("--node", default="qeil", show_default=True, help="Sparkplug's edge node, whose devices the boards are")
def sparkplug_command(config: Path, tenant: str, group: str | None, node: str) -> None:
    """Publish a tenant's boards as Sparkplug B, until SIGTERM: NBIRTH, DBIRTH, DDATA, DDEATH, NDEATH."""
    from agent.errors import ConfigError
    from agent.schema.fleet import FleetSettings
    from agent.service import logs
    from agent.storage import yaml_files

    settings = yaml_files.validate(yaml_files.read_document(config), FleetSettings, str(config))
    try:
        from agent.fleet.sparkplug_bridge import SparkplugBridge
    except ModuleNotFoundError as error:
        raise ConfigError(f"the fleet's side needs more: {extras.command('fleet')}") from error
    logs.configure(settings.log_level)
    bridge = SparkplugBridge(
        settings.mqtt, f"{settings.name}-sparkplug", tenant, group or tenant, node, time.time
    )  # fmt: skip
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    click.echo(f"bridges qeil/v1/{tenant} to spBv1.0/{bridge.node.group}/+/{node}")
    sys.stdout.flush()
    bridge.run(stop)
