"""Draws the pictures of docs/concepts.md with what the agent plans with: `python docs/pictures/draw.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from agent.physics import energy, leakage, pressure, roofline, thermal
from agent.sampling import e_process

FOLDER = Path(__file__).parent
STYLE = {"svg.hashsalt": "qeil", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
PEAK, BANDWIDTH = 1.0e12, 5.0e10
LEAK_W, ACTIVATION_EV = 2.0, 0.15


def dasi(axes: Any) -> None:
    """Attainable speed over operational intensity, with two stages on it."""
    intensity = np.logspace(-1, 3, 200)
    ridge = float(roofline.ridge_point(PEAK, BANDWIDTH))
    axes.loglog(intensity, PEAK * roofline.dasi(intensity, ridge) / 1e9, color="black")
    for name, at in (("decode, 4-bit weights", 4.0), ("3×3 convolution", 120.0)):
        share = float(roofline.dasi(at, ridge))
        axes.plot(at, PEAK * share / 1e9, "o")
        axes.annotate(f"{name}\nDASI {share:.2g}", (at, PEAK * share / 1e9), (6, -28), textcoords="offset points")
    axes.axvline(ridge, linestyle=":", color="grey")
    axes.annotate("ridge", (ridge, 8), (4, 0), textcoords="offset points", color="grey")
    axes.set(xlabel="operations per byte moved", ylabel="attainable, GFLOP/s", title="1 TFLOP/s and 50 GB/s")


def cpq(axes: Any) -> None:
    """What filling a memory costs, and the cliff behind it."""
    share = np.linspace(0.5, 1.2, 300)
    usable, moved_s = 4e9, 0.08
    slowed = moved_s * pressure.penalty(share, knee=0.85, slope=0.5)
    swapped = pressure.swap_time(share * usable, usable, 5e8)
    axes.semilogy(share, slowed + swapped, color="black")
    axes.axvline(0.85, linestyle=":", color="grey")
    axes.axvline(1.0, linestyle="--", color="tab:red")
    axes.annotate("knee", (0.85, 1.0), (4, 0), textcoords="offset points", color="grey")
    axes.annotate("full: paging\nat 0.5 GB/s", (1.0, 0.1), (6, 0), textcoords="offset points", color="tab:red")
    axes.set(xlabel="CPQ, share of the usable memory that is held", ylabel="seconds of one pass",
             title="4 GB usable, 4 GB moved per pass")  # fmt: skip


def phi(axes: Any) -> None:
    """Leakage over temperature, and the thermal yield of a stage."""
    heat = np.linspace(25, 100, 200)
    leak = leakage.leakage_power(heat, LEAK_W, ACTIVATION_EV)
    switching_j = energy.switching_energy(1e10, 1e8, 2e-10, 5e-11)
    spent = energy.stage_energy(switching_j, 0.4, 1.0 + leak)
    axes.plot(heat, leak, color="tab:red", label="leakage, W")
    axes.set(xlabel="junction temperature, °C", ylabel="leakage, W", title="2 W at 25 °C, effective E_a 0.15 eV")
    other = axes.twinx()
    other.plot(heat, spent.thermal_yield, color="black", label="Φ")
    other.set(ylabel="Φ, share of joules that switched", ylim=(0, 1))
    axes.legend(loc="upper left", frameon=False)
    other.legend(loc="lower right", frameon=False)


def rc(axes: Any) -> None:
    """Die and heat sink warm up; what is left until the limit, and what pacing does."""
    network = thermal.ThermalNetwork(np.array([8.0, 90.0]), np.array([[0.0, 1.5], [1.5, 0.0]]), np.array([0.0, 0.22]))
    times = np.arange(0.0, 1500.0, 5.0)
    start = np.array([45.0, 42.0])
    left_s = thermal.time_to_reach(network, start, [14.0, 0.0], 88.0, node=0, ambient_c=35.0, horizon_s=1500.0)
    for watts, name in ((14.0, "14 W"), (10.0, "paced to 10 W")):
        warm = np.array([thermal.step(network, start, [watts, 0.0], t, ambient_c=35.0)[0] for t in times])
        axes.plot(times, warm, label=name)
    axes.axhline(88.0, color="tab:red", linestyle="--")
    axes.annotate("hard_c", (0, 89.5), color="tab:red")
    axes.annotate(f"{left_s:.0f} s to the limit", (left_s, 88.0), (12, -40), textcoords="offset points",
                  arrowprops={"arrowstyle": "->"})  # fmt: skip
    axes.set(xlabel="seconds", ylabel="die, °C", title="two lumps in a box at 35 °C")
    axes.legend(loc="lower right", frameon=False)


def csvet(axes: Any) -> None:
    """How many votes the leading answer needs before sampling may stop."""
    losses = np.arange(0, 13)
    for alpha in (0.01, 0.05, 0.2):
        axes.plot(losses, [e_process.wins_needed(int(n), alpha) for n in losses], "o-", label=f"α = {alpha:g}")
    axes.plot(losses, losses, ":", color="grey")
    axes.set(
        xlabel="votes of the runner-up",
        ylabel="votes that certify the leader",
        title="one rival, looked at after every vote",
    )
    axes.legend(frameon=False)


def main() -> None:
    """All of them, byte for byte the same each time."""
    for draw in (dasi, cpq, phi, rc, csvet):
        with rc_context(STYLE):
            figure = Figure(figsize=(5.6, 3.4), layout="constrained")
            draw(figure.subplots())
            figure.savefig(FOLDER / f"{draw.__name__}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
