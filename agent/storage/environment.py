"""Environment: `QEIL_…` variables that override single keys of the settings. Pure: the variables are an argument."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from agent.records import record
from agent.schema.settings import Settings
from agent.storage import schema_shape
from agent.storage.problem import Problem, config_error
from agent.storage.schema_problems import closest
from agent.storage.yaml_text import scalar

PREFIX = "QEIL_"
NOT_SETTINGS = frozenset({"QEIL_CONFIG", "QEIL_URL", "QEIL_API_KEY", "QEIL_CA", "QEIL_FLEET_PASSWORD", "QEIL_BACKENDS"})
"""Variables of ours that name no key: where the settings are, and where clients find the agent."""
FILE = "environment"


@record(frozen=True)
class Override:
    """One variable and the key that it sets."""

    variable: str
    path: tuple[str, ...]
    value: Any


def variables() -> dict[str, tuple[str, ...]]:
    """Every variable that is understood, with its key path: QEIL_HTTP_PORT → http.port. Lists have no variable."""
    leaves = ((path, shape) for path, shape in schema_shape.paths(Settings) if _is_leaf(shape))
    return {PREFIX + "_".join(path).upper(): path for path, _ in leaves if path != ("version",)}


def _is_leaf(shape: schema_shape.Shape) -> bool:
    return shape in {str, int, float, bool, Path} or schema_shape.origin_of(shape) is Literal


def overrides(environ: Mapping[str, str]) -> tuple[Override, ...]:
    """The overrides in `environ`, by variable. Raises ConfigError naming every unknown QEIL_ variable."""
    understood, unknown = read(environ)
    if unknown:
        raise config_error(unknown)
    return understood


def read(environ: Mapping[str, str]) -> tuple[tuple[Override, ...], tuple[Problem, ...]]:
    """The overrides in `environ`, by variable, and a problem for every QEIL_ variable that names no key."""
    known = variables()
    wanted = sorted(name for name in environ if name.startswith(PREFIX) and name not in NOT_SETTINGS)
    named = [(name, known[name]) for name in wanted if name in known]
    options = [*known, *NOT_SETTINGS]
    unknown = tuple(
        Problem(FILE, 0, name, "no setting has this variable", closest(name, options))
        for name in wanted
        if name not in known
    )
    return tuple(Override(name, path, _value(path, environ[name])) for name, path in named), unknown


def _value(path: tuple[str, ...], text: str) -> Any:
    """Numbers and booleans as YAML would read them; what must be text stays text, so `QEIL_BOARD=007` is a name."""
    is_number = schema_shape.at(Settings, path) in {int, float, bool}
    return scalar(text) if is_number or text == "null" else text


def apply_environment(data: Mapping[str, Any], understood: Iterable[Override]) -> dict[str, Any]:
    """A copy of the settings' plain data with the overrides in place; `data` stays as it is.

    Values are checked with the rest of the settings.
    """
    merged: dict[str, Any] = copy.deepcopy(dict(data))
    for override in understood:
        target = merged
        for part in override.path[:-1]:
            if not isinstance(target.get(part), dict):
                target[part] = {}
            target = target[part]
        target[override.path[-1]] = override.value
    return merged
