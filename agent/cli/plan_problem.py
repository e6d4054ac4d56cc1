"""`qeil plan --problem FILE.npz`: the optimiser on the user's own cost tables."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from agent.cli.problem_file import load_problem
from agent.errors import ConfigError
from agent.placement.problem import Problem
from agent.placement.solve import Result, solve
from agent.schema.policy import Policy

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
        with first_interrupt() as interrupted:
            result = solve(
                problem, method, seed, budget_s=budget_s, clock=time.perf_counter, interrupted=interrupted.is_set
            )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if interrupted.is_set():
        click.echo(f"‼ {file}: interrupted, this is the best that was found until then", err=True)
    document = as_json(result, elapsed_ms=1000.0 * (time.perf_counter() - begun_s))
    if tell_rounding(file, problem):
        document["exact"] = False
    return document


def tell_rounding(file: Path, problem: Problem) -> bool:
    """Whether one huge cost beside ordinary ones makes the grid of exact sums too coarse to certify anything; said."""
    if problem.rounding <= MAX_ROUNDING:
        return False
    click.echo(
        f"‼ {file}: values differ so much that objectives are rounded by up to {problem.rounding:.1g} of the "
        "least; not certified. Forbid a pair with allowed = 0 instead of a huge cost",
        err=True,
    )
    return True


def tell_left_out(policy: Policy) -> None:
    """Say which rules of a policy do not count for one's own tables."""
    rules = [name for name in ("forbidden", "pinned") if getattr(policy, name)]
    if rules:
        click.echo(
            f"‼ policy {policy.name}: {' and '.join(rules)} say which models may run where; of your own tables, "
            "allowed = 0 forbids a pair",
            err=True,
        )


@contextlib.contextmanager
def first_interrupt() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C, which then ends nothing else; a second one ends the program as usual."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # signals arrive in the main thread alone
        return

    def note(_number: int, _frame: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


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
