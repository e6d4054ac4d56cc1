"""Regression: log-coefficients with shrinkage towards relatives, for sums and maxima of positive terms.

An observation is y = s · Σ_parts w·[max(Σ compute terms, other ceilings) + Σ added terms], each term a known constant
times exp(Σ of its coefficients). A coefficient belongs to a level (all rows, a silicon family, a software path on it …)
and is pulled towards 0 – that is towards what its relatives say – by a normal prior of that level's spread. Solved by
damped Gauss–Newton on log y with Huber weights; a partially pooled hierarchical model (Gelman & Hill 2007,
ch. 12; Huber 1964, doi:10.1214/aoms/1177703732).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agent.records import record

Array = NDArray[np.float64]
Role = Literal["compute", "ceiling", "added"]

_ROLES: tuple[Role, ...] = ("compute", "ceiling", "added")

HUBER = 1.5
"""Residuals beyond this many scales count linearly, not squared."""


TRIES = 6
"""Steps of ever more damping that are tried before the fit counts as settled."""

TINY = 1e-300

ENOUGH = 1e-5
"""A step that lowers the objective by a smaller share ends the fit."""

OVERLAP = 2.0
"""Exponent with which arithmetic and the highest other ceiling add up to the time of a pass.

Each kernel is bound by one of them, but not all by the same: Σ max lies between max Σ (∞) and Σ Σ (1).
"""

SPREAD_OF_MEDIAN = 1.4826
"""Standard deviation over median absolute deviation of a normal distribution."""


@record(frozen=True, slots=True)
class Term:
    """constant · exp(Σ coefficients); `compute` terms add up to one ceiling, `added` ones come on top."""

    role: Role
    constant: float
    keys: tuple[str, ...]


@record(frozen=True, slots=True)
class Observation:
    """One measured positive number and the parts whose weighted sum explains it."""

    value: float
    parts: tuple[tuple[float, tuple[Term, ...]], ...]
    keys: tuple[str, ...] = ()
    """Coefficients that multiply the whole: a statistic, an installation."""
    weight: float = 1.0
    group: str = ""
    """Row of the table it comes from: several observations of one row count once."""


@record(frozen=True, slots=True)
class Solution:
    """Coefficients by key with posterior standard deviations and the observations behind each."""

    values: dict[str, float]
    deviations: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    scale: float = 0.1
    """Robust spread of the log residuals."""

    def effective_parameters(self, spreads: Mapping[str, float]) -> float:
        """How many free parameters the coefficients amount to: 1 for each that data alone decides, 0 for pure prior."""
        return sum(max(0.0, 1.0 - (dev / spreads[level(key)]) ** 2) for key, dev in self.deviations.items())


def level(key: str) -> str:
    """The level of a key is what stands before its first colon."""
    return key.partition(":")[0]


def evaluate(observation: Observation, values: Mapping[str, float]) -> float:
    """Modelled value; keys without a coefficient count as 0, that is as their relatives."""
    total = 0.0
    for times, terms in observation.parts:
        compute = ceiling = added = 0.0
        for term in terms:
            amount = term.constant * float(np.exp(sum(values.get(key, 0.0) for key in term.keys)))
            if term.role == "compute":
                compute += amount
            elif term.role == "ceiling":
                ceiling = max(ceiling, amount)
            else:
                added += amount
        total += times * (overlapped(compute, ceiling) + added)
    return total * float(np.exp(sum(values.get(key, 0.0) for key in observation.keys)))


def overlapped(compute: float, ceiling: float) -> float:
    """Seconds of a pass that is bound here by its arithmetic and there by the highest other ceiling."""
    largest = max(compute, ceiling)
    return largest * (1.0 + (min(compute, ceiling) / largest) ** OVERLAP) ** (1.0 / OVERLAP) if largest > 0 else 0.0


class _Problem:
    """Flat arrays of everything that does not change from one step to the next."""

    def __init__(self, observations: Sequence[Observation], keys: Sequence[str]) -> None:
        index = {key: number for number, key in enumerate(keys)}
        part_row: list[int] = []
        part_times: list[float] = []
        term_part: list[int] = []
        term_log: list[float] = []
        term_role: list[int] = []
        cells: list[tuple[int, int]] = []
        scales: list[tuple[int, int]] = []
        for row, observation in enumerate(observations):
            scales += [(row, index[key]) for key in observation.keys if key in index]
            for times, terms in observation.parts:
                for term in (t for t in terms if t.constant > 0):
                    cells += [(len(term_log), index[key]) for key in term.keys if key in index]
                    term_part.append(len(part_row))
                    term_log.append(math.log(term.constant))
                    term_role.append(_ROLES.index(term.role))
                part_row.append(row)
                part_times.append(times)
        self.size = len(keys)
        self.part_row, self.part_times = np.array(part_row), np.array(part_times)
        self.term_part, self.term_log, self.term_role = np.array(term_part), np.array(term_log), np.array(term_role)
        self.cell_term, self.cell_key = np.array(cells, dtype=np.intp).reshape(-1, 2).T
        self.scale_row, self.scale_key = np.array(scales, dtype=np.intp).reshape(-1, 2).T
        self.log_values: Array = np.log([o.value for o in observations])
        self.weights: Array = np.array([o.weight for o in observations])

    def predict(self, theta: Array) -> tuple[Array, Array]:
        """Log prediction of each observation, and each term's share of it."""
        rows, parts = len(self.log_values), len(self.part_row)
        amounts = np.exp(self.term_log + np.bincount(self.cell_term, theta[self.cell_key], len(self.term_log)))
        compute = np.bincount(self.term_part, amounts * (self.term_role == 0), parts)
        top = np.zeros(parts)
        ceilings = self.term_role == 1
        np.maximum.at(top, self.term_part[ceilings], amounts[ceilings])
        largest = np.maximum(np.maximum(compute, top), TINY)
        summed = (compute / largest) ** OVERLAP + (top / largest) ** OVERLAP
        both = np.where(summed > 0, summed, 1.0) ** (1.0 / OVERLAP - 1.0)
        by_compute = (both * (compute / largest) ** (OVERLAP - 1.0))[self.term_part]
        highest = amounts >= top[self.term_part]
        by_top = (both * (top / largest) ** (OVERLAP - 1.0))[self.term_part] * highest
        active = np.choose(self.term_role, (by_compute, by_top, np.ones_like(by_top)))
        used = amounts * active * self.part_times[self.term_part]
        row_of_term = self.part_row[self.term_part]
        totals = np.bincount(row_of_term, used, rows)
        scale = np.bincount(self.scale_row, theta[self.scale_key], rows)
        return np.log(totals) + scale, used / totals[row_of_term]

    def jacobian(self, shares: Array) -> Array:
        """Derivative of the log predictions by the coefficients."""
        rows = len(self.log_values)
        row_of_cell = self.part_row[self.term_part[self.cell_term]]
        flat: Array = np.zeros(rows * self.size)
        flat += np.bincount(row_of_cell * self.size + self.cell_key, shares[self.cell_term], rows * self.size)
        whole = np.ones(len(self.scale_row))
        flat += np.bincount(self.scale_row * self.size + self.scale_key, whole, rows * self.size)
        return flat.reshape(rows, self.size)


