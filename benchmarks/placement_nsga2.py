"""NSGA-II (Deb et al. 2002, doi:10.1109/4235.996017) by pymoo on placement problems; needs `pip install pymoo`."""

from __future__ import annotations

import numpy as np

from agent.placement.pareto import Archive
from agent.placement.problem import Problem
from benchmarks.needed import needed

with needed():
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.mutation import Mutation
    from pymoo.core.problem import Problem as Tables
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize
    from pymoo.termination import get_termination


class _Placements(Tables):
    """Genes index the allowed accelerators of a stage, so that no evaluation is wasted on forbidden pairs."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        count = problem.accelerator_count
        self.choices = np.array([np.resize(np.flatnonzero(row), count) for row in problem.allowed])
        self.archive = Archive(problem.stage_count, limit=8000)
        super().__init__(n_var=problem.stage_count, n_obj=3, n_ieq_constr=1, xl=0, xu=count - 1, vtype=int)

    def _evaluate(self, x: np.ndarray, out: dict[str, np.ndarray], *_: object, **__: object) -> None:
        problem = self.problem
        rows = self.choices[np.arange(problem.stage_count), x.astype(int)].astype(np.int8)
        over = np.maximum(problem.memory_used(rows) - problem.capacity, 0.0) / np.maximum(problem.capacity, 1e-9)
        out["F"], out["G"] = problem.objectives(rows), over.sum(axis=1)[:, None]
        fits = out["G"][:, 0] <= 0.0
        self.archive.merge(out["F"][fits], rows[fits])


class _Reset(Mutation):
    """Each gene is drawn anew with probability 1/L."""

    def __init__(self, count: int, seed: int) -> None:
        super().__init__()
        self.count, self.rng = count, np.random.default_rng(seed)

    def _do(self, _: Tables, x: np.ndarray, *__: object, **___: object) -> np.ndarray:
        change = self.rng.random(x.shape) < 1.0 / x.shape[1]
        return np.where(change, self.rng.integers(0, self.count, x.shape), x)


def nsga2(problem: Problem, seed: int, unit: str, budget: float) -> np.ndarray:
    """Objectives of all non-dominated feasible placements that a population of 200 met within the budget.

    unit: "time" for seconds, "n_eval" for placements evaluated.
    """
    tables = _Placements(problem)
    algorithm = NSGA2(
        pop_size=200,
        sampling=IntegerRandomSampling(),
        crossover=UniformCrossover(),
        mutation=_Reset(problem.accelerator_count, seed),
        eliminate_duplicates=True,
    )
    minimize(tables, algorithm, get_termination(unit, budget), seed=seed, verbose=False)
    return tables.archive.points
