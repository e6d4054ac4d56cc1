"""Desired state: what the fleet wants of one board for as long as nothing newer is wanted. Whole, never a patch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from agent.schema.base import FileModel, Name
from agent.schema.policy import Policy

MAX_VER = 2**53 - 1
"""Exact in every JSON reader."""


class Desired(FileModel):
    """As signed. A key that is left out leaves that matter to the board's own files."""

    v: Literal[1]
    kind: Literal["desired"]
    tenant: Name
    board: Name = Field(description="the only board that follows it")
    ver: int = Field(ge=1, le=MAX_VER, description="goes up with every change; an older one is never followed again")
    iat: float = Field(gt=0, description="issued at, seconds since 1970")
    by: str | None = Field(default=None, max_length=120, description="who wants it, for the record")
    policy: Name | None = Field(default=None, description="name of a policy that the board has")
    inline_policy: Policy | None = Field(default=None, description="the policy itself")
    models: tuple[Name, ...] | None = Field(
        default=None, max_length=256, description="of the board's settings and store, exactly these are served"
    )
    log_level: Literal["debug", "info", "warning", "error"] | None = None
    window_s: float | None = Field(default=None, gt=0, le=3600, description="telemetry window, over the policy's")

    @model_validator(mode="after")
    def _one_policy(self) -> Desired:
        if self.policy is not None and self.inline_policy is not None:
            raise ValueError("policy and inline_policy exclude each other")
        if self.models is not None and len(set(self.models)) < len(self.models):
            twice = next(m for m in self.models if self.models.count(m) > 1)
            raise ValueError(f"models: the name {twice!r} is used twice")
        return self
