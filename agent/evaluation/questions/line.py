"""Line: what a line of samples.jsonl, checks.jsonl or passages.jsonl must hold, and what is wrong with another.

A recording may come from elsewhere or be damaged; figures made of it are as good as its lines.
"""

from __future__ import annotations

import re
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agent.evaluation.questions.endpoint import Drawn
from agent.sampling.cascade import Outcome
from agent.schema.snapshot import EnergyProvenance

MAX_QUESTIONS = 1_000_000
MAX_SEED = 2**31 - 1


class _Line(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class _Sample(_Line):
    text: str
    tokens: int = Field(ge=0)
    seconds: float = Field(ge=0)
    joules: float | None = Field(ge=0)
    provenance: EnergyProvenance
    mean_logprob: float | None


class Batch(_Line):
    """Samples of one question that were drawn together."""

    question: str
    greedy: bool
    samples: list[_Sample] = Field(min_length=1)

    def drawn(self) -> list[Drawn]:
        """The samples as they were given."""
        return [Drawn(s.text, s.tokens, s.seconds, s.joules, s.provenance, s.mean_logprob) for s in self.samples]


class _Answer(_Line):
    text: str | None
    samples: int = Field(ge=0)
    tokens: int = Field(ge=0)
    seconds: float = Field(ge=0)
    joules: float | None = Field(ge=0)
    provenance: EnergyProvenance
    reason: str
    certified: bool


class Answered(_Line):
    """What a strategy answered a question live."""

    strategy: str
    question: str
    answer: _Answer


class Checked(_Line):
    """The verdict of one check on one answer."""

    question: str
    answer: str
    check: str
    outcome: Outcome
    joules: float | None = Field(ge=0)
    provenance: Literal["measured", "modelled", "unknown", "stated"]


class Passage(_Line):
    """What a passage of a text scored."""

    passage: int = Field(ge=0)
    nats: float
    tokens: int = Field(ge=0)
    impossible: int = Field(ge=0)


class _Run(_Line):
    """What a run is of. Older runs lack keys, later ones may have more."""

    model_config = ConfigDict(extra="allow")

    dataset: str
    model: str
    questions: int | None = Field(default=None, ge=1, le=MAX_QUESTIONS)
    seed: int | None = Field(default=None, ge=0, le=MAX_SEED)


class _RunHeader(_Line):
    header: _Run


class _AnyHeader(_Line):
    header: dict[str, Any]


Read = TypeVar("Read", bound=BaseModel)


def parsed(line: bytes, kind: type[Read]) -> Read:
    """The line. Raises ValueError with the key and what is wrong with it."""
    try:
        return kind.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        message = re.sub(r" at line \d+ column", " at column", first["msg"])
        message = message[:1].lower() + message[1:]
        raise ValueError(f"{key}: {message}" if key else message) from error


def run_header(line: bytes) -> dict[str, Any]:
    """The header of samples.jsonl, every key of it. Raises ValueError as `parsed` does."""
    return parsed(line, _RunHeader).header.model_dump(exclude_unset=True)


def header(line: bytes) -> dict[str, Any]:
    """The header of checks.jsonl. Raises ValueError as `parsed` does."""
    return parsed(line, _AnyHeader).header
