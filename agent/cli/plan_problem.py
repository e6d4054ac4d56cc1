"""`qeil plan --problem FILE.npz`: the optimiser on the user's own cost tables."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from agent.cli.problem_file import load_problem
from agent.errors import ConfigError
from agent.placement.solve import Result, solve

MAX_ROUNDING = 1e-6
"""Rounding of an objective above which no front is called exact."""


def plan_problem(file: Path, seed: int = 1, method: str = "pgsam", budget_ms: float | None = None) -> dict[str, Any]:
    """The front of a problem file, as `qeil plan --problem FILE --json` prints it.

    Without `budget_ms` the budget is a count, and equal seeds give equal fronts byte for byte.

    Raises:
        ConfigError: the file, the method or the budget is wrong.
        PlacementError: nothing fits, or an unknown accelerator was asked for.
    """
    if budget_ms is not None and not 0.0 < budget_ms <= 3_600_000.0:
        raise ConfigError(f"budget is {budget_ms:g} ms, expected more than 0 and at most 3600000")
    problem = load_problem(file)
    begun_s = time.perf_counter()
    budget_s = None if budget_ms is None else budget_ms / 1000.0
    try:
        result = solve(problem, method, seed, budget_s=budget_s, clock=time.perf_counter)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    document = as_json(result, elapsed_ms=1000.0 * (time.perf_counter() - begun_s))
    if problem.rounding > MAX_ROUNDING:
        # One huge cost beside ordinary ones: the grid that makes sums exact is then too coarse to certify anything.
        document["exact"] = False
        click.echo(
            f"‼ {file}: values differ so much that objectives are rounded by up to {problem.rounding:.1g} of the "
            "least; not certified. Forbid a pair with allowed = 0 instead of a huge cost",
            err=True,
        )
    return document


def as_json(result: Result, elapsed_ms: float) -> dict[str, Any]:
    """The contract of `qeil plan --problem`."""
    return {
        "method": result.method,
        "seed": result.seed,
        "elapsed_ms": round(elapsed_ms, 3),
        "evaluations": result.evaluations,
        "exact": result.exact,
        "front": [
            {"objectives": list(point.objectives), "assignment": list(point.assignment)} for point in result.front
        ],
    }
