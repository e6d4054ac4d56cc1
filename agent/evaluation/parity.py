"""Parity plot: predicted over measured, one panel per quantity that there is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent import extras
from agent.errors import ConfigError
from agent.evaluation.targets import QUANTITIES, UNITS, Comparison


def plot(comparisons: Sequence[Comparison], tiers: Mapping[str, str], path: Path) -> None:
    """Write the figure; the file's ending picks the format (png, svg, pdf).

    tiers: row_id → tier, for the colours. Raises ConfigError if matplotlib is missing or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional extra
    except ImportError as error:
        raise ConfigError(f"plots need matplotlib: {extras.command('plots')}") from error
    shown = [q for q in QUANTITIES if any(c.quantity == q for c in comparisons)]
    if not shown:
        raise ConfigError(f"{path}: no row could be predicted, there is nothing to plot")
    columns = min(2, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(5.5 * columns, 5.0 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flat
    names = sorted(set(tiers.values()))
    for panel in list(panels)[len(shown) :]:
        panel.set_axis_off()
    for panel, quantity in zip(panels, shown, strict=False):
        items = [c for c in comparisons if c.quantity == quantity]
        for name in names:
            mine = [c for c in items if tiers[c.row_id] == name]
            if mine:
                label = f"tier {name}" if name else "no tier"
                panel.plot([c.measured for c in mine], [c.predicted for c in mine], ".", alpha=0.6, label=label)
        low, high = min(c.measured for c in items), max(c.measured for c in items)
        for factor, style in ((1.0, "-"), (0.8, ":"), (1.25, ":")):
            panel.plot([low, high], [factor * low, factor * high], style, color="0.4", linewidth=1)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.legend()
        panel.set_title(f"{quantity} (n = {len(items)})")
        panel.set_xlabel(f"measured [{UNITS[quantity]}]")
        panel.set_ylabel(f"modelled [{UNITS[quantity]}]")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: the plot cannot be written: {error}") from error
