"""Labels: which of the labels to choose from a text names as its answer; one it only says to be wrong is not it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

_LEAD = (
    r"(?:\b(?:answer|choice|option|solution|one)(?:\s+is\b|\s+was\b|\s*[:=]|(?=\s*\(?\b(?:{all})\b))"
    r"|\b(?:it\s+is|it's|i\s+(?:would\s+)?(?:choose|pick|select|say|think)|go(?:ing)?\s+with|must\s+be|therefore|so))"
)
_WORDS = r"(?:\s+(?:the|indeed|clearly|definitely|probably|option|choice|letter|answer|label|number|it\s+is))*"
_OPEN = r"[\s:\-–=*_`\"'(\[]*(?:\\boxed\{)?(?:\\text\{)?"
_WRONG = (
    r"(?![\s*_`\"')\].]*\b(?:is|was|are|would\s+be|seems)?\s*(?:n't|not|wrong|false|incorrect|eliminated|out\b|no\b))"
)
_NOT = re.compile(r"(?:\bnot|n't|\bnever|\bneither|\bnor|\bexcept|\brather\s+than|\binstead\s+of)[\s*_`\"'(\[]*"
                  r"(?:(?:the|option|choice|answer|letter|be)\s+)*\(?$", re.IGNORECASE)  # fmt: skip
_ENDED = re.compile(r"[\s*_`\"']*(?:$|[\n.,;:!)\]}*])")
_STANDS = re.compile(r"[*_`\"'\]]*(?:[).:,;!}*]|[^\S\n]*(?:$|\n))")
_BOXED = re.compile(r"\\boxed\{(?:\\text\{)?\s*\(?([^{}()\n]{1,200}?)\)?\s*\}")
_WORDLIKE = frozenset({"a", "i"})
_BEFORE_NOT = 40


def choice_in(text: str, labels: Sequence[str]) -> str | None:
    """The label that the text boxes or names as the answer last, else the first that stands alone; None for none.

    A label of several letters also counts where it is the only one in the text. "not A" and "A is wrong" name nothing,
    and neither does a text in which every label stands alone, as in a list of the choices.
    """
    known, exact = _known(labels)
    if not known:
        return None
    said = _said(text, known, exact)
    return said[-1] if said else _alone(text, known, exact)


def named_in(text: str, labels: Sequence[str]) -> set[str]:
    """All labels that the text boxes or names as the answer."""
    known, exact = _known(labels)
    return set(_said(text, known, exact)) if known else set()


def _known(labels: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The labels by their letters in any case, and by their letters as they are."""
    written = {label.strip(): label for label in labels if label.strip()}
    return {label.casefold(): meant for label, meant in written.items()}, written


def _said(text: str, known: dict[str, str], exact: dict[str, str]) -> list[str]:
    boxed = [known[found.casefold()] for found in _BOXED.findall(text) if found.casefold() in known]
    if boxed:
        return boxed
    named_pattern, any_pattern = _patterns(_longest_first(known))
    named = [found for found in named_pattern.finditer(text) if _meant(text, found, exact)]
    said = named or [found for found in any_pattern.finditer(text) if _is_right(text, found)]
    return [_label(found["label"], exact, known) for found in said]


def _alone(text: str, known: dict[str, str], exact: dict[str, str]) -> str | None:
    alone, there = [], []
    for found in _patterns(_longest_first(known))[1].finditer(text):
        if _denied(text, found):
            continue
        label = _label(found["label"], exact, known)
        there.append(label)
        written = found["label"] in exact or len(found["label"]) > 1
        if written and _STANDS.match(text, found.end()):
            alone.append(label)
    if alone and (len(set(alone)) < len(known) or len(known) == 1 or len(alone) == 1):
        return alone[0]
    words = {label for label in there if len(label.strip()) > 1}
    return words.pop() if len(words) == 1 and not alone else None


def _longest_first(known: dict[str, str]) -> tuple[str, ...]:
    return tuple(sorted(known, key=lambda label: (-len(label), label)))


@lru_cache(maxsize=64)
def _patterns(labels: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    every = "|".join(map(re.escape, labels))
    label = rf"(?<!\w)(?P<label>{every})(?![\w'’])"
    lead = _LEAD.replace("{all}", every)
    return (
        re.compile(rf"{lead}{_WORDS}{_OPEN}{label}{_WRONG}", re.IGNORECASE),
        re.compile(rf"{label}{_WRONG}", re.IGNORECASE),
    )


def _meant(text: str, found: re.Match[str], exact: dict[str, str]) -> bool:
    """Whether it is the label and not a word of the sentence, as in "the answer is a bit tricky"."""
    written = found["label"]
    if written in exact and written not in _WORDLIKE and written != "I":
        return True
    return _ENDED.match(text, found.end()) is not None


_RIGHT = re.compile(r"[\s*_`\"')\]]*\bis\s+(?:the\s+)?(?:right|correct|best|true|answer)\b", re.IGNORECASE)


def _is_right(text: str, found: re.Match[str]) -> bool:
    return _RIGHT.match(text, found.end()) is not None and not _denied(text, found)


def _denied(text: str, found: re.Match[str]) -> bool:
    return _NOT.search(text[max(0, found.start() - _BEFORE_NOT) : found.start()]) is not None


def _label(written: str, exact: dict[str, str], known: dict[str, str]) -> str:
    return exact.get(written) or known[written.casefold()]
