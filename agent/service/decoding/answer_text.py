"""Answer text: what of a text counts as its answer, so that two samples can be said to agree."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agent.evaluation.questions.extraction import MAX_TEXT, choice_in, number_in
from agent.schema.text import AnswerKind

_NOISE = re.compile(r"[\W_]+")
MAX_ANSWER = 2000
"""Characters of a text that are compared as an answer."""


def answer_in(text: str, kind: AnswerKind, choices: Sequence[str] = ()) -> str | None:
    """The canonical answer in a text; None where there is none."""
    text = text[-MAX_TEXT:]
    if kind == "number":
        return number_in(text)
    if kind == "choice":
        return choice_in(text, choices)
    return _NOISE.sub(" ", text.casefold()).strip()[:MAX_ANSWER] or None
