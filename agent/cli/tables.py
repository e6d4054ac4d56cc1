"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence


def dash(value: float | None, format_: str) -> str:
    """The value in that format, or a dash where nobody knows it."""
    return "–" if value is None else format(value, format_)


def counted(count: int, noun: str) -> str:
    """`1 board`, `2 boards`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table that survives narrow terminals and pipes."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    console.print(table, soft_wrap=False, markup=False)
    console.print()
