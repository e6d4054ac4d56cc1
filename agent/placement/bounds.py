"""What completions of a partial assignment can reach at best, memory left aside; the exact search prunes with it.

The ratio N/Q of a completion is cut into slabs [r_k, r_k+1). Within a slab N − r_k·Q >= 0 holds, so for every
multiplier c >= 0 the completion's energy is at least E − c·(N − r_k·Q) of the label plus the smallest value of the same
expression over the remaining stages (Lagrangian bound, Geoffrion 1974, Math. Programming Study 2); latency likewise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from agent.placement.pareto import Archive
from agent.placement.problem import Bools, Floats, Problem
from agent.records import record

_RATIO_BITS = 12
_FACTORS = (0.0, 0.35, 1.0, 2.5)
_SLABS = 20
_ROOT_TRIALS = 24
MOST_CELLS = 20_000
"""Most stages × accelerators that are bounded: tables of half a gigabyte."""
# Bounds are formed with rounding; this share of the largest term is far above it.
_MARGIN = 1e-11


@record(frozen=True, eq=False)
class Bounds:
    """Suffix tables of one problem; see `bounds`."""

    ratios: Floats
    """Slab edges [K+1], multiples of 2^-12."""
    surplus: Floats
    """[K+1, L]: the largest Σ (n − r·q) over the stages after each."""
    multipliers: Floats
    """[2, K, C] for energy and latency."""
    rest: Floats
    """[2, K, C, L, D]: the smallest Σ (cost − c·(n − r·q)) over the stages after each pair."""
    margin: Floats
    """[2, K, C]: what is taken off for rounding."""

    def best_ratio(self, sums: Floats, stage: int) -> Floats:
        """A ratio that no completion of each label [n, >=4] exceeds."""
        room = sums[:, 2, None] - self.ratios * sums[:, 3, None] + self.surplus[:, stage]
        # The surplus falls as r rises: the first r out of reach bounds every completion.
        blocked = room < 0.0
        first = np.where(blocked.any(axis=1), blocked.argmax(axis=1), len(self.ratios) - 1)
        bound: Floats = self.ratios[first]
        return bound

    def hopeful(self, sums: Floats, stage: int, accelerator: int, archive: Archive) -> Bools:
        """Labels with a completion that no archive member is surely as good as."""
        reach = self.best_ratio(sums, stage)
        keep = np.zeros(len(sums), dtype=np.bool_)
        low = self.ratios[:-1]
        surplus = sums[:, 2, None] - low * sums[:, 3, None]
        lower = []
        for axis in (0, 1):
            values = self.rest[axis, :, :, stage, accelerator] - self.margin[axis]
            best = np.full(surplus.shape, -np.inf)
            for at in range(values.shape[1]):
                np.maximum(best, values[:, at] - self.multipliers[axis, :, at] * surplus, out=best)
            lower.append(best + sums[:, axis, None])
        top = np.broadcast_to(1.0 - self.ratios[1:], surplus.shape)
        label, slab = np.nonzero((low < reach[:, None]) & archive.may_enter(lower[0], lower[1], top))
        corners = np.stack([lower[0][label, slab], lower[1][label, slab], top[label, slab]], axis=1)
        keep[label[~archive.covers(corners)]] = True
        return keep


def ratio_range(problem: Problem) -> tuple[float, float]:
    """Smallest and largest busy_util_num / busy_den of any pair, rounded outwards to multiples of 2^-12."""
    used = problem.allowed & (problem.busy_den > 0.0)
    ratio = problem.busy_util_num[used] / problem.busy_den[used]
    scale = 2.0**_RATIO_BITS
    return float(np.floor(ratio.min() * scale) / scale), float(np.ceil(ratio.max() * scale) / scale)


def bounds(problem: Problem, stop: Callable[[], bool] | None = None) -> Bounds | None:
    """Suffix tables for every slab and multiplier. Multipliers are the best ones for the whole problem, and around.

    None once `stop`, which is asked every few milliseconds, says so.
    """
    low, high = ratio_range(problem)
    step = 2.0**-_RATIO_BITS
    ratios = np.unique(np.ceil(np.linspace(low, max(high, low + step), _SLABS + 1) / step) * step)
    trials = np.concatenate([[0.0], np.geomspace(1e-3, 1e3, _ROOT_TRIALS)])
    multipliers, rests, margins = [], [], []
    for cost, link in ((problem.energy, problem.transfer_energy), (problem.latency, problem.transfer_latency)):
        total, busy = float(cost.max(axis=1).sum()), float(problem.busy_den.max(axis=1).sum())
        scale = total / busy if busy > 0.0 else 1.0
        grid = np.broadcast_to(trials * scale, (len(ratios) - 1, len(trials)))
        root = _rest(problem, cost, link, ratios[:-1], grid, stop)
        if root is None:
            return None
        stage = _stage(problem, cost, ratios[:-1], grid)[:, :, 0]
        best = grid[0][(root[:, :, 0] + stage).min(axis=2).argmax(axis=1)]
        chosen = best[:, None] * np.array(_FACTORS)
        multipliers.append(chosen)
        rest = _rest(problem, cost, link, ratios[:-1], chosen, stop)
        if rest is None:
            return None
        rests.append(rest)
        margins.append(_MARGIN * (total + float(link.max(initial=0.0)) * len(link) + chosen * busy))
    gain = np.where(problem.allowed, problem.busy_util_num - ratios[:, None, None] * problem.busy_den, -np.inf)
    ahead = gain.max(axis=2)[:, :0:-1].cumsum(axis=1)[:, ::-1]
    surplus = np.concatenate([ahead, np.zeros((len(ratios), 1))], axis=1)
    # Utilisation sums round too once r·q is formed.
    surplus += _MARGIN * float(problem.busy_den.max(axis=1).sum())
    return Bounds(ratios, surplus, np.array(multipliers), np.array(rests), np.array(margins))


def _stage(problem: Problem, cost: Floats, ratios: Floats, multipliers: Floats) -> Floats:
    """Cost − c·(n − r·q) of each pair, [K, C, L, D]; infinite where forbidden."""
    gain = problem.busy_util_num - ratios[:, None, None, None] * problem.busy_den
    table: Floats = np.where(problem.allowed, cost - multipliers[:, :, None, None] * gain, np.inf)
    return table


def _rest(
    problem: Problem, cost: Floats, link: Floats, ratios: Floats, multipliers: Floats, stop: Callable[[], bool] | None
) -> Floats | None:
    table = _stage(problem, cost, ratios, multipliers)
    rest = np.zeros_like(table)
    for stage in range(problem.stage_count - 2, -1, -1):
        if stop is not None and stop():
            return None
        ahead = rest[:, :, stage + 1] + table[:, :, stage + 1]
        rest[:, :, stage] = (link[stage] + ahead[:, :, None, :]).min(axis=3)
    return rest
