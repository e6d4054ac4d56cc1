"""`qeil fleet simulate`: boards that do not exist, for trying a controller and a broker out."""

from __future__ import annotations

import json
import resource
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from agent.fleet.board_loop import BoardLoop


@click.command("simulate")
@click.option("--boards", type=click.IntRange(1, 15_000), default=100, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), default=1883, show_default=True)
@click.option("--tenant", default="simulated", show_default=True)
@click.option("--period", "period_s", type=click.FloatRange(0.05), default=10.0, show_default=True)
@click.option("--energy-change", type=click.FloatRange(-0.9, 10), default=0.0, help="of an offered bundle; 0.08: +8 %")
@click.option("--broken-share", type=click.FloatRange(0, 1), default=0.0, help="boards that revert every bundle")
@click.option("--silent-share", type=click.FloatRange(0, 1), default=0.0, help="boards that never end a trial")
@click.option("--for", "for_s", type=click.FloatRange(0), default=0.0, help="seconds; 0: until interrupted")
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def simulate_command(
    boards: int, host: str, port: int, tenant: str, period_s: float, energy_change: float, broken_share: float,
    silent_share: float, for_s: float, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Connect simulated boards to a broker: the agent's own outbox and link, telemetry from a model of physics."""
    from agent.fleet.simulation import Scenario, simulated
    from agent.schema.settings import MqttSettings
    from agent.service import logs
    from agent.service.clock import SystemClock

    logs.configure("error")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    mqtt = MqttSettings(host=host, port=port, tenant=tenant, keepalive_s=60)
    scenario = Scenario(boards, period_s, energy_change, broken_share, silent_share, seed=seed)
    with tempfile.TemporaryDirectory(prefix="qeil-fleet-") as folder:
        loop = simulated(scenario, mqtt, Path(folder), SystemClock())
        loop.begin()
        end_s = time.monotonic() + (for_s or float("inf"))
        told_s = time.monotonic()
        try:
            while time.monotonic() < end_s:
                loop.turn(0.1)
                if time.monotonic() - told_s >= 5.0 and not as_json:
                    told_s = time.monotonic()
                    click.echo(_words(loop), err=True)
        except KeyboardInterrupt:
            pass
        found = _facts(loop)
        loop.close()
    click.echo(json.dumps(found) if as_json else _words(loop))


def _facts(loop: BoardLoop) -> dict[str, int]:
    return {
        "boards": len(loop.boards), "connected": sum(b.link.connected for b in loop.boards),
        "committed": sum(b.outbox.counters["committed"] for b in loop.boards),
        "acknowledged": sum(b.outbox.counters["acknowledged"] for b in loop.boards),
        "resent": sum(b.publisher.counters["resent"] for b in loop.boards),
    }  # fmt: skip


def _words(loop: BoardLoop) -> str:
    found = _facts(loop)
    rows = f"{found['acknowledged']} of {found['committed']} rows acknowledged"
    return f"{found['connected']} of {found['boards']} connected, {rows}"
