"""`qeil check`: validates settings, policies, device profiles and scenarios and says every problem with its line."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import click

from agent.cli import check_settings
from agent.cli.main import EXIT_CONFIG
from agent.errors import ConfigError
from agent.storage import yaml_files
from agent.storage.file_kinds import KINDS, Kind, schema_of
from agent.storage.problem import Problem, problems_of
from agent.storage.yaml_text import Document


def check(paths: Sequence[Path], as_json: bool) -> int:
    """Check files and the *.yaml below folders; prints problems to stdout, returns 0 or 78."""
    files, problems = _files(paths)
    for file in files:
        problems += check_file(file)
    problems = list(dict.fromkeys(problems))  # a policy may be given and named by settings that are given too
    if as_json:
        click.echo(json.dumps([problem.as_json() for problem in problems], ensure_ascii=False, indent=2))
    else:
        for problem in problems:
            click.echo(problem.text())
        for file in () if problems else files:
            for line in _remarks(file):
                click.echo(f"‼ {line}", err=True)
        if not problems:
            click.echo(f"{len(files)} file{'' if len(files) == 1 else 's'} checked, no problems")
    return EXIT_CONFIG if problems else 0


def check_file(path: Path) -> list[Problem]:
    """Every problem of one file, in file order; which kind of file it is follows from its keys."""
    try:
        document = yaml_files.read_document(path)
        kind = yaml_files.detect_kind(document.data, path)
        if kind is None:
            kinds = ", ".join(KINDS)
            message = (
                f"cannot tell from its keys what this file is ({kinds}); `qeil schema KIND` lists the keys of each"
            )
            return [Problem(str(path), document.line(()), "", message)]
        if kind == "scenario":
            from agent.simulation import references

            return list(references.problems(path))
        if kind == "board-scenario":
            from agent.simulation import board_document

            return list(board_document.problems(path))
        problems = _schema_problems(document, kind, path)
        if kind == "settings":
            # In one run, although the settings themselves may be wrong: nobody wants to mend in rounds.
            return problems + (check_settings.named_files if problems else check_settings.named_problems)(
                path, document
            )
    except ConfigError as error:
        return list(problems_of(error))
    return problems


def _schema_problems(document: Document, kind: Kind, path: Path) -> list[Problem]:
    try:
        yaml_files.validate(document, schema_of(kind), str(path))
    except ConfigError as error:
        return list(problems_of(error))
    return []


def _remarks(path: Path) -> list[str]:
    """What is no mistake in the file but will not work as it stands, or is out of every known range."""
    document = yaml_files.read_document(path)
    kind = yaml_files.detect_kind(document.data, path)
    if kind == "board":
        from agent.evaluation import plausibility

        found = plausibility.remarks(yaml_files.load_profile(path))
        keys = [(document.line(r.place), ".".join(map(str, r.place)), r.text) for r in found]
        return [f"{path}:{line}: {key}: {text}" for line, key, text in keys]
    if kind != "settings":
        return []
    return [
        *check_settings.absent_models(path, document),
        *check_settings.unfit_here(path, document),
        *check_settings.foreign_variables(os.environ),
    ]


def _files(paths: Sequence[Path]) -> tuple[list[Path], list[Problem]]:
    files: list[Path] = []
    problems: list[Problem] = []
    for path in paths:
        if path.is_dir():
            below = sorted(p for pattern in ("*.yaml", "*.yml") for p in path.rglob(pattern) if p.is_file())
            files += below
            if not below:
                problems.append(Problem(str(path), 0, "", "there is no *.yaml file in this folder"))
        elif path.exists():
            files.append(path)
        else:
            problems.append(Problem(str(path), 0, "", "there is no such file or folder"))
    return list(dict.fromkeys(files)), problems


@click.command(name="check")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print a list of {file, line, key, message, suggestion}.")
def check_command(paths: tuple[Path, ...], as_json: bool) -> int:
    """Check settings, policies, device profiles, scenarios and controllers; folders are searched for *.yaml.

    Prints `file:line: key: what is wrong (did you mean ...)` for every problem; exit code 78 if there is any.
    """
    return check(paths, as_json)
