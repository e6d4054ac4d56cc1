"""Extraction: the answer in a text that a model wrote, as the data sets' own harnesses take it.

GSM8K: the number after the first ####, where its authors' script looks too (github.com/openai/grade-school-math);
unlike there it is read as a number: 1/2 is a half, 1e6 a million, 5.0 is 5. Failing that the number in the last
\\boxed{}, then the last number, in the manner of lm-evaluation-harness's flexible-extract. Multiple choice: `labels`.
"""

from __future__ import annotations

import re

from agent.evaluation.questions.labels import choice_in
from agent.evaluation.questions.numerals import Numeral, numerals, plain
from agent.evaluation.questions.question import Question

MARK = re.compile(r"####[\s*:]*")
BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
MAX_BOXES = 8
"""Boxes that are looked into for a number, the last ones."""
MAX_TEXT = 100_000
"""Characters of a sample that are looked at, the last ones."""


def extract(question: Question, text: str) -> str | None:
    """The canonical answer in `text`; None where there is none."""
    if question.kind == "number":
        return number_in(text)
    return choice_in(text[-MAX_TEXT:], [label for label, _ in question.choices])


def number_in(text: str) -> str | None:
    """The number that `answering` finds, canonical and without a unit."""
    found = answering(plain(text[-MAX_TEXT:]))
    return None if found is None else found.canonical


def answering(text: str) -> Numeral | None:
    """The number that a `plain` text answers with: after the first ####, else boxed, else the last one."""
    every = list(numerals(text))
    marked = _marked(text, every)
    if marked is not None:
        return marked
    for box in reversed(list(BOXED.finditer(text))[-MAX_BOXES:]):
        inside = [found for found in every if box.start(1) <= found.start and found.end <= box.end(1)]
        if inside:
            return inside[-1]
    return every[-1] if every else None


def marked(text: str) -> str | None:
    """The number after the first #### that one follows; None where there is none."""
    made = plain(text)
    found = _marked(made, list(numerals(made)))
    return None if found is None else found.canonical


def numbers(text: str) -> list[str]:
    """All numbers of a text, canonical."""
    return [found.canonical for found in numerals(plain(text))]


def canonical_number(text: str) -> str | None:
    """42 for "42.0", "$42" and "0042"; None where it is not one number and nothing else."""
    made = plain(text.strip().rstrip("."))
    found = next(numerals(made), None)
    return None if found is None or (found.start, found.end) != (0, len(made)) else found.canonical


def _marked(text: str, every: list[Numeral]) -> Numeral | None:
    ends = {mark.end() for mark in MARK.finditer(text)}
    return next((found for found in every if found.start in ends), None) if ends else None
