"""YAML files: settings, policies, device profiles and scenarios as checked schemas; every problem has file and line."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import ValidationError

from agent.errors import ConfigError
from agent.schema.base import FileModel
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.schema.settings import Settings
from agent.storage import environment, schema_problems, yaml_text
from agent.storage.file_kinds import KINDS, Kind, schema_of
from agent.storage.problem import Problem, config_error
from agent.storage.yaml_text import Document, KeyPath

if TYPE_CHECKING:
    from agent.schema.scenario import Scenario
    from agent.schema.simulated_board import SimulatedBoard

_HINTS: dict[Kind, set[str]] = {
    "settings": {"agent", "settings"},
    "policy": {"policy", "policies"},
    "board": {"profile", "board", "device_profiles"},
    "scenario": {"scenario", "scenarios"},
    "board-scenario": set(),
    "simulated-board": {"boards"},
    "fleet": {"fleet"},
}
"""Names of files and folders that tell what is in them."""

Schema = TypeVar("Schema", bound=FileModel)


def read_document(path: Path) -> Document:
    """Plain data and lines of one file. Raises ConfigError where it cannot be read or is no YAML mapping."""
    file = str(path)
    try:
        kind = path.stat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # a pipe would be waited for, a device has no end
            raise config_error([Problem(file, 0, "", "is no regular file but a pipe, socket or device; give a file")])
        with path.open("rb") as stream:
            raw = stream.read(yaml_text.MAX_BYTES + 1)
    except OSError as error:
        raise config_error([Problem(file, 0, "", f"cannot be read: {error.strerror or error}")]) from error
    try:
        document = yaml_text.parse(raw, file)
    except yaml_text.Unreadable as error:
        raise config_error([error.problem]) from error
    if not isinstance(document.data, dict):
        found = schema_problems.show(document.data)
        raise config_error([Problem(file, document.line(()), "", f"expected keys with values; found {found}")])
    return document


def detect_kind(data: Mapping[str, Any], path: Path | None = None) -> Kind | None:
    """Which schema the keys belong to; the file's name and folder decide a tie. None where nothing fits."""
    if data.keys() == {"version"}:
        return "settings"
    hints = set() if path is None else {*path.parts[-2:-1], path.stem}
    scores = {
        kind: (len(data.keys() & schema.model_fields.keys()), _nested(data, schema), len(hints & _HINTS[kind]))
        for kind, schema in ((kind, schema_of(kind)) for kind in KINDS)
    }
    best = max(scores.values())
    fitting = [kind for kind, score in scores.items() if score == best]
    return fitting[0] if len(fitting) == 1 and (best[0] > 1 or best[2]) else None


def _nested(data: Mapping[str, Any], schema: type[FileModel]) -> int:
    """Keys one level down that the schema knows."""
    found = 0
    for name, field in schema.model_fields.items():
        value = data.get(name)
        kinds = (field.annotation, *get_args(field.annotation))
        inner = next((k for k in kinds if isinstance(k, type) and issubclass(k, FileModel)), None)
        if isinstance(value, dict) and inner is not None:
            found += len(value.keys() & inner.model_fields.keys())
    return found


def validate(document: Document, schema: type[Schema], file: str) -> Schema:
    """The document as a schema. Raises ConfigError with every problem found.

    Checked as strict JSON: a quoted "10" is no number and 1 is not true, while lists become tuples and text a path.
    """
    try:
        return schema.model_validate_json(json.dumps(document.data), strict=True)
    except ValidationError as error:
        raise config_error(schema_problems.explain(error, schema, document, file)) from error


def load_policy(path: Path) -> Policy:
    """A policy. Raises ConfigError with every problem found."""
    return validate(read_document(path), Policy, str(path))


def load_profile(path: Path) -> DeviceProfile:
    """A device profile. Raises ConfigError with every problem found."""
    return validate(read_document(path), DeviceProfile, str(path))


def load_scenario(path: Path) -> Scenario:
    """A scenario. Raises ConfigError with every problem found."""
    from agent.schema.scenario import Scenario  # noqa: PLC0415 - the agent itself reads none

    return validate(read_document(path), Scenario, str(path))


def load_simulated_board(path: Path) -> SimulatedBoard:
    """A simulated board. Raises ConfigError with every problem found."""
    from agent.schema.simulated_board import SimulatedBoard  # noqa: PLC0415 - the agent itself reads none

    return validate(read_document(path), SimulatedBoard, str(path))


def load_settings(path: Path, environ: Mapping[str, str] | None = None) -> Settings:
    """Settings with the overrides in `environ` (none by default) and every path absolute.

    Paths in the file are relative to its folder, paths in variables to the working folder. Raises ConfigError with
    every problem found; what is wrong in a variable is reported as `environment: QEIL_…`.
    """
    return settings_of(read_document(path), path, environ or {})


def settings_of(document: Document, path: Path, variables: Mapping[str, str]) -> Settings:
    """`load_settings` of a document that was read from `path`."""
    overrides, unknown = environment.read(variables)
    merged = Document(environment.apply_environment(document.data, overrides), document.positions)
    from_environment = {override.path: override.variable for override in overrides}
    try:
        settings = Settings.model_validate_json(json.dumps(merged.data), strict=True)
    except ValidationError as error:
        problems = schema_problems.explain(error, Settings, merged, str(path))
        raise config_error([*unknown, *(_by_variable(problem, from_environment) for problem in problems)]) from error
    if unknown:
        raise config_error(unknown)
    try:
        return _absolute(settings, path.absolute().parent, frozenset(from_environment), ())
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}") from error


def default_settings(variables: Mapping[str, str]) -> Settings:
    """Settings where there is no file: the defaults with the overrides in `variables`; errors as `load_settings`."""
    return settings_of(Document({"version": 1}, {}), Path(environment.FILE), variables)


def _by_variable(problem: Problem, variables: Mapping[tuple[str, ...], str]) -> Problem:
    variable = variables.get(tuple(problem.key.split(".")))
    return replace(problem, file=environment.FILE, line=0, key=variable) if variable else problem


def _absolute(model: Schema, folder: Path, overridden: frozenset[KeyPath], prefix: KeyPath) -> Schema:
    """The model with every path in it absolute."""
    changes: dict[str, Any] = {}
    for name in type(model).model_fields:
        value, here = getattr(model, name), (*prefix, name)
        base = Path.cwd() if here in overridden else folder
        if isinstance(value, Path):
            changes[name] = base / expanded(value)
        elif isinstance(value, FileModel):
            changes[name] = _absolute(value, folder, overridden, here)
        elif isinstance(value, tuple):
            changes[name] = tuple(
                _absolute(item, folder, overridden, here) if isinstance(item, FileModel) else item for item in value
            )
        elif here in {("profile",), ("policy",)} and names_a_file(value):
            changes[name] = str(base / expanded(Path(value)))
    return model.model_copy(update=changes)


def names_a_file(text: str) -> bool:
    """Whether a policy or profile is given as a path rather than by the name of a shipped one."""
    return "/" in text or text.endswith((".yaml", ".yml"))


def expanded(path: Path) -> Path:
    """The path with its `~` or `~user` replaced. Raises ConfigError where there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{path}: there is no user {path.parts[0][1:]!r} here, or it has no home folder") from error


def digest(policy: Policy) -> str:
    """sha256 of the policy's canonical JSON: the same for the same wishes, however they are laid out or commented."""
    content = json.dumps(policy.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()
