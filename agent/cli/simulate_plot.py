"""Draws a simulated scenario: the change of energy and latency of a request under each placement, a panel a board.

Where assumptions were varied, a tornado stands beside it: what the mean change of energy becomes at the ends of each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent import extras
from agent.cli.plan_plot import SUFFIXES
from agent.errors import BadInput, QeilError

_MARKERS = "osD^vP*XhH8<>dp"
_BARS = 12
"""Assumptions in a tornado, the widest first."""
_THIN = 0.05
"""Percentage points below which a bar cannot be seen."""


def check_target(target: Path) -> None:
    """Refuse a file name that nothing can be drawn to, before long work."""
    if target.suffix not in SUFFIXES:
        raise BadInput(f"{target}: expected a file name that ends in {', '.join(SUFFIXES)}")
    if not target.absolute().parent.is_dir():
        raise BadInput(f"{target}: there is no folder {target.parent}")


def draw(document: dict[str, Any], target: Path) -> None:
    """Write the figure. QeilError without matplotlib or where the file cannot be written.

    A point is a model; claims are dashed lines. The same document gives the same SVG.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise QeilError(f"matplotlib is not installed: {extras.command('plots')}") from error
    boards = document["boards"]
    varied = any(board["sensitivity"] for board in boards)
    figure = Figure(figsize=(14.0 if varied else 8.0, 4.2 * len(boards)), layout="constrained")
    panels = figure.subplots(len(boards), 2 if varied else 1, squeeze=False)
    for row, board in zip(panels, boards, strict=True):
        _panel(row[0], board, document)
        if varied:
            _tornado(row[1], board)
    figure.suptitle(f"{document['title']} (modelled)", fontsize=11)
    try:
        with mpl.rc_context({"svg.hashsalt": document["scenario"]}):
            figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None, dpi=150)
    except OSError as error:
        raise QeilError(f"{target}: {error.strerror}") from error


def _panel(axes: Any, board: dict[str, Any], document: dict[str, Any]) -> None:
    for index, placement in enumerate(document["placements"]):
        points = _ratios(board, placement)
        if points:
            axes.scatter(
                [x for x, _ in points], [y for _, y in points], s=34, alpha=0.8, label=placement,
                marker=_MARKERS[index % len(_MARKERS)],
            )  # fmt: skip
    for claim in board["claims"]:
        line = axes.axhline if claim["quantity"] == "energy" else axes.axvline
        line(1.0 + claim["claimed_change"], linestyle="--", linewidth=1, color="crimson")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.set_title(board["board"], fontsize=9)
    axes.set_xlabel(f"latency of a request / that of {document['baseline']}")
    axes.set_ylabel("energy, the same way")
    if axes.collections:
        axes.legend(fontsize=7, loc="best")


def _tornado(axes: Any, board: dict[str, Any]) -> None:
    """A bar for each assumption that changes something, the widest on top, from the energy at its low to its high."""
    swings = [s for s in board["sensitivity"] if s["unaffected"] is None and None not in s["energy_change"]][:_BARS]
    if not swings:
        axes.set_axis_off()
        varied = "no assumption that was varied changes the energy"
        axes.set_title(varied if board["sensitivity"] else "assumptions are not varied for this board", fontsize=9)
        return
    for place, swing in enumerate(reversed(swings)):
        low, high = (100.0 * change for change in swing["energy_change"])
        if abs(high - low) < _THIN:
            text = f"{swing['low']:g} to {swing['high']:g}: no difference"
            axes.annotate(text, (low, place), fontsize=7, va="center", ha="center")
            continue
        axes.barh(place, high - low, left=low, height=0.6, color="steelblue" if high >= low else "darkorange")
        for value, end in ((low, swing["low"]), (high, swing["high"])):
            right = value == max(low, high)
            axes.annotate(
                f"{end:g}", (value, place), fontsize=7, va="center", textcoords="offset points",
                xytext=(3 if right else -3, 0), ha="left" if right else "right",
            )  # fmt: skip
    axes.set_yticks(range(len(swings)), [s["vary"] for s in reversed(swings)], fontsize=7)
    axes.use_sticky_edges = False
    axes.margins(x=0.12)
    axes.grid(visible=True, axis="x", alpha=0.25)
    axes.set_title(f"what the energy depends on, {board['board']}", fontsize=9)
    axes.set_xlabel(
        "mean change of energy, %, at the values beside the bars; orange: more of it saves more", fontsize=8
    )


def _ratios(board: dict[str, Any], placement: str) -> list[tuple[float, float]]:
    """(latency, energy) of each model's request (or only pass) as shares of the baseline's."""
    last = {row["model"]: row["phase"] for row in board["rows"]}
    rows = [r for r in board["rows"] if r["placement"] == placement and r["phase"] == last[r["model"]]]
    return [
        (1.0 + r["latency_change"], 1.0 + r["energy_change"])
        for r in rows
        if r["feasible"] and r["energy_change"] is not None
    ]
