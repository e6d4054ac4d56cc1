"""Progress of long work on stderr: a bar on a terminal, a line every few seconds in a pipe or a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

import click

PERIOD_S = 3.0


class Progress:
    """Used as a context; calling it tells (what, step, steps). Steps are 0 where nobody knows how many there are."""

    def __init__(self, title: str, silent: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        from rich import progress
        from rich.console import Console

        console = Console(stderr=True)
        self._lines = not silent and not console.is_terminal
        self._bar = progress.Progress(console=console, transient=True, disable=silent or not console.is_terminal)
        self._task = self._bar.add_task(title, total=None)
        self._title = title
        self._clock = clock
        self._told_s = clock()

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __call__(self, what: str, step: int, steps: int) -> None:
        """Tell where the work is."""
        self._bar.update(self._task, description=what, completed=step, total=steps or None)
        now_s = self._clock()
        if self._lines and now_s - self._told_s >= PERIOD_S:
            self._told_s = now_s
            share = f" {100 * step // steps} %" if steps else ""
            click.echo(f"{self._title}:{share} {what}", err=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()
