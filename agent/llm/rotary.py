"""Rotary angles: the tables of cos and sin of every position, stretched to longer contexts as a model asks."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from agent.records import record

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@record(frozen=True)
class Yarn:
    """Angles that turn more than `beta_fast` times in the `trained` positions stay, those that turn less than
    `beta_slow` times are divided by `factor`, between them both are mixed. `attention` multiplies cos and sin besides.

    Peng et al. 2023, YaRN: Efficient Context Window Extension of Large Language Models, arXiv:2309.00071, sections 3.2
    to 3.4.
    """

    factor: float
    trained: int
    beta_fast: float
    beta_slow: float
    attention: float = 1.0

    def steps(self, steps: Doubles, base: float) -> Doubles:
        """Angles per position from those of the unscaled model, highest first."""
        size = 2 * len(steps)
        low = max(math.floor(self._turning(self.beta_fast, size, base)), 0)
        high = min(math.ceil(self._turning(self.beta_slow, size, base)), size - 1)
        ramp = np.clip((np.arange(len(steps)) - low) / max(high - low, 0.001), 0.0, 1.0)
        return steps * (1.0 - ramp) + steps / self.factor * ramp

    @property
    def amplitude(self) -> float:
        """Factor of cos and sin."""
        return self.attention * (0.1 * math.log(self.factor) + 1.0)

    def _turning(self, turns: float, size: int, base: float) -> float:
        """Number of the angle that turns so often in the trained positions."""
        return size * math.log(self.trained / (turns * 2.0 * math.pi)) / (2.0 * math.log(base))


def tables(
    size: int, base: float, divisor: float, factors: Floats | None, yarn: Yarn | None, positions: int
) -> tuple[Floats, Floats]:
    """cos and sin of position / (divisor · factor · base^(2i/size)), (positions, size / 2) each."""
    steps = base ** (-np.arange(0, size, 2, dtype=np.float64) / size)
    steps = steps / divisor / (1.0 if factors is None else factors.astype(np.float64))
    amplitude = 1.0
    if yarn is not None:
        steps, amplitude = yarn.steps(steps, base), yarn.amplitude
    angle = np.outer(np.arange(positions, dtype=np.float64), steps)
    return (amplitude * np.cos(angle)).astype(np.float32), (amplitude * np.sin(angle)).astype(np.float32)
