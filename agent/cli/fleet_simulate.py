"""`qeil fleet simulate`: boards that do not exist, for trying a controller and a broker out."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.child import child_command

if TYPE_CHECKING:
    from agent.fleet.board_loop import BoardLoop

DESCRIPTORS_PER_BOARD = 12
"""Connection, two doorbells, the outbox's file, log and index for its writer and its reader."""
SPARE_DESCRIPTORS = 100
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  (a folder of our own is made in it)


@click.command("simulate")
@click.option("--boards", type=click.IntRange(1, 100_000), default=100, show_default=True, help="how many")
@click.option("--host", default="127.0.0.1", show_default=True, help="of the broker")
@click.option("--port", type=click.IntRange(1, 65535), default=1883, show_default=True, help="of the broker")
@click.option("--tenant", default="simulated", show_default=True, help="of all the boards")
@click.option("--period", "period_s", type=click.FloatRange(0.05), default=10.0, show_default=True,
              help="seconds between two rows of telemetry of a board")  # fmt: skip
@click.option("--energy-change", type=click.FloatRange(-0.9, 10), default=0.0, help="of an offered bundle; 0.08: +8 %")
@click.option("--broken-share", type=click.FloatRange(0, 1), default=0.0, help="boards that revert every bundle")
@click.option("--silent-share", type=click.FloatRange(0, 1), default=0.0, help="boards that never end a trial")
@click.option("--for", "for_s", type=click.FloatRange(0), default=0.0, help="seconds; 0: until interrupted")
@click.option("--seed", type=int, default=1, show_default=True, help="of all that is drawn by chance")
@click.option("--memory", is_flag=True, help="outboxes in memory: thousands of boards share one disk here")
@click.option("--first", type=click.IntRange(0), default=0, help="number of the first board")
@click.option("--json", "as_json", is_flag=True, help="what was connected and acknowledged as JSON")
def simulate_command(
    boards: int, host: str, port: int, tenant: str, period_s: float, energy_change: float, broken_share: float,
    silent_share: float, for_s: float, seed: int, memory: bool, first: int, as_json: bool,
) -> None:  # fmt: skip
    """Connect simulated boards to a broker: the agent's own outbox and link, telemetry from a model of physics.

    Each board needs a dozen file descriptors; where the limit of a process (ulimit -Hn) is too low for all, several
    processes share them.
    """
    from agent.fleet.simulation import Scenario, simulated
    from agent.schema.settings import MqttSettings
    from agent.service import logs
    from agent.service.clock import SystemClock

    logs.configure("error")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    most = max(1, (limit - SPARE_DESCRIPTORS) // DESCRIPTORS_PER_BOARD)
    if boards > most:
        _shared(boards, first, most, limit, as_json)
        return
    mqtt = MqttSettings(host=host, port=port, tenant=tenant, keepalive_s=60)
    scenario = Scenario(boards, period_s, energy_change, broken_share, silent_share, seed=seed, first=first)
    with tempfile.TemporaryDirectory(prefix="qeil-fleet-", dir=SHARED_MEMORY if memory else None) as folder:
        loop = simulated(scenario, mqtt, Path(folder), SystemClock())
        loop.begin()
        end_s = time.monotonic() + (for_s or float("inf"))
        told_s = time.monotonic()
        try:
            while time.monotonic() < end_s:
                loop.turn(0.1)
                if time.monotonic() - told_s >= 5.0 and not as_json:
                    told_s = time.monotonic()
                    click.echo(_words(_facts(loop)), err=True)
        except KeyboardInterrupt:
            pass
        found = _facts(loop)
        loop.close()
    click.echo(json.dumps(found) if as_json else _words(found))


def _facts(loop: BoardLoop) -> dict[str, int]:
    return {
        "boards": len(loop.boards), "connected": sum(b.link.connected for b in loop.boards),
        "committed": sum(b.outbox.counters["committed"] for b in loop.boards),
        "acknowledged": sum(b.outbox.counters["acknowledged"] for b in loop.boards),
        "resent": sum(b.publisher.counters["resent"] for b in loop.boards),
    }  # fmt: skip


def _words(found: Mapping[str, int]) -> str:
    rows = f"{found['acknowledged']} of {found['committed']} rows acknowledged"
    return f"{found['connected']} of {found['boards']} connected, {rows}"


def _shared(boards: int, first: int, most: int, limit: int, as_json: bool) -> None:
    """The same command for parts of the boards, beside each other; the sums of what they say."""
    parts = -(-boards // most)
    click.echo(f"{parts} processes: each may open {limit} files, enough for {most} boards", err=True)
    given = [a for i, a in enumerate(sys.argv[1:]) if not _about_size(a, sys.argv[i])]
    running = []
    for part in range(parts):
        low, high = boards * part // parts, boards * (part + 1) // parts
        own = ["--boards", str(high - low), "--first", str(first + low), "--json"]
        command = child_command("agent.cli.main", *given, *own)
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    total: Counter[str] = Counter()
    failed = 0
    for process in running:
        try:
            said, _ = process.communicate()
        except KeyboardInterrupt:  # the parts were interrupted too, and say what they did
            said, _ = process.communicate()
        failed += process.returncode != 0
        total.update(json.loads(said) if process.returncode == 0 else {})
    if failed:
        raise click.ClickException(f"{failed} of {parts} processes failed; see above")
    click.echo(json.dumps(dict(total)) if as_json else _words(total))


def _about_size(argument: str, before: str) -> bool:
    return argument == "--json" or any(
        argument.startswith(name) or before == name for name in ("--boards", "--first")
    )  # fmt: skip
