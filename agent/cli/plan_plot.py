"""Draws a Pareto front: energy against latency, colour for under-utilisation, baselines and the choice marked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.errors import BadInput, QeilError

SUFFIXES = (".svg", ".png", ".pdf")


def draw(document: dict[str, Any], target: Path) -> None:
    """Write the figure. BadInput for an unknown suffix, QeilError without matplotlib or a writable folder."""
    if target.suffix not in SUFFIXES:
        raise BadInput(f"{target}: expected a file name that ends in {', '.join(SUFFIXES)}")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise QeilError("matplotlib is not installed: pip install 'qeil-agent[plots]'") from error
    figure = Figure(figsize=(7.5, 5.0), layout="constrained")
    axes = figure.add_subplot()
    points = [p["objectives"] for p in document["front"]]
    energy, latency_ms = [p[0] for p in points], [p[1] * 1e3 for p in points]
    cloud = axes.scatter(
        energy, latency_ms, c=[p[2] for p in points], s=22, cmap="viridis", label="Pareto front", zorder=3
    )
    figure.colorbar(cloud, ax=axes, label="under-utilisation")
    for marker, (name, baseline) in zip("sD^vP*XhH8", document.get("baselines", {}).items(), strict=False):
        axes.scatter(
            baseline["energy_j"], baseline["latency_s"] * 1e3, marker=marker, s=55, facecolors="none",
            edgecolors="black", label=name, zorder=4,
        )  # fmt: skip
    chosen = document.get("chosen")
    if chosen is not None:
        axes.scatter(
            chosen["energy_j"], chosen["latency_s"] * 1e3, s=180, facecolors="none", edgecolors="crimson",
            linewidths=2, label="chosen", zorder=5,
        )  # fmt: skip
    axes.set_xlabel("energy per inference [J], modelled" if chosen else "energy [J]")
    axes.set_ylabel("latency [ms], modelled" if chosen else "latency [ms]")
    axes.grid(visible=True, alpha=0.3)
    if _spread(energy) > 20:
        axes.set_xscale("log")
    if _spread(latency_ms) > 20:
        axes.set_yscale("log")
    certificate = "exact" if document["exact"] else "best known"
    name = f"{document['model']} on {document['board']}, policy {document['policy']}" if chosen else "cost tables"
    axes.set_title(f"{name}: {len(points)} placements ({certificate}, {document['method']})", fontsize=10)
    axes.legend(fontsize=8, loc="best")
    try:
        figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None, dpi=150)
    except OSError as error:
        raise QeilError(f"{target}: {error.strerror}") from error


def _spread(values: list[float]) -> float:
    low = min(values)
    return max(values) / low if low > 0 else 1.0
