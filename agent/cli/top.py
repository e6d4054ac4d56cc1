"""`qeil top`: the running agent, live in a terminal."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from agent.cli.client import AgentClient, AgentError, AgentUnreachable
from agent.cli.reach import Reach, reach_options
from agent.cli.top_screen import Line, Span, Style, clipped, screen
from agent.errors import QeilError

ENTER = "\x1b[?1049h\x1b[?25l"
"""The terminal's other screen, without a cursor: what was there before comes back."""
LEAVE = "\x1b[?25h\x1b[?1049l"
CLEAR = "\x1b[2J"
MOST_EVENTS = 100
SIZE = (80, 24)
_COLOURS: dict[Style, str] = {
    "": "", "bold": "\x1b[1m", "dim": "\x1b[2m", "good": "\x1b[32m", "warn": "\x1b[33m", "bad": "\x1b[31m",
    "head": "\x1b[7m",
}  # fmt: skip


class Watch:
    """Asks the agent for what changed since the last time."""

    def __init__(self, client: AgentClient) -> None:
        self._client = client
        self._events: list[dict[str, Any]] = []
        self._point = 0

    def look(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Status, and the overview with the last events; the overview is empty where the agent has none."""
        status = self._client.get("/status")
        try:
            event = self._events[-1]["n"] if self._events else 0
            overview = self._client.get(f"/overview?points={self._point}&events={event}")
        except AgentError as error:
            if error.context.get("status") != 404:
                raise
            return status, {}
        if overview["events"] and overview["events"][0]["n"] <= event:
            self._events = []  # the agent was restarted: its numbers begin anew
        self._events = [*self._events, *overview["events"]][-MOST_EVENTS:]
        if overview["points"]:
            self._point = overview["points"][-1]["n"] - 1  # the last point stays in the answer
        return status, {**overview, "events": self._events}


@click.command("top")
@reach_options
@click.option(
    "--interval", "interval_s", default=1.0, show_default=True, type=click.FloatRange(0.2, 60), help="seconds"
)
@click.option("--once", is_flag=True, help="print one screen and end, as without a terminal")
@click.option("--json", "as_json", is_flag=True, help="status and overview as JSON, once")
def top_command(reach: Reach, interval_s: float, once: bool, as_json: bool) -> None:
    """Watch accelerators, models and events of the running agent; q quits."""
    with AgentClient(reach, timeout_s=5.0) as client:
        watch = Watch(client)
        if as_json:
            status, overview = watch.look()
            click.echo(json.dumps({"status": status, "overview": overview}, indent=2))
        elif once or not (sys.stdin.isatty() and sys.stdout.isatty()):
            size = shutil.get_terminal_size(SIZE)
            cut = sys.stdout.isatty() or "COLUMNS" in os.environ
            now = datetime.now().astimezone()
            for line in screen(*watch.look(), size.columns if cut else None, size.lines, now, live=False):
                click.echo("".join(span.text for span in line).rstrip())
        else:
            _live(watch, interval_s)


def _live(watch: Watch, interval_s: float) -> None:
    with _raw_terminal():
        shown: tuple[dict[str, Any], dict[str, Any]] | None = None
        while True:
            trouble = ""
            try:
                shown = watch.look()
            except (AgentUnreachable, AgentError) as error:
                if shown is None:
                    raise
                trouble = error.message
            size = _size()
            if _wait(shown, trouble, size, interval_s):
                return


def _wait(
    shown: tuple[dict[str, Any], dict[str, Any]], trouble: str, size: os.terminal_size, interval_s: float
) -> bool:
    """Draw, then wait for a key or for a change of size; True when the user wants to leave."""
    drawn = None
    for _ in range(max(1, round(interval_s / 0.2))):
        width, height = size
        lines = screen(*shown, width, height, datetime.now().astimezone())
        if trouble:
            lines[-1] = clipped((Span(f"trying again, q quits: {trouble}", "bad"),), width)
        _draw(lines, anew=size != drawn)
        drawn = size
        asked_to_leave, size = _key(0.2), _size()
        if asked_to_leave:
            return True
    return False


def _size() -> os.terminal_size:
    """Of the window as it is now; COLUMNS and LINES, which shells export, do not follow it."""
    try:
        return os.get_terminal_size(sys.stdout.fileno())
    except OSError:
        return os.terminal_size(SIZE)


def _key(timeout_s: float) -> bool:
    ready, _, _ = select.select([sys.stdin], [], [], timeout_s)
    if not ready:
        return False
    typed = os.read(sys.stdin.fileno(), 64)
    return not typed or bool(set(typed) & set(b"qQ\x03\x04"))


def _draw(lines: list[Line], anew: bool) -> None:
    """anew: what a window of another size has left on the screen goes."""
    plain = "NO_COLOR" in os.environ
    text = "\x1b[0m\x1b[K\r\n".join("".join(_coloured(span, plain) for span in line) for line in lines)
    sys.stdout.write(f"{CLEAR if anew else ''}\x1b[H{text}\x1b[0m\x1b[K")
    sys.stdout.flush()


def _coloured(span: Span, plain: bool) -> str:
    return span.text if plain or not span.style else f"{_COLOURS[span.style]}{span.text}\x1b[0m"


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Keys arrive at once and unseen; the terminal is as before in any case."""
    try:
        import termios
        import tty
    except ImportError as error:
        raise QeilError("qeil top needs a Unix terminal; use --once or --json here") from error
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    sys.stdout.write(ENTER)
    try:
        yield
    finally:
        sys.stdout.write(LEAVE)
        sys.stdout.flush()
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
