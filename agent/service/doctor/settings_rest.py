"""What remains of a settings file without its mistakes, so that one of them does not hide what else is wrong."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from agent.errors import ConfigError
from agent.schema.settings import Settings
from agent.storage import environment, yaml_files
from agent.storage.problem import problems_of
from agent.storage.yaml_text import Document

ROUNDS: Final = 8
"""Taking one mistake away may show another, as a required key that is then missing."""
_GONE: Final = object()


def rest(path: Path, environ: Mapping[str, str], error: ConfigError) -> Settings | None:
    """The settings without the keys and variables that `error` names; None where nothing valid remains."""
    try:
        document = yaml_files.read_document(path)
    except ConfigError:
        return None
    data = copy.deepcopy(document.data)
    for _ in range(ROUNDS):
        variables = {problem.key for problem in problems_of(error) if problem.file == environment.FILE}
        keys = [p.key.split(".") for p in problems_of(error) if p.key and p.key not in variables]
        before = (copy.deepcopy(data), len(environ))
        environ = {name: value for name, value in environ.items() if name not in variables}
        for key in keys:
            _mark(data, key)
        data = _pruned(data)
        if (data, len(environ)) == before:
            return None
        try:
            return yaml_files.settings_of(Document(data, document.positions), path, environ)
        except ConfigError as next_error:
            error = next_error
    return None


def _mark(data: Any, key: list[str]) -> None:
    """Mark what the key names as gone, or what should have it where it is missing."""
    holder: Any = None
    at: Any = None
    node = data
    for part in key:
        step: Any = int(part) if isinstance(node, list) and part.isdecimal() else part
        inside = step in node if isinstance(node, dict) else isinstance(node, list) and isinstance(step, int)
        if not inside or (isinstance(node, list) and step >= len(node)):
            break
        holder, at, node = node, step, node[step]
    if holder is not None:
        holder[at] = _GONE


def _pruned(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _pruned(value) for key, value in data.items() if value is not _GONE}
    if isinstance(data, list):
        return [_pruned(value) for value in data if value is not _GONE]
    return data
