"""What brings an optional package, as the error of its absence says it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from agent import extras

ROOT = Path(__file__).resolve().parents[1]
NOT_OF_A_BOARD = {"demo", "dev"}


def declared() -> dict[str, set[str]]:
    """Names of packages by extra, from pyproject (Python 3.10 has no reader of TOML)."""
    section = (ROOT / "pyproject.toml").read_text().split("[project.optional-dependencies]")[1].split("\n[")[0]
    found = re.findall(r"^(\w+) = \[\n(.*?)^\]", section, re.MULTILINE | re.DOTALL)
    return {extra: set(re.findall(r'^\s+"([^<>=!;"\s]+)', needs, re.MULTILINE)) for extra, needs in found}


def test_the_packages_of_every_extra_are_those_that_the_project_declares():
    wanted = {extra: names for extra, names in declared().items() if extra not in NOT_OF_A_BOARD}
    assert wanted == {extra: set(wheels) for extra, wheels in extras.WHEELS.items()}


def test_a_copy_that_pip_installed_is_told_the_extra():
    assert extras.command("plots") == f"{sys.executable} -m pip install 'qeil-agent[plots]'"


@pytest.mark.parametrize(
    ("extra", "wheels"),
    [
        ("litert", "ai-edge-litert"), ("fleet", "sqlalchemy 'psycopg[binary]'"),
        ("onnx,llm", "onnx onnxruntime llguidance jinja2 tokenizers"),
    ],
)  # fmt: skip
def test_a_debian_package_is_told_the_folder_that_it_takes_runtimes_from(extra, wheels):
    inside = Path("/usr/lib/qeil/vendored/agent/extras.py")
    assert extras.command(extra, inside) == f"sudo python3 -m pip install --target /opt/qeil/runtimes {wheels}"
