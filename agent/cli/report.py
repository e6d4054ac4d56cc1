"""`qeil report`: a period of this board's telemetry as one HTML file."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import click

from agent.errors import BadInput, NotFound, StorageError

MOST_ROWS = 200_000
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@click.command("report")
@click.option("--config", type=click.Path(path_type=Path), help="settings file; says which state folder")
@click.option("--last", default="24h", show_default=True, help="how far back from the newest row: 90m, 24h, 7d")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=Path("report.html"), show_default=True,
              help="where the page is written")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="the windows and events as JSON instead of a page")
def report_command(config: Path | None, last: str, out: Path, as_json: bool) -> None:
    """Write what the outbox still holds of a period as an HTML page with its plots inside.

    Rows that a backend has acknowledged are no longer on the board; the agent need not run.
    """
    from agent.cli.report_page import page
    from agent.service import configuration
    from agent.storage.spool_file import recent_rows

    period_s = seconds(last)
    settings = configuration.load_settings(config, {}, dict(os.environ))
    path = settings.state_dir / "outbox.db"
    if not path.is_file():
        raise NotFound(f"{path}: no telemetry has been written there; give the settings with --config")
    rows = recent_rows(path, MOST_ROWS)
    newest = max((row.payload.get("ts", 0.0) for row in rows), default=0.0)
    recent = [row for row in rows if row.payload.get("ts", 0.0) >= newest - period_s]
    windows = sorted((r.payload for r in recent if r.cls == "tlm" and "window_s" in r.payload), key=lambda p: p["ts"])
    events = sorted((r.payload for r in recent if r.cls == "evt"), key=lambda p: p["ts"])
    if not windows:
        raise NotFound(f"{path}: no telemetry window of that period; has the agent run, or does a backend take it all?")
    if as_json:
        click.echo(json.dumps({"windows": windows, "events": events}, indent=1))
        return
    try:
        out.write_text(page(settings.board or "this board", windows, events), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{out} cannot be written: {error.strerror or error}") from error
    click.echo(f"{out}: {len(windows)} windows, {len(events)} events, {out.stat().st_size / 1024:.0f} KiB")


def seconds(text: str) -> float:
    """A duration such as 90m, 24h or 7d in seconds; BadInput where it is none."""
    found = re.fullmatch(r"(\d{1,6})\s*([smhd])", text.strip())
    if found is None or int(found[1]) == 0:
        raise BadInput(f"{text!r} is no period: give a number with s, m, h or d, for example 24h")
    return int(found[1]) * _UNITS[found[2]]
