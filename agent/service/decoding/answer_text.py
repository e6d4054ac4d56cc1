"""Answer text: what of a text counts as its answer, so that two samples can be said to agree.

Whatever may change the meaning stays: signs, operators, units, marks on letters, powers. Only what cannot goes.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

from agent.evaluation.questions.extraction import MAX_TEXT, answering
from agent.evaluation.questions.labels import choice_in
from agent.evaluation.questions.numerals import plain
from agent.schema.text import AnswerKind
from agent.service.decoding.answer_units import with_unit

MAX_ANSWER = 2000
"""Characters of an answer that are kept as they are; a longer one is told apart by a hash of all of it."""
MAX_WRAPPINGS = 4
"""Pairs of quotes or of emphasis that are taken off, one in another."""
_TOLD_APART = ("<super>", "<sub>", "<fraction>")
"""Compatible characters that mean another thing: 10² is not 102."""
_QUOTES = ('""', "''", "``", "“”", "‘’", "«»", "„“", "**", "__")
_END = re.compile(r"(?:(?<=\w)[.,;:…]+|(?<=[^\W\d_]{2})[.,;:!?…]+|(?<=[%)\]])[.,;:]+|^[.,;:!?…\s]+)$")


def answer_in(text: str, kind: AnswerKind, choices: Sequence[str] = ()) -> str | None:
    """The canonical answer in a text; None where there is none.

    number: the last one (or the marked or boxed one), exactly, in its dimension's own unit. choice: the label that is
    named. code: every character but white space at the ends of lines and of the text. text: all but case, white space
    and the punctuation around it, in Unicode's NFKC.
    """
    if kind == "number":
        made = plain(text[-MAX_TEXT:])
        found = answering(made)
        return None if found is None else with_unit(made, found)
    if kind == "choice":
        return choice_in(text[-MAX_TEXT:], choices)
    if kind == "code":
        return _bounded("\n".join(line.rstrip() for line in text.splitlines()).strip("\n"))
    return _bounded(_normal(text))


def _normal(text: str) -> str:
    text = _compatible(_compatible(text).casefold())
    text = " ".join(text.split())
    for _ in range(MAX_WRAPPINGS):
        bare = _END.sub("", text).strip()
        for pair in _QUOTES:
            if len(bare) > 2 and bare[0] == pair[0] and bare[-1] == pair[1]:
                bare = bare[1:-1].strip()
        if bare == text:
            break
        text = bare
    return text


def _compatible(text: str) -> str:
    if text.isascii():
        return text
    made = (c if unicodedata.decomposition(c).startswith(_TOLD_APART) else unicodedata.normalize("NFKC", c)
            for c in text)  # fmt: skip
    return unicodedata.normalize("NFC", "".join(made))


def _bounded(text: str) -> str | None:
    if len(text) <= MAX_ANSWER:
        return text or None
    told = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
    return f"{text[:MAX_ANSWER]}… ({len(text)} characters, {told})"
