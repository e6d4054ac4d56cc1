"""Draws a Pareto front: energy against latency, colour for under-utilisation, baselines and the choice marked.

Names stand beside the marks, one label for all that fall on one spot, so that equal placements do not hide each other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from agent import extras
from agent.errors import BadInput, QeilError
from agent.placement.pareto import nondominated

SUFFIXES = (".svg", ".png", ".pdf")
_SAME_SPOT = 0.02
"""Marks nearer than this share of the axes get one label."""
_MANY = 500
"""More points than this are one picture inside an SVG, which otherwise grows to megabytes."""
_WIDE = 20.0
"""Largest over smallest value from which an axis is logarithmic."""


def draw(document: dict[str, Any], target: Path) -> None:
    """Write the figure. BadInput for an unknown suffix, QeilError without matplotlib or a writable folder."""
    if target.suffix not in SUFFIXES:
        raise BadInput(f"{target}: expected a file name that ends in {', '.join(SUFFIXES)}")
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise QeilError(f"matplotlib is not installed: {extras.command('plots')}") from error
    figure = Figure(figsize=(8.0, 5.2), layout="constrained")
    axes = figure.add_subplot()
    marks = _marks(document)
    _scales(axes, document, marks)
    points = np.array([p["objectives"] for p in document["front"]])
    order = np.argsort(points[:, 2], kind="stable")[::-1]  # well-used ones last, on top
    cloud = axes.scatter(
        points[order, 0], points[order, 1] * 1e3, c=points[order, 2], s=_size(len(points)), cmap="viridis",
        label="Pareto front", zorder=3, linewidths=0,
        rasterized=len(points) > _MANY,
    )  # fmt: skip
    figure.colorbar(cloud, ax=axes, label="under-utilisation")
    _staircase(axes, points)
    _draw_marks(axes, marks)
    modelled = ", modelled" if "model" in document else ""
    axes.set_xlabel(("energy per inference [J]" if "model" in document else "energy [J]") + modelled)
    axes.set_ylabel(f"latency [ms]{modelled}")
    axes.grid(visible=True, alpha=0.3)
    axes.set_title(_title(document, len(points)), fontsize=10)
    axes.legend(fontsize=8, loc="lower right")
    try:
        with mpl.rc_context({"svg.hashsalt": "qeil"}):
            figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None, dpi=150)
    except OSError as error:
        raise QeilError(f"{target}: {error.strerror}") from error


def _marks(document: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Name, J and ms of what is marked; the choice first."""
    found = []
    chosen, served = document.get("chosen"), document.get("served")
    if chosen is not None:
        found.append(("chosen", chosen))
    if served is not None and served.get("energy_j") is not None and not served["same_as_chosen"]:
        found.append(("served", served))
    found += list(document.get("baselines", {}).items())
    return [(name, row["energy_j"], row["latency_s"] * 1e3) for name, row in found]


def _scales(axes: Any, document: dict[str, Any], marks: list[tuple[str, float, float]]) -> None:
    """Linear or logarithmic axes with room at the right for labels."""
    points = [p["objectives"] for p in document["front"]]
    for values, scale, limits in (
        ([p[0] for p in points] + [m[1] for m in marks], axes.set_xscale, axes.set_xlim),
        ([p[1] * 1e3 for p in points] + [m[2] for m in marks], axes.set_yscale, axes.set_ylim),
    ):
        low, high = min(values), max(values)
        if low > 0 and high / low > _WIDE:
            scale("log")
            limits(low / (high / low) ** 0.07, high * (high / low) ** 0.14)
        else:
            room = (high - low) or abs(high) or 1.0
            limits(low - 0.07 * room, high + 0.14 * room)


def _size(count: int) -> float:
    return 20.0 if count < 300 else 8.0


def _staircase(axes: Any, points: Any) -> None:
    """The edge of what is best in energy and latency alone."""
    best = points[nondominated(points[:, :2])]
    if len(best) > 1:
        best = best[np.argsort(best[:, 0], kind="stable")]
        axes.step(best[:, 0], best[:, 1] * 1e3, where="post", color="0.35", linewidth=0.9, zorder=2,
                  label="best in energy and latency")  # fmt: skip


def _draw_marks(axes: Any, marks: list[tuple[str, float, float]]) -> None:
    taken: list[tuple[Any, list[str], float, float]] = []
    for name, joules, ms in marks:
        at = axes.transAxes.inverted().transform(axes.transData.transform((joules, ms)))
        near = next((names for spot, names, _, _ in taken if np.hypot(*(spot - at)) < _SAME_SPOT), None)
        if near is None:
            taken.append((at, [name], joules, ms))
        else:
            near.append(name)
    above: list[Any] = []
    for spot, names, joules, ms in taken:
        chosen = "chosen" in names
        if len(names) > 1 or not chosen:
            axes.scatter(joules, ms, marker="D", s=34, facecolors="none", edgecolors="black", zorder=4)
        if chosen:
            axes.scatter(joules, ms, s=170, facecolors="none", edgecolors="crimson", linewidths=2, zorder=5)
        # The front runs from the choice upwards to the right: labels of others go above, that of the choice below it.
        crowd = 0 if chosen else sum(abs(spot - other)[0] < 0.2 and abs(spot - other)[1] < 0.06 for other in above)
        if not chosen:
            above.append(spot)
        side = "right" if spot[0] > 0.8 else "left" if spot[0] < 0.2 else "center"
        axes.annotate(
            " = ".join(names), (joules, ms), xytext=(12, -4) if chosen else (0, 7 + 15 * crowd),
            textcoords="offset points", fontsize=8, color="crimson" if chosen else "black",
            ha="left" if chosen else side, va="top" if chosen else "bottom", zorder=6,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
        )  # fmt: skip


def _title(document: dict[str, Any], count: int) -> str:
    certificate = "exact" if document["exact"] else "best known"
    name = f"{document['model']} on {document['board']}" if "model" in document else "cost tables"
    policy = f"policy {document['policy']}, " if document.get("policy") else ""
    return f"{name}\n{policy}{count} placements ({certificate}, {document['method']})"
