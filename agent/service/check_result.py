"""Check result: what one look of the doctor found."""

from __future__ import annotations

from typing import Literal

from agent.records import record


@record(frozen=True)
class CheckResult:
    """One row. `mend` is empty where nothing is to be done."""

    check: str
    result: Literal["ok", "warn", "fail"]
    message: str
    mend: str = ""


def ok(check: str, message: str) -> CheckResult:
    """As it should be."""
    return CheckResult(check, "ok", message)


def warn(check: str, message: str, mend: str) -> CheckResult:
    """The agent runs, with less."""
    return CheckResult(check, "warn", message, mend)


def fail(check: str, message: str, mend: str) -> CheckResult:
    """The agent, or something the settings ask for, does not work."""
    return CheckResult(check, "fail", message, mend)
