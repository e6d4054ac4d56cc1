"""`qeil calibrate`: measure what this machine's accelerators achieve."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import click

from agent.cli import complete


@click.command("calibrate")
@click.option("--config", type=click.Path(path_type=Path), help="settings file; says which state folder and profile")
@click.option("--profile", shell_complete=complete.names(complete.profiles),
              help="a profile's name or path instead of the settings' one")  # fmt: skip
@click.option("--quick", is_flag=True, help="a third of the time per measurement: coarser")
@click.option("--json", "as_json", is_flag=True, help="the coefficients as JSON")
def calibrate_command(config: Path | None, profile: str | None, quick: bool, as_json: bool) -> None:
    """Measure peaks, bandwidth and overheads through the real runtimes and keep them with their provenance.

    Where a power sensor covers an accelerator, also its joules per operation and byte and the watts of being on,
    with what the sensor shows at idle taken off.
    """
    from agent.cli.progress import Progress
    from agent.cli.tables import print_table
    from agent.sensors.registry import build_sensors
    from agent.sensors.sysfs import SysfsReader
    from agent.service import assembly, configuration
    from agent.service.board import make_board
    from agent.service.calibration import calibrate_run, calibration
    from agent.service.clock import SystemClock

    overrides = {} if profile is None else {"QEIL_PROFILE": profile}
    settings = configuration.load_settings(config, overrides, dict(os.environ))
    board = make_board(assembly.base_profile(settings.profile), (), assembly.named_profile)
    sensors = build_sensors(board.profile, SysfsReader(Path("/")))
    with Progress("calibrating", as_json) as report:
        result = calibrate_run.calibrate(board, SystemClock(), quick, report, sensors)
    path = calibration.save(result, settings.state_dir)
    if as_json:
        click.echo(json.dumps(result.model_dump(mode="json"), indent=2))
        return
    rows = [
        [
            c.accelerator,
            c.provider,
            c.kind,
            c.family or "–",
            c.precision or "–",
            _with_unit(c.kind, c.value),
            spread(c.rel_uncertainty),
        ]
        for c in result.coefficients
    ]
    print_table(
        "Measured on this board", ["accelerator", "provider", "what", "family", "precision", "value", "spread"], rows
    )
    for kernels in result.kernel_times:
        times = kernels.times
        click.echo(
            f"{kernels.accelerator} {kernels.provider}: kernel times of {len(times.terms)} kinds of work, "
            f"±{times.rel_uncertainty:.0%} on the models they come from, {_counted(kernels.threads)}"
        )
    for line in summed(result.refused):
        click.echo(f"‼ {line}", err=True)
    click.echo(f"written to {path}")


_UNITS = (
    ("flops_per_s", "FLOP/s"),
    ("bytes_per_s", "B/s"),
    ("j_per_flop", "J/FLOP"),
    ("j_per_byte", "J/B"),
    ("_w", "W"),
)


def _with_unit(kind: str, value: float) -> str:
    """The value in a prefix that reads well: 41.2 GFLOP/s, 12.3 µs."""
    unit = next((shown for ending, shown in _UNITS if kind.endswith(ending)), "s")
    prefixes = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))
    scale, prefix = next((p for p in prefixes if abs(value) >= p[0]), (1e-12, "p"))
    return f"{value / scale:.3g} {prefix}{unit}"


def spread(rel_uncertainty: float) -> str:
    """A relative uncertainty; from 100 % on, where a ± would reach below nothing, as the factor it is known to."""
    return f"±{rel_uncertainty:.0%}" if rel_uncertainty < 1.0 else f"to a factor of {1.0 + rel_uncertainty:.2g}"


def _counted(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def summed(refused: Sequence[str]) -> list[str]:
    """One line per lane and runtime instead of one per measurement; --json has them all."""
    lanes: dict[str, list[str]] = {}
    for line in refused:
        where, _, why = line.partition(": ")
        lanes.setdefault(where, []).append(why)
    return [
        f"{where}: {whys[0]}" if len(whys) == 1
        else f"{where}: {len(whys)} remarks on what was measured, first: {whys[0]} (qeil calibrate --json lists all)"
        for where, whys in lanes.items()
    ]  # fmt: skip
