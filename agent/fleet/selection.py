"""Selection: which boards, by their labels and facts. Pure.

`site=berlin,stage!=test,profile=jetson*,canary,!broken`: all of the parts must hold; a bare name asks whether the label
is there, `*` stands for any characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

from agent.errors import BadInput

MAX_PARTS = 32
_PART = re.compile(r"(!?)([a-z0-9][a-z0-9._-]{0,63})(?:(!?=)([^,]{0,128}))?")

Facts = Mapping[str, str]


def selection(text: str) -> Callable[[Facts], bool]:
    """A test for one board's facts. BadInput names the part that is none."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(parts) > MAX_PARTS:
        raise BadInput(f"a selection has at most {MAX_PARTS} parts")
    tests = [_test(part) for part in parts]
    return lambda facts: all(test(facts) for test in tests)


def _test(part: str) -> Callable[[Facts], bool]:
    found = _PART.fullmatch(part)
    if found is None or (found[1] and found[3]) or (found[4] or "").startswith("="):
        raise BadInput(f"{part!r} is no part of a selection; expected name, !name, name=value or name!=value")
    absent, name, operator, value = found.groups()
    if operator is None:
        return lambda facts: (name in facts) != bool(absent)
    pattern = value.replace("[", "[[]")
    return lambda facts: (name in facts and fnmatchcase(facts[name], pattern)) == (operator == "=")
