"""Commands: what a signed command says, which there are, what each takes and what becomes of it at a power cut."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, Literal

from pydantic import Field, model_validator

from agent.records import record
from agent.schema.base import FileModel, Name

MAX_LIFETIME_S = 7 * 86_400
"""Longest time between a command's issue and its expiry: how long ids must be remembered."""

CommandState = Literal["accepted", "running", "ok", "failed", "rejected", "expired"]
FINAL: frozenset[CommandState] = frozenset({"ok", "failed", "rejected", "expired"})


class Command(FileModel):
    """A command for one board, as signed."""

    v: Literal[1]
    kind: Literal["command"]
    id: str = Field(pattern=r"^[0-9A-Za-z_-]{8,64}$", description="never used again; a repeat returns the first result")
    tenant: Name
    board: Name = Field(description="the only board that runs it")
    command: Name
    args: dict[str, Any] = Field(default_factory=dict)
    iat: float = Field(gt=0, description="issued at, seconds since 1970")
    exp: float = Field(gt=0, description="not begun later than this, seconds since 1970")
    by: str | None = Field(default=None, max_length=120, description="who asked, for the record")

    @model_validator(mode="after")
    def _lives_a_while(self) -> Command:
        if not 0 < self.exp - self.iat <= MAX_LIFETIME_S:
            raise ValueError(f"exp must lie after iat, by at most {MAX_LIFETIME_S} s")
        return self


class NoArgs(FileModel):
    """Nothing to say."""


class CalibrateArgs(FileModel):
    """What to measure."""

    quick: bool = True
    under_load: bool = Field(default=False, description="measure although requests are served, and so less well")


class DrainArgs(FileModel):
    """Take no more requests, or take them again."""

    on: bool = True
    wait_s: float = Field(default=30.0, ge=0, le=600, description="for requests in flight")


class RestartLaneArgs(FileModel):
    """Which lane."""

    accelerator: Name


class LogLevelArgs(FileModel):
    """Until the next start, or the next desired state that names one."""

    level: Literal["debug", "info", "warning", "error"]


class ModelArgs(FileModel):
    """A model of the settings or the store."""

    name: Name


class EvaluateArgs(FileModel):
    """How long to look at what the board serves."""

    window_s: float = Field(default=30.0, gt=0, le=3600, description="of the board's own requests; none are made")


@record(frozen=True)
class CommandKind:
    """One kind of command."""

    args: type[FileModel]
    limit_s: float
    """Longest time it may take."""
    repeatable: bool
    """Begun and cut off by a power cut, it is begun once more; the others end as `interrupted`."""
    supported: bool = True


KINDS: dict[str, CommandKind] = {
    "reload": CommandKind(NoArgs, 300.0, repeatable=True),
    "plan": CommandKind(NoArgs, 300.0, repeatable=True),
    "calibrate": CommandKind(CalibrateArgs, 1800.0, repeatable=False),
    "drain": CommandKind(DrainArgs, 660.0, repeatable=False),
    "restart-lane": CommandKind(RestartLaneArgs, 120.0, repeatable=False),
    "collect-diag": CommandKind(NoArgs, 60.0, repeatable=True),
    "set-log-level": CommandKind(LogLevelArgs, 5.0, repeatable=True),
    "model-add": CommandKind(ModelArgs, 300.0, repeatable=True),
    "model-remove": CommandKind(ModelArgs, 60.0, repeatable=True),
    "evaluate": CommandKind(EvaluateArgs, 3660.0, repeatable=True),
}


def unknown(name: str) -> str | None:
    """Why no board runs a command of that name, with the one that is meant; None where there is one."""
    if name in KINDS:
        return None
    near = get_close_matches(name, KINDS, 1)
    hint = f" (did you mean {near[0]}?)" if near else f"; known: {', '.join(KINDS)}"
    return f"there is no command {name!r}{hint}"
