"""Verdict: what the guard's findings add up to. Every detector speaks in findings; the gravest one decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from agent.records import record
from agent.schema.guard import Reaction

Action = Literal["allow", "flag", "reject", "quarantine"]
_GRAVITY: tuple[Action, ...] = ("allow", "flag", "reject", "quarantine")


@record(frozen=True)
class Finding:
    """One thing that looks wrong: its kind, what is to happen, one sentence, and a number where there is one."""

    kind: str
    reaction: Reaction
    sentence: str
    score: float | None = None


@record(frozen=True)
class GuardVerdict:
    """What happens to the input, and why."""

    action: Action
    findings: tuple[Finding, ...] = ()

    @property
    def sentence(self) -> str:
        """The gravest finding's sentence; empty where there is none."""
        return self.findings[0].sentence if self.findings else ""


def weigh(findings: Sequence[Finding]) -> GuardVerdict:
    """The verdict, findings sorted gravest first; those switched off do not count."""
    counted = [f for f in findings if f.reaction != "ignore"]
    ranked = sorted(counted, key=lambda f: -_GRAVITY.index(_action(f)))
    return GuardVerdict(_action(ranked[0]) if ranked else "allow", tuple(ranked))


def _action(finding: Finding) -> Action:
    return "allow" if finding.reaction == "ignore" else finding.reaction