def solve(
    observations: Sequence[Observation],
    spreads: Mapping[str, float],
    *,
    scale: float = 0.08,
    steps: int = 60,
    minimum_rows: Mapping[str, int] | None = None,
) -> Solution:
    """Fit the coefficients of every key that appears.

    spreads: prior standard deviation of each level (log units); a level that is not listed is left out.
    scale: smallest residual spread, so that a perfect fit does not overrule the priors.
    minimum_rows: observations that a key of a level needs before it gets a coefficient of its own.
    """
    counts = _rows_behind(observations)
    needed = minimum_rows or {}
    keys = sorted(k for k, n in counts.items() if level(k) in spreads and n >= needed.get(level(k), 1))
    problem = _Problem(observations, keys)
    precision = np.array([spreads[level(key)] ** -2 for key in keys])
    theta, covariance, spread = _levenberg(problem, precision, scale, steps)
    deviations = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    return Solution(
        dict(zip(keys, theta.tolist(), strict=True)),
        dict(zip(keys, deviations.tolist(), strict=True)),
        {key: counts[key] for key in keys},
        spread,
    )


def _rows_behind(observations: Sequence[Observation]) -> dict[str, int]:
    groups: dict[str, set[str]] = {}
    for number, observation in enumerate(observations):
        names = set(observation.keys) | {k for _, terms in observation.parts for t in terms for k in t.keys}
        for key in names:
            groups.setdefault(key, set()).add(observation.group or str(number))
    return {key: len(rows) for key, rows in groups.items()}


def _levenberg(problem: _Problem, precision: Array, floor: float, steps: int) -> tuple[Array, Array, float]:
    """Gauss–Newton steps that are taken only if they pay, damped more after each one that did not.

    Where two ceilings meet the objective has a kink; a plain Gauss–Newton jumps to and fro across it for ever.
    """
    theta = np.zeros(problem.size)
    damping = 0.05
    spread = 0.5
    predicted, shares = problem.predict(theta)
    normal, gradient = _normal(problem, shares, problem.log_values - predicted, theta, precision, spread)
    for _ in range(steps):
        residual = problem.log_values - predicted
        spread = max(floor, min(spread, SPREAD_OF_MEDIAN * float(np.median(np.abs(residual)))))
        best = _objective(problem, residual, theta, precision, spread)
        normal, gradient = _normal(problem, shares, residual, theta, precision, spread)
        gained = 0.0
        for _try in range(TRIES):
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), gradient)
            step = np.clip(step, -1.0, 1.0)
            trial, trial_shares = problem.predict(theta + step)
            gained = best - _objective(problem, problem.log_values - trial, theta + step, precision, spread)
            if gained > 0:
                theta, predicted, shares = theta + step, trial, trial_shares
                damping = max(1e-4, damping / 3.0)
                break
            damping *= 4.0
        if gained <= ENOUGH * best:
            break
    covariance: Array = np.linalg.inv(normal).astype(np.float64)
    return theta, covariance, spread


def _normal(
    problem: _Problem, shares: Array, residual: Array, theta: Array, precision: Array, spread: float
) -> tuple[Array, Array]:
    """Normal matrix and gradient of the objective with Huber weights."""
    jacobian = problem.jacobian(shares)
    weights = problem.weights * np.minimum(1.0, HUBER * spread / np.maximum(np.abs(residual), 1e-12)) / spread**2
    normal: Array = (jacobian * weights[:, None]).T @ jacobian + np.diag(precision)
    gradient: Array = jacobian.T @ (weights * residual) - precision * theta
    return normal, gradient


def _objective(problem: _Problem, residual: Array, theta: Array, precision: Array, spread: float) -> float:
    size = np.abs(residual) / spread
    loss = np.where(size <= HUBER, 0.5 * size**2, HUBER * (size - 0.5 * HUBER))
    return float(np.sum(problem.weights * loss) + 0.5 * np.sum(precision * theta**2))
