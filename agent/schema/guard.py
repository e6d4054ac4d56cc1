"""Input guard of a policy: what happens to inputs and model files that look wrong. Part of the policy file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agent.schema.base import FileModel

Reaction = Literal["ignore", "flag", "reject", "quarantine"]
"""ignore: not looked at; flag: served, counted, told; reject: refused; quarantine: refused and kept for the owner."""


class TensorGuard(FileModel):
    """Tensors of infer requests, beyond name, datatype, shape and finite values, which are always checked."""

    max_elements: int = Field(default=268_435_456, ge=1, description="of all inputs of one request; 413 above it")
    rate_per_s: float | None = Field(default=None, gt=0, description="requests per second and model; null: no bound")
    learn_requests: int = Field(
        default=0, ge=0, le=1_000_000, description="learn each model's statistics from so many first requests"
    )
    out_of_range: Reaction = Field(default="flag", description="values outside the range that was learnt")
    out_of_distribution: Reaction = Field(default="flag", description="inputs unlike all that were learnt")
    distance_bound: float = Field(default=6.0, gt=0, description="distance in standard deviations called unlike")
    adversarial: Reaction = Field(default="ignore", description="squeezing changes the answer; costs two runs")
    adversarial_bound: float = Field(default=1.0, gt=0, le=2, description="change of the answer, 0 none to 2 all")


class TextGuard(FileModel):
    """Texts for language models."""

    max_characters: int = Field(default=200_000, ge=1, description="longer texts are refused")
    control: Reaction = Field(default="reject", description="control characters other than tab and line ends")
    bidi: Reaction = Field(default="reject", description="overrides that show text in another order than it is read")
    invisible: Reaction = Field(default="flag", description="characters nobody sees: zero-width, tags")
    homoglyph: Reaction = Field(default="flag", description="words mixed from look-alike letters of several scripts")
    flood: Reaction = Field(default="reject", description="one word or character repeated without end")
    max_repeats: int = Field(default=200, ge=2, description="of one word or character in a row")
    repetition: Reaction = Field(default="flag", description="long texts that repeat one pattern")
    absurd_suffix: Reaction = Field(
        default="ignore", description="ends absurd to the model itself; needs a restart, costs the reuse of prefixes"
    )
    absurd_suffix_nats: float = Field(
        default=8.0, gt=0, le=50, description="mean surprise of a dozen tokens, by the model that reads them"
    )


class ModelGuard(FileModel):
    """Model files, before any runtime opens them."""

    max_bytes: int = Field(default=2**33, ge=1, description="size of the file with its weights beside it")
    max_opset: int = Field(default=30, ge=1, description="newer operator sets are refused")
    digests: tuple[str, ...] = Field(default=(), description="sha256 of the files that may be served; empty: any")
    forbidden_operators: tuple[str, ...] = Field(default=(), description="operators that no model may contain")
    allowed_operators: tuple[str, ...] = Field(default=(), description="the only ones a model may contain; empty: any")
    custom_operators: Reaction = Field(default="reject", description="operators that need a library of their own")


class Guard(FileModel):
    """See module."""

    tensors: TensorGuard = TensorGuard()
    texts: TextGuard = TextGuard()
    models: ModelGuard = ModelGuard()
