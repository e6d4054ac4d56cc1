"""Fallback rule: what to do with a model that the runtime did not put where it was asked to."""

from __future__ import annotations

from typing import Literal

from agent.records import record
from agent.schema.policy import Fallback


@record(frozen=True)
class Assignment:
    """What was asked and what the runtime reports."""

    requested: str
    actual: tuple[str, ...]
    accelerated_fraction: float | None
    """Share of the graph on the requested provider; None where the runtime does not tell."""


@record(frozen=True)
class FallbackVerdict:
    """serve, serve with a standing condition, or refuse this placement."""

    outcome: Literal["serve", "warn", "refuse"]
    sentence: str = ""


def judge(assignment: Assignment, rule: Fallback) -> FallbackVerdict:
    """Apply `on_fallback` and `min_accelerated_fraction`; an unknown share is judged by the provider list alone."""
    if assignment.requested not in assignment.actual:
        problem = f"{assignment.requested} was asked for, but {', '.join(assignment.actual) or 'nothing'} runs it"
    elif (
        assignment.accelerated_fraction is not None and assignment.accelerated_fraction < rule.min_accelerated_fraction
    ):
        problem = (
            f"only {assignment.accelerated_fraction:.0%} of the graph is on {assignment.requested} "
            f"(min_accelerated_fraction {rule.min_accelerated_fraction:.0%})"
        )
    else:
        return FallbackVerdict("serve")
    if rule.on_fallback == "fail":
        return FallbackVerdict("refuse", problem)
    return FallbackVerdict("warn" if rule.on_fallback == "warn" else "serve", problem)
