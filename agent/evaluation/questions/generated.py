"""Generated questions whose answers are known by construction, in the formats of GSM8K and ARC, the same for a seed."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any, Literal

Task = Literal["arithmetic", "logic", "choice", "sums", "additions"]
TASKS: tuple[Task, ...] = ("arithmetic", "logic", "choice", "sums", "additions")
LARGEST_ADDEND = 20

_THINGS = ("apples", "boxes", "coins", "cards", "eggs", "books", "stones", "tickets")
_PLACES = ("basket", "shop", "crate", "drawer", "garden", "bus")
_NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gil", "Hana")
_LETTERS = "ABCD"


def lines(task: Task, count: int, seed: int = 0) -> list[str]:
    """JSON lines of `count` questions. Raises ValueError for an unknown task or a count below 1.

    All additions differ, so there are no more than 400 of them; beyond that, ValueError.
    """
    if task not in TASKS or count < 1:
        raise ValueError(f"expected one of {', '.join(TASKS)} and a count of at least 1, got {task!r} and {count}")
    rng = Random(f"{task}-{seed}")  # noqa: S311  (questions, not secrets)
    if task == "additions":
        return [_line(task, seed, i, question) for i, question in enumerate(_additions(rng, count))]
    make: dict[str, Callable[[Random], dict[str, Any]]] = {
        "arithmetic": _arithmetic, "logic": _order, "choice": _largest, "sums": _sum,
    }  # fmt: skip
    return [_line(task, seed, i, make[task](rng)) for i in range(count)]


def _line(task: Task, seed: int, index: int, question: dict[str, Any]) -> str:
    return json.dumps({"id": f"{task}-{seed}-{index}", **question}, ensure_ascii=False)


def _arithmetic(rng: Random) -> dict[str, Any]:
    """One to three steps of adding, taking away and multiplying, as in GSM8K, small enough for small models."""
    thing, place, name = rng.choice(_THINGS), rng.choice(_PLACES), rng.choice(_NAMES)
    total = rng.randint(2, 20)
    text, work = f"There are {total} {thing} in the {place}.", ""
    for _ in range(rng.randint(1, 3)):
        kind, amount = rng.choice(("add", "take", "times")), rng.randint(2, 9)
        if kind == "take" and amount < total:
            text += f" {name} takes {amount} of them away."
            work += f"{total}-{amount}=<<{total}-{amount}={total - amount}>>{total - amount}\n"
            total -= amount
        elif kind == "times" and total * amount <= 100:
            text += f" Then there are {amount} times as many."
            work += f"{total}*{amount}=<<{total}*{amount}={total * amount}>>{total * amount}\n"
            total *= amount
        else:
            text += f" {name} adds {amount} more."
            work += f"{total}+{amount}=<<{total}+{amount}={total + amount}>>{total + amount}\n"
            total += amount
    return {"question": f"{text} How many {thing} are in the {place} now?", "answer": f"{work}#### {total}"}


def _order(rng: Random) -> dict[str, Any]:
    """Who is tallest, from a chain of comparisons in any order: exactly one answer follows."""
    names = rng.sample(_NAMES, 4)
    facts = [f"{a} is taller than {b}." for a, b in pairwise(names)]
    rng.shuffle(facts)
    asked, right = rng.choice((("tallest", names[0]), ("shortest", names[-1])))
    return _choices(rng, f"{' '.join(facts)} Who is the {asked}?", right, [n for n in names if n != right])


def _largest(rng: Random) -> dict[str, Any]:
    """Which of four numbers is the largest or smallest."""
    numbers = rng.sample(range(10, 1000), 4)
    asked, right = rng.choice((("largest", max(numbers)), ("smallest", min(numbers))))
    others = [str(n) for n in numbers if n != right]
    return _choices(rng, f"Which of these numbers is the {asked}?", str(right), others)


def _sum(rng: Random) -> dict[str, Any]:
    """One addition of two small numbers, which models of a hundred million parameters know in part."""
    return _addition(rng.randint(2, 12), rng.randint(2, 12))


def _additions(rng: Random, count: int) -> list[dict[str, Any]]:
    """Additions of two numbers of 1 to 20, every one once."""
    pairs = [(one, other) for one in range(1, LARGEST_ADDEND + 1) for other in range(1, LARGEST_ADDEND + 1)]
    if count > len(pairs):
        raise ValueError(f"there are {len(pairs)} different additions, {count} were asked for")
    return [_addition(one, other) for one, other in rng.sample(pairs, count)]


def _addition(one: int, other: int) -> dict[str, Any]:
    return {"question": f"What is {one} + {other}?", "answer": f"#### {one + other}"}


def _choices(rng: Random, text: str, right: str, others: list[str]) -> dict[str, Any]:
    options = [right, *others]
    rng.shuffle(options)
    return {
        "question": {
            "stem": text,
            "choices": [{"label": label, "text": o} for label, o in zip(_LETTERS, options, strict=True)],
        },
        "answerKey": _LETTERS[options.index(right)],
    }
