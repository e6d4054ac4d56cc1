"""Question: what is asked, and the answer that counts as right."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Literal

from agent.records import record

Kind = Literal["number", "choice"]
Ask = Literal["steps", "direct"]
"""How a number is asked for: with the way to it, as GSM8K is, or alone, which small models answer more often."""


@record(frozen=True)
class Question:
    """`truth` is canonical: a number without separators and trailing zeros, or the label of a choice."""

    id: str
    kind: Kind
    text: str
    truth: str
    choices: tuple[tuple[str, str], ...] = ()
    """Label and text of each, for `choice`."""

    def prompt(self, ask: Ask = "steps") -> str:
        """The text that a model is given."""
        if self.kind == "number" and ask == "direct":
            return f"{self.text} Answer with a number."
        if self.kind == "number":
            return f"{self.text}\nThink step by step, then give the final number after ####."
        options = "\n".join(f"{label}. {text}" for label, text in self.choices)
        return f"{self.text}\n{options}\nAnswer with the letter of the right choice, as in: The answer is A."


@record(frozen=True)
class Skipped:
    """A line that holds no question, and why."""

    line: int
    reason: str


@record(frozen=True)
class Questions:
    """All questions of a file in its order, and the lines that were left out."""

    name: str
    questions: tuple[Question, ...]
    skipped: tuple[Skipped, ...] = ()

    def digest(self) -> str:
        """SHA-256 of all that is asked and what counts as right, in hexadecimal; the name is no part of it."""
        told = json.dumps([asdict(question) for question in self.questions], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()
