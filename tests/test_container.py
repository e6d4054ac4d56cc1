"""The container recipe and its compose file under their linters, and that they agree: no container engine is needed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from agent.cli.main import COMMANDS
from agent.storage.yaml_files import load_settings

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deploy" / "container"
COMPOSE_SCHEMA = ("--builtin-schema", "vendor.compose-spec")


def lint(program: str, *words: str | Path) -> subprocess.CompletedProcess:
    """A linter of the development environment."""
    return subprocess.run(
        [str(Path(sys.executable).with_name(program)), *map(str, words)], capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip


def test_hadolint_has_nothing_to_say_of_the_recipe():
    done = lint("hadolint", "--failure-threshold", "style", FOLDER / "Containerfile")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("line", "instead", "rule"),
    [("USER 990", "USER root", "DL3002"), ("WORKDIR /src", "RUN cd /src", "DL3003"), ("VOLUME", "VOLUMES", "missing"),
     ("CMD [", "CMD run [", "DL3025"), ("python:3.11-slim-bookworm AS", "python AS", "DL3006")],
)  # fmt: skip
def test_hadolint_finds_what_is_planted(tmp_path, line, instead, rule):
    broken = tmp_path / "Containerfile"
    text = (FOLDER / "Containerfile").read_text()
    broken.write_text(text.replace(f"\n{line}", f"\n{instead}") if f"\n{line}" in text else text.replace(line, instead))
    done = lint("hadolint", "--failure-threshold", "style", broken)
    assert done.returncode != 0
    assert rule in done.stdout + done.stderr


def test_the_compose_file_keeps_the_schema_of_the_compose_specification(tmp_path):
    done = lint("check-jsonschema", *COMPOSE_SCHEMA, FOLDER / "compose.yaml")
    assert done.returncode == 0, done.stdout
    broken = tmp_path / "compose.yaml"
    broken.write_text((FOLDER / "compose.yaml").read_text().replace("read_only: true", "read_only: [true]"))
    assert lint("check-jsonschema", *COMPOSE_SCHEMA, broken).returncode == 1


@pytest.fixture(scope="module")
def recipe() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", (FOLDER / "Containerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())


def values(recipe, instruction):
    return [value for name, value in recipe if name == instruction]


def test_the_recipe_pins_its_base(recipe):
    for base in values(recipe, "FROM"):
        assert re.match(r"[\w./-]+:[\w.-]+( AS \w+)?$", base)
        assert "latest" not in base


def test_everything_that_is_copied_is_in_the_checkout_and_not_ignored(recipe):
    ignored = (ROOT / ".dockerignore").read_text().split()
    for value in values(recipe, "COPY"):
        if value.startswith("--from"):
            continue
        *sources, _ = value.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert source not in ignored


def test_it_does_not_run_as_root_and_starts_a_command_that_exists(recipe):
    names = [name for name, _ in recipe]
    assert values(recipe, "USER") == ["990"]
    assert any("useradd" in run and "--uid 990" in run for run in values(recipe, "RUN"))
    assert names.index("USER") < names.index("ENTRYPOINT")
    command = yaml.safe_load(values(recipe, "CMD")[0])
    assert command[0] in COMMANDS
    assert "/v2/health/live" in values(recipe, "HEALTHCHECK")[0]


def test_the_agent_has_no_more_rights_than_it_needs_and_is_reached_from_this_host_only(compose):
    agent = compose["services"]["agent"]
    assert agent["read_only"]
    assert agent["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in agent["security_opt"]
    assert all(port.startswith("127.0.0.1:") for port in agent["ports"])
    assert "ports" not in compose["services"]["broker"]


def test_every_file_and_volume_that_it_mounts_is_there(compose):
    made_by_the_owner = {"./models", "./api.key"}
    for service in compose["services"].values():
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            if source.startswith("./"):
                assert source in made_by_the_owner or (FOLDER / source).is_file()
            else:
                assert source in compose["volumes"]


def test_its_settings_are_valid_and_ask_for_a_key_beyond_loopback(compose):
    settings = load_settings(FOLDER / "agent.yaml", {})
    assert settings.mqtt.host in compose["services"]
    assert settings.http.api_key_file is not None
