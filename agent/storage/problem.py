"""Problem: one thing wrong with a file, in the words its owner sees. Formats; neither reads nor validates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from agent.errors import ConfigError
from agent.records import record


@record(frozen=True, order=True)
class Problem:
    """What is wrong where. `line` counts from 1; 0 where there is no line, as in an environment variable."""

    file: str
    line: int
    key: str
    message: str
    suggestion: str | None = None

    def text(self) -> str:
        """`file:line: key.path: what is wrong (did you mean …)`."""
        where = f"{self.file}:{self.line}" if self.line else self.file
        key = f"{self.key}: " if self.key else ""
        hint = f" (did you mean {self.suggestion}?)" if self.suggestion else ""
        return f"{where}: {key}{self.message}{hint}"

    def as_json(self) -> dict[str, str | int | None]:
        """The fields, for `--json`."""
        return asdict(self)


def config_error(problems: Sequence[Problem]) -> ConfigError:
    """An error that says the first problem and carries all of them, in file order, as `context['problems']`."""
    ordered = tuple(sorted(problems, key=lambda p: (p.file, p.line, p.key, p.message)))
    more = len(ordered) - 1
    tail = f" (and {more} more problem{'s' if more > 1 else ''}; `qeil check` lists them)" if more else ""
    return ConfigError(ordered[0].text() + tail, problems=ordered)


def problems_of(error: ConfigError) -> tuple[Problem, ...]:
    """All problems that a ConfigError carries; its sentence as the only one where it carries none."""
    found = error.context.get("problems")
    if isinstance(found, tuple) and all(isinstance(p, Problem) for p in found):
        return found
    return (Problem("", 0, "", error.message),)
