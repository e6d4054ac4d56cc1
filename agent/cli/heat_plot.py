"""Draws a recording beside its replay: over time, a panel a zone, and all samples against each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agent import extras
from agent.errors import QeilError

if TYPE_CHECKING:
    from agent.evaluation.heat_fit import HeatFit


def draw(fit: HeatFit, document: dict[str, Any], target: Path) -> None:
    """Write the figure. QeilError without matplotlib or where the file cannot be written.

    The same recording gives the same SVG.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise QeilError(f"matplotlib is not installed: {extras.command('plots')}") from error
    recording = fit.recording
    figure = Figure(figsize=(11.0, 3.2 * len(recording.zones)), layout="constrained")
    panels = figure.subplots(len(recording.zones), 2, squeeze=False, width_ratios=(2.4, 1.0))
    seen = np.isfinite(fit.replay_c[0])
    minutes = (recording.time_s - recording.time_s[0]) / 60.0
    for i, name in enumerate(recording.zones):
        recorded, replayed = recording.temperature_c[i, seen], fit.replay_c[i, seen]
        over, parity = panels[i]
        over.plot(minutes[seen], recorded, color="0.6", linewidth=1.4, label="recorded")
        over.plot(minutes[seen], replayed, color="crimson", linewidth=0.9, label="replayed")
        over.set_ylabel(f"{name} [°C]")
        over.legend(fontsize=7, loc="best")
        over.grid(visible=True, alpha=0.25)
        parity.plot(recorded, replayed, ".", markersize=2, alpha=0.5, rasterized=True)
        ends = [recorded.min(), recorded.max()]
        parity.plot(ends, ends, color="0.4", linewidth=1)
        parity.set_ylabel("replayed [°C]")
        parity.grid(visible=True, alpha=0.25)
    panels[-1][0].set_xlabel("time [min]")
    panels[-1][1].set_xlabel("recorded [°C]")
    figure.suptitle(f"replayed from powers and the air alone: {document['replay_rms_c']:.2g} K off", fontsize=10)
    try:
        with mpl.rc_context({"svg.hashsalt": "heat"}):
            figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None, dpi=150)
    except OSError as error:
        raise QeilError(f"{target}: {error.strerror}") from error
