"""What settings name: policy, profile and the accelerators of splits must exist; a model file may still come."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from agent.errors import ConfigError
from agent.schema.settings import Settings
from agent.storage import environment, share, yaml_files
from agent.storage.problem import Problem, problems_of
from agent.storage.schema_problems import closest
from agent.storage.yaml_text import Document, KeyPath

MAX_PARTS = 6
"""As of placement.split_points, which takes numpy along."""


def named_problems(path: Path, document: Document) -> list[Problem]:
    """Problems of the names in a valid settings file, with the line of each name."""
    settings = yaml_files.load_settings(path, {})
    problems = named_files(path, document)
    problems += _split_problems(path, document, settings)
    known = _accelerators(settings)
    problems += [_strange_lane(path, document, settings.profile, lane, known) for lane in _strange(settings, known)]
    return sorted(problems, key=lambda problem: problem.line)


def named_files(path: Path, document: Document) -> list[Problem]:
    """Problems of the policy and the profile that a settings file names, whatever else is wrong with it."""
    problems: list[Problem] = []
    for key, find, load in (
        ("policy", share.find_policy, yaml_files.load_policy),
        ("profile", share.find_profile, yaml_files.load_profile),
    ):
        name = document.data.get(key, Settings.model_fields[key].default)
        if not isinstance(name, str) or (key == "profile" and name == "auto"):
            continue
        try:
            if yaml_files.names_a_file(name):
                name = str(path.absolute().parent / yaml_files.expanded(Path(name)))
            load(find(name))
        except ConfigError as error:
            inside = [p for p in problems_of(error) if p.file]
            problems += inside or [Problem(str(path), document.line((key,)), key, error.message)]
    return problems


def _split_problems(
    path: Path, document: Document, settings: Settings, detected_here: Sequence[str] = ()
) -> list[Problem]:
    """Splits that no board can hold, and accelerators in them that the named profile or this machine lacks."""
    names = detected_here or _accelerators(settings)
    board = "this machine" if detected_here else settings.profile
    problems = []
    for index, model in enumerate(settings.models):
        for place, label in enumerate(model.splits):
            parts = label.split("+")
            unknown = next((part for part in parts if names and part not in names), None)
            if not 2 <= len(parts) <= MAX_PARTS or any(a == b for a, b in pairwise(parts)):
                why, near = (
                    f"{label!r} is no split: join 2 to {MAX_PARTS} accelerators by +, each unlike the last",
                    None,
                )
            elif unknown is not None:
                why = f"{board} has no accelerator {unknown!r} (it has {', '.join(names)})"
                near = closest(unknown, names)
            else:
                continue
            at = ("models", index, "splits", place)
            problems.append(Problem(str(path), document.line(at), ".".join(map(str, at)), why, near))
    return problems


def _strange(settings: Settings, known: Sequence[str]) -> list[str]:
    """Lanes of accelerators that the board does not have; none where its accelerators are not known."""
    return [name for name in settings.lanes if known and name not in known]


def _strange_lane(path: Path, document: Document, board: str, name: str, known: Sequence[str]) -> Problem:
    why = f"{board} has no accelerator {name!r} (it has {', '.join(known)})"
    return Problem(str(path), document.line(("lanes", name)), f"lanes.{name}", why, closest(name, known))


def unfit_here(path: Path, document: Document) -> list[str]:
    """A line for everything that this machine lacks or that the planner never takes as it is written."""
    settings: Settings = yaml_files.load_settings(path, {})
    found: list[tuple[KeyPath, str]] = [
        (("models", index, "splits"), "held ready only while no variant serves: stages are cut from the model file")
        for index, model in enumerate(settings.models) if model.splits and model.variants
    ]  # fmt: skip
    here = os.sched_getaffinity(0)
    for name, lane in settings.lanes.items():
        if missing := sorted(set(lane.cores or ()) - here):
            has = f"this machine has {', '.join(map(str, sorted(here)))}"
            found.append((("lanes", name, "cores"), f"no core {missing[0]} for an agent that runs here ({has})"))
    parts = {part for model in settings.models for label in model.splits for part in label.split("+")}
    known = detected(settings) if settings.profile == "auto" and (parts or settings.lanes) else []
    strange = [_strange_lane(path, document, "this machine", lane, known) for lane in _strange(settings, known)]
    if strange or (known and not parts <= set(known)):
        strange += _split_problems(path, document, settings, known)
    lines = [(document.line(key), f"{path}:{document.line(key)}: {'.'.join(map(str, key))}: {t}") for key, t in found]
    return [text for _, text in sorted([*lines, *((p.line, p.text()) for p in strange)])]


def detected(settings: Settings) -> list[str]:
    """Accelerators of this machine as an agent would find them, with the simulated ones of the settings."""
    from agent.service import assembly

    profile = assembly.base_profile("auto")
    return [*(a.name for a in profile.accelerators), *(s.name for s in settings.simulated_accelerators)]


def _accelerators(settings: Settings) -> list[str]:
    """Of the named profile, with simulated ones; none where it is detected at the start or cannot be read."""
    if settings.profile == "auto":
        return []
    try:
        profile = yaml_files.load_profile(share.find_profile(settings.profile))
    except ConfigError:
        return []
    return [*(a.name for a in profile.accelerators), *(s.name for s in settings.simulated_accelerators)]


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
