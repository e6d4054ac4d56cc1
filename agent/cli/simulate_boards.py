"""`qeil simulate` for a day on simulated boards: the table that is printed and the figure that is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from agent import extras
from agent.cli.tables import dash, print_table
from agent.errors import QeilError

Row = dict[str, Any]
WORDS = {
    "predictive": "predictive (the agent's)", "thresholds": "thresholds", "stepping": "stepping", "none": "none",
    "oracle": "oracle",
}  # fmt: skip


def print_days(document: Row) -> None:
    """A row for every board and governor."""
    click.echo(
        f"{document['title']}: {document['hours']:g} hours, policy {document['policy']}, seed {document['seed']}; "
        f"every number is {document['provenance']}\n"
    )
    columns = ["board", "governor", "served", "trips", "throttled s", "off", "peak °C", "above limit s", "by K"]
    columns += ["held back s", "stopped s", "W"]
    last, lines = "", []
    for run in document["runs"]:
        lines.append([
            run["board"] if run["board"] != last else "", WORDS[run["governor"]], f"{run['served_share']:.1%}",
            str(run["trips"]), f"{run['throttled_s']:.0f}", str(run["shutdowns"]), f"{run['peak_c']:.1f}",
            f"{run['over_limit_s']:.0f}", f"{run['over_limit_c']:.1f}" if run["over_limit_s"] else "–",
            f"{run['limited_s']:.0f}", f"{run['halted_s']:.0f}", f"{run['mean_power_w']:.2f}",
        ])  # fmt: skip
        last = run["board"]
    print_table("Simulated boards (modelled)", columns, lines)
    for run in document["runs"]:
        if run["battery_empty_h"] is not None:
            name = f"{run['board']}, {WORDS[run['governor']]}"
            click.echo(f"{name}: the battery is empty after {dash(run['battery_empty_h'], '.1f')} h")


def draw_days(document: Row, target: Path) -> None:
    """Temperatures, air and work of every board, a panel each. QeilError without matplotlib or a place to write."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise QeilError(f"matplotlib is not installed: {extras.command('plots')}") from error
    boards = list(dict.fromkeys(run["board"] for run in document["runs"]))
    figure = Figure(figsize=(10.0, 2.8 * len(boards)), layout="constrained")
    panels = figure.subplots(len(boards), 1, squeeze=False)
    for axes, board in zip(panels[:, 0], boards, strict=True):
        _panel(axes, [run for run in document["runs"] if run["board"] == board])
    figure.suptitle(f"{document['title']} (modelled)", fontsize=11)
    try:
        with mpl.rc_context({"svg.hashsalt": document["scenario"]}):
            figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None, dpi=120)
    except OSError as error:
        raise QeilError(f"{target}: {error.strerror}") from error


def _panel(axes: Any, runs: list[Row]) -> None:
    for run in runs:
        hours = [m["at_h"] for m in run["trace"]]
        axes.plot(hours, [max(m["zones_c"]) for m in run["trace"]], linewidth=0.9, label=WORDS[run["governor"]])
    first = runs[0]
    axes.plot([m["at_h"] for m in first["trace"]], [m["ambient_c"] for m in first["trace"]], "k:", label="air")
    axes.axhline(min(z["trip_c"] for z in first["zones"]), color="crimson", linestyle="--", linewidth=1, label="trip")
    axes.set_title(f"{first['board']} – hottest zone", fontsize=9)
    axes.set_ylabel("°C")
    axes.set_xlabel("hour")
    axes.grid(visible=True, alpha=0.25)
    axes.legend(fontsize=6, ncol=6, loc="lower right")
