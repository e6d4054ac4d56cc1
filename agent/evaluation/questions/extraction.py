"""Extraction: the answer in a text that a model wrote, as the data sets' own harnesses take it.

GSM8K: the number after ####, as its authors' script does (github.com/openai/grade-school-math); failing that the last
number, as lm-evaluation-harness's flexible-extract does. Multiple choice: the letter named as the answer, failing that
a letter that stands alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from agent.evaluation.questions.question import Question

MARK = re.compile(r"####\s*\$?(-?[0-9][0-9,]*\.?[0-9]*)")
NUMBER = re.compile(r"-?\$?[0-9][0-9,]*(?:\.[0-9]+)?")
NAMED = re.compile(r"answer\s*(?:is|:)?\s*[:\-]?\s*\**\(?([A-Za-z0-9])\)?(?![A-Za-z0-9])", re.IGNORECASE)
ALONE = re.compile(r"(?<![A-Za-z0-9'])\(?([A-Z0-9])(?:[).:]|$)", re.MULTILINE)
MAX_TEXT = 100_000
"""Characters of a sample that are looked at, the last ones."""


def extract(question: Question, text: str) -> str | None:
    """The canonical answer in `text`; None where there is none."""
    text = text[-MAX_TEXT:]
    if question.kind == "number":
        return number_in(text)
    return choice_in(text, [label for label, _ in question.choices])


def number_in(text: str) -> str | None:
    """The number after the last ####, else the last number."""
    marked = MARK.findall(text)
    found = marked or NUMBER.findall(text)
    return canonical_number(found[-1]) if found else None


def canonical_number(text: str) -> str | None:
    """42 for "42.0", "$42" and "0042"; None where it is no number."""
    try:
        value = Decimal(text.replace(",", "").replace("$", "").rstrip("."))
    except InvalidOperation:
        return None
    if not value.is_finite() or abs(value.adjusted()) > 30:
        return None
    plain = format(value.normalize(), "f")
    return "0" if plain == "-0" else plain


def choice_in(text: str, labels: Sequence[str]) -> str | None:
    """The label that the text names as the answer last, else the first that stands alone; None where none does."""
    known = {label.upper(): label for label in labels}
    named = [known[m.upper()] for m in NAMED.findall(text) if m.upper() in known]
    if named:
        return named[-1]
    alone = [known[m] for m in ALONE.findall(text.strip()) if m in known]
    return alone[0] if alone else None
