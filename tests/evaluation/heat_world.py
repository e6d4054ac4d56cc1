"""A board of known capacities and conductances, its loads in turns, and what sensors would have recorded of it."""

from __future__ import annotations

import numpy as np

from agent.evaluation.heat_recording import HeatRecording
from agent.physics.thermal import ThermalNetwork, step, with_fan

TRUE = ThermalNetwork(np.array([8.0, 15.0]), np.array([[0.0, 0.4], [0.4, 0.0]]), np.array([0.25, 0.15]))
FAN_W_PER_K = np.array([0.3, 0.2])
ZONES = ("gpu", "cpu")


def recording(
    fan: bool = True, noise_c: float = 0.0, length_s: float = 1800.0, every_s: float = 2.0, seed: int = 3,
    unrecorded_w: float = 0.0,
) -> HeatRecording:  # fmt: skip
    """Both zones loaded in turns of two minutes; the fan changes every five, or stays at a fifth.

    unrecorded_w: warms the first zone all the time and is in no power.
    """
    rng, beside_w = np.random.default_rng(seed), np.array([unrecorded_w, 0.0])
    times = np.arange(0.0, length_s, every_s)
    turns = rng.choice([1.0, 6.0, 12.0, 18.0], (int(length_s // 120) + 1, 2))
    powers = turns[(times // 120).astype(int)]
    speeds = rng.choice([0.2, 0.6, 1.0], int(length_s // 300) + 1) if fan else np.full(int(length_s // 300) + 1, 0.2)
    fans = speeds[(times // 300).astype(int)]
    now, temperatures = np.full(2, 25.0), [np.full(2, 25.0)]
    for i in range(times.size - 1):
        # Between samples power and fan go from one to the other.
        cooled = with_fan(TRUE, FAN_W_PER_K, float(fans[i : i + 2].mean()))
        now = step(cooled, now, powers[i : i + 2].mean(axis=0) + beside_w, every_s, ambient_c=25.0)
        temperatures.append(now)
    seen = np.array(temperatures).T + rng.normal(0.0, noise_c, (2, times.size))
    return HeatRecording(
        ZONES, times, seen, powers.T, np.full(times.size, 25.0), fans if fan else None
    )  # fmt: skip


def as_csv(known: HeatRecording) -> str:
    """The recording as a file."""
    fans = [] if known.fan is None else ["fan"]
    names = ["time_s", "ambient_c", *(f"{z}_c" for z in known.zones), *(f"{z}_w" for z in known.zones), *fans]
    columns = [known.time_s, known.ambient_c, *known.temperature_c, *known.power_w]
    columns += [] if known.fan is None else [known.fan]
    rows = [",".join(f"{value:.6g}" for value in row) for row in np.array(columns).T]
    return "\n".join([",".join(names), *rows]) + "\n"
