"""What settings name: policy and profile must exist; a model file that is not there yet is only worth a word."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent.errors import ConfigError
from agent.schema.settings import Settings
from agent.storage import environment, share, yaml_files
from agent.storage.problem import Problem, problems_of
from agent.storage.yaml_text import Document


def named_problems(path: Path, document: Document) -> list[Problem]:
    """Problems of the names in a valid settings file, with the line of each name."""
    settings = yaml_files.load_settings(path, {})
    problems: list[Problem] = []
    for key, find, load in (
        ("policy", share.find_policy, yaml_files.load_policy),
        ("profile", share.find_profile, yaml_files.load_profile),
    ):
        name = getattr(settings, key)
        if key == "profile" and name == "auto":
            continue
        try:
            load(find(name))
        except ConfigError as error:
            inside = [p for p in problems_of(error) if p.file]
            problems += inside or [Problem(str(path), document.line((key,)), key, error.message)]
    return sorted(problems, key=lambda problem: problem.line)


def foreign_variables(environ: Mapping[str, str]) -> list[str]:
    """A line for every QEIL_ variable of this shell that an agent would refuse to start with."""
    try:
        environment.overrides(environ)
    except ConfigError as error:
        return [problem.text() for problem in problems_of(error)]
    return []


def absent_models(path: Path, document: Document) -> list[str]:
    """A line for every model whose file is not there now; the agent starts without it and says so."""
    settings: Settings = yaml_files.load_settings(path, {})
    return [
        f"{path}:{document.line(('models', index, 'path'))}: models.{index}.path: there is no file {model.path} now"
        for index, model in enumerate(settings.models)
        if not model.path.exists()
    ]
