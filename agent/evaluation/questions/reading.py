"""Reading: questions from the official files of GSM8K and ARC, a line each; a broken line is skipped and named."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agent.errors import BadInput
from agent.evaluation.questions.extraction import marked
from agent.evaluation.questions.question import Question, Questions, Skipped

MAX_FILE_BYTES = 256 * 2**20
MAX_CHOICES = 26
MAX_REASON = 200
"""Characters of what is said of a line that is skipped."""


def read(path: Path, limit: int | None = None) -> Questions:
    """The first `limit` questions of a GSM8K or ARC file (JSON lines); which of them it is follows from its keys.

    Raises:
        BadInput: the file cannot be read, is too large, or no line of it is a question.
    """
    found = parsed(path.stem, text_of(path).split("\n"), limit)
    if not found.questions:
        first = f"; line {found.skipped[0].line}: {found.skipped[0].reason}" if found.skipped else ": it is empty"
        raise BadInput(f"{path}: no line is a question of GSM8K or ARC{first}")
    return found


def parsed(name: str, lines: Sequence[str], limit: int | None = None) -> Questions:
    """The first `limit` questions of JSON lines, and the lines that are none."""
    questions: list[Question] = []
    skipped: list[Skipped] = []
    seen: set[str] = set()
    for number, line in enumerate(lines, start=1):
        if limit is not None and len(questions) >= limit:
            break
        if not line.strip():
            continue
        try:
            question = _question(json.loads(line), number)
            if any("\ud800" <= char <= "\udfff" for char in _all_text(question)):
                raise ValueError("half a character (a surrogate) is no text")
            if question.id in seen:
                raise ValueError(f"the id {question.id!r} was there before")
        except (ValueError, RecursionError) as error:
            reason = str(error).split("\n")[0][:MAX_REASON]
            skipped.append(Skipped(number, reason.encode("utf-8", "backslashreplace").decode()))
            continue
        seen.add(question.id)
        questions.append(question)
    return Questions(name, tuple(questions), tuple(skipped))


def text_of(path: Path) -> str:
    """The whole file. Raises BadInput where it cannot be read or is too large."""
    try:
        if not path.is_file():
            raise BadInput(f"{path}: there is no such file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise BadInput(f"{path}: larger than {MAX_FILE_BYTES // 2**20} MiB")
        return path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror or error}") from error


def _question(data: Any, line: int) -> Question:
    if not isinstance(data, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004  (a broken line, whatever is in it)
    if "answerKey" in data:
        return _arc(data)
    if "answer" in data:
        return _gsm8k(data, line)
    raise ValueError("neither answer (GSM8K) nor answerKey (ARC)")


def _gsm8k(data: dict[str, Any], line: int) -> Question:
    text, solution = _string(data, "question"), _string(data, "answer")
    truth = marked(solution)
    if truth is None:
        raise ValueError("answer has no number after ####")
    name = data.get("id")
    if name is not None and (isinstance(name, bool) or not isinstance(name, str | int)):
        raise ValueError("id must be a text or a whole number")
    return Question(f"line-{line}" if name is None else str(name), "number", text, truth)


def _arc(data: dict[str, Any]) -> Question:
    """Both layouts there are: the authors' (question.stem, question.choices) and the table's (choices.text/label)."""
    inner = data.get("question")
    if isinstance(inner, dict):
        text, pairs = _string(inner, "stem"), _pairs(inner.get("choices"), lambda c: (c["label"], c["text"]))
    else:
        text, choices = _string(data, "question"), data.get("choices")
        labels, texts = (choices.get("label"), choices.get("text")) if isinstance(choices, dict) else (None, None)
        if not isinstance(labels, list) or not isinstance(texts, list) or len(labels) != len(texts):
            raise ValueError("choices must hold as many labels as texts, as lists")
        pairs = _pairs(list(zip(labels, texts, strict=True)), lambda c: (c[0], c[1]))
    truth = _string(data, "answerKey")
    if truth not in {label for label, _ in pairs}:
        raise ValueError(f"answerKey {truth!r} is none of the choices")
    return Question(_string(data, "id"), "choice", text, truth, pairs)


def _pairs(choices: Any, split: Callable[[Any], tuple[Any, Any]]) -> tuple[tuple[str, str], ...]:
    if not isinstance(choices, list) or not 2 <= len(choices) <= MAX_CHOICES:
        raise ValueError(f"choices must be 2 to {MAX_CHOICES}")
    try:
        pairs = tuple(split(choice) for choice in choices)
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError("every choice needs a label and a text") from error
    if not all(isinstance(part, str) and part.strip() for pair in pairs for part in pair):
        raise ValueError("every choice needs a label and a text, which are texts")
    if len({label for label, _ in pairs}) < len(pairs):
        raise ValueError("two choices have the same label")
    return pairs


def _all_text(question: Question) -> str:
    return "".join((question.id, question.text, question.truth, *(part for pair in question.choices for part in pair)))


def _string(data: dict[str, Any], key: str) -> str:
    value = data.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} must be a text that is not empty")
    return value
