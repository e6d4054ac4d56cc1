"""`qeil doctor`: preflight."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from agent.service.check_result import CheckResult

SIGNS = {"ok": "√", "warn": "‼", "fail": "×"}
PROBE_TIMEOUT_S = 60.0
DEFAULT_CONFIG = Path("/etc/qeil/agent.yaml")


@click.command("doctor")
@click.option(
    "--config", type=click.Path(path_type=Path), help="settings file [default: /etc/qeil/agent.yaml if there]"
)
@click.option("--canary/--no-canary", default=True, help="run a tiny model on every accelerator [default: yes]")
@click.option("--json", "as_json", is_flag=True, help="a list of {check, result, message, mend}")
def doctor_command(config: Path | None, canary: bool, as_json: bool) -> int:
    """Check clock, permissions, sensors, runtimes, disk, broker and certificates; exit code 1 if anything fails."""
    from agent.backends.probe import probe_runtimes
    from agent.service.doctor.doctor import current_surroundings, examine

    if config is None and DEFAULT_CONFIG.exists():
        config = DEFAULT_CONFIG
    results = examine(config, current_surroundings(probe_runtimes(PROBE_TIMEOUT_S), canary))
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results], ensure_ascii=False, indent=2))
    else:
        show(results)
    return 1 if any(result.result == "fail" for result in results) else 0


def show(results: Sequence[CheckResult]) -> None:
    """One line per check, the mend below it, and a count."""
    width = max(len(result.check) for result in results)
    for result in results:
        click.echo(f"{SIGNS[result.result]} {result.check:<{width}}  {result.message}")
        if result.mend:
            click.echo(f"  {'':<{width}}  → {result.mend}")
    counts = {kind: sum(r.result == kind for r in results) for kind in SIGNS}
    click.echo(f"{counts['ok']} fine, {counts['warn']} to know, {counts['fail']} to mend")
