"""Bundle: a signed offer of files – policies, device profiles, models, probes – and how long they are on trial."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from agent.schema.base import FileModel, Name
from agent.schema.desired import MAX_VER

MAX_BUNDLE_BYTES = 2 * 1024**3
MAX_LIFETIME_S = 366 * 86_400
MAX_CHUNK_BYTES = 256 * 1024

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Trial(FileModel):
    """How a bundle proves itself on the board, against windows from before it."""

    windows: int = Field(
        default=32, ge=1, le=1000, description="windows with requests that make a trial; 32 find +20 %"
    )
    window_s: float = Field(default=10.0, gt=0, le=3600)
    limit_s: float = Field(default=3600.0, gt=0, le=7 * 86_400, description="longest trial, with or without requests")
    min_requests: int = Field(default=5, ge=1, le=100_000, description="per window and model; fewer say nothing")
    max_worse: float = Field(
        default=0.05, ge=0, lt=0.2, description="accepted rise of joules per inference, as a share"
    )
    max_slower: float = Field(default=0.1, ge=0, lt=0.2, description="accepted rise of the mean latency, as a share")
    max_failures: float = Field(default=0.01, ge=0, lt=0.2, description="accepted rise of the share of failed requests")
    max_hotter_c: float = Field(default=5.0, ge=0, lt=20, description="accepted rise of an accelerator's temperature")
    risk: float = Field(default=0.01, gt=0, lt=0.5, description="chance that a bundle that is no worse is reverted")
    max_starts: int = Field(default=2, ge=0, le=20, description="starts of the agent within the trial; more revert it")


class Offer(FileModel):
    """As signed. It covers the archive by its digest, so nothing else has to be trusted."""

    v: Literal[1]
    kind: Literal["bundle"]
    tenant: Name
    boards: tuple[Name, ...] | None = Field(
        default=None, max_length=4096, description="null: every board of the tenant"
    )
    profiles: tuple[str, ...] | None = Field(default=None, max_length=64, description="only boards with one of these")
    name: Name
    ver: int = Field(ge=1, le=MAX_VER, description="goes up with every bundle, whatever its name")
    sha256: Sha256 = Field(description="of the archive")
    bytes: int = Field(ge=1, le=MAX_BUNDLE_BYTES, description="of the archive")
    iat: float = Field(gt=0, description="issued at, seconds since 1970")
    exp: float = Field(gt=0, description="not begun later than this, seconds since 1970")
    by: str | None = Field(default=None, max_length=120, description="who offers it, for the record")
    min_agent: str | None = Field(
        default=None, pattern=r"^[0-9]{1,9}\.[0-9]{1,9}\.[0-9]{1,9}$", description="oldest agent for it"
    )
    policy: Name | None = Field(default=None, description="name of the policy in it that comes into force")
    profile: Name | None = Field(
        default=None, description="name of the device profile in it whose figures come into force"
    )
    models: tuple[Name, ...] = Field(default=(), max_length=256, description="models in it that are served")
    url: str | None = Field(default=None, max_length=2048, pattern=r"^(https?|file)://")
    chunk_bytes: int | None = Field(
        default=None, ge=1024, le=MAX_CHUNK_BYTES, description="size of the pieces on _all/down/blob; null: none there"
    )
    not_before: float | None = Field(default=None, description="seconds since 1970; a board waits until then")
    trial: Trial = Trial()

    @model_validator(mode="after")
    def _makes_sense(self) -> Offer:
        if not 0 < self.exp - self.iat <= MAX_LIFETIME_S:
            raise ValueError(f"exp must lie after iat, by at most {MAX_LIFETIME_S} s")
        if self.url is None and self.chunk_bytes is None:
            raise ValueError("name a url, or chunk_bytes for an archive that comes over MQTT")
        if self.policy is None and self.profile is None and not self.models:
            raise ValueError("a bundle names the policy, the device profile or the models that it brings into force")
        return self
