"""What the documents show of files, code and messages is what the project takes, does and says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from agent.cli.main import cli
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from tests.test_docs import blocks

ROOT = Path(__file__).resolve().parent.parent
RECIPES = blocks(ROOT / "docs" / "policies.md", "yaml")


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    found = dict(base)
    for key, value in change.items():
        deeper = isinstance(value, dict) and isinstance(found.get(key), dict) and key != "objective"
        found[key] = merged(found[key], value) if deeper else value
    return found


@pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
def test_every_recipe_of_the_cookbook_is_a_policy(recipe):
    base = yaml.safe_load((ROOT / "policies" / "balanced.yaml").read_text())
    change = yaml.safe_load(recipe)
    policy = Policy.model_validate(merged(base, change))
    assert policy != Policy.model_validate(base)


def test_the_profile_that_is_shown_is_one():
    (shown,) = blocks(ROOT / "docs" / "profiles.md", "yaml")
    assert DeviceProfile.model_validate(yaml.safe_load(shown)).accelerator("cpu").kind == "cpu"


def test_the_sensor_that_is_shown_reads_values_and_tells_faults(tmp_path):
    (shown,) = [b for b in blocks(ROOT / "docs" / "extending.md", "python") if "MilliDegrees" in b]
    names: dict[str, Any] = {}
    exec(compile(shown, "extending.md", "exec"), names)  # noqa: S102  (our own document)
    file = tmp_path / "temp"
    sensor = names["MilliDegrees"]("soc", file)
    assert sensor.read(1.0).fault == "absent"
    file.write_text("48250\n")
    assert sensor.read(1.0).value == 48.25
    file.write_text("999999\n")
    assert sensor.read(1.0).fault == "implausible"


def spoken() -> list[str]:
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    return [part.strip() for row in rows for part in row.split("…") if len(part.strip()) > 3]


@pytest.mark.parametrize("message", spoken())
def test_every_message_in_troubleshooting_is_one_that_the_agent_says(message):
    code = "\n".join(path.read_text() for path in (ROOT / "agent").rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', "", code)  # a sentence over several lines of code
    assert message in joined


def test_the_reference_is_what_the_code_says():
    done = subprocess.run(
        [sys.executable, "docs/reference.py", "--check"], capture_output=True, text=True, cwd=ROOT, timeout=120,
        check=False, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_every_option_says_what_it_is():
    def options(command: click.Command, words: str) -> Iterator[tuple[str, click.Option]]:
        for name in command.list_commands(click.Context(command)) if isinstance(command, click.Group) else ():
            yield from options(command.get_command(click.Context(command), name), f"{words} {name}")
        yield from ((f"{words} {p.opts[0]}", p) for p in command.params if isinstance(p, click.Option))

    said = dict(options(cli, "qeil"))
    assert said["qeil fleet ls --json"].help == "the boards as JSON"
    assert [words for words, option in said.items() if not option.help and not option.hidden] == []


def test_the_pictures_are_drawn_by_the_physics(tmp_path):
    source = (ROOT / "docs" / "pictures" / "draw.py").read_text()
    (tmp_path / "draw.py").write_text(source)
    subprocess.run([sys.executable, str(tmp_path / "draw.py")], check=True, timeout=120, env={"PYTHONPATH": str(ROOT)})
    drawn = {path.name for path in tmp_path.glob("*.svg")}
    shown = set(re.findall(r"pictures/([\w-]+\.svg)", (ROOT / "docs" / "concepts.md").read_text()))
    assert drawn == shown - {"front.svg"}
