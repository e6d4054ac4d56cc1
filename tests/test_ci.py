"""What continuous integration tells the suite and the benchmarks, which start agents."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agent.storage.environment import overrides

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("script", [".ci/run", ".ci/matrix", "Makefile"])
def test_nothing_that_is_exported_is_taken_for_a_setting_of_an_agent(script):
    exported = re.findall(r"(?<![$\w{])([A-Z][A-Z_]+)=", (ROOT / script).read_text())
    assert overrides(dict.fromkeys(exported, "1")) == ()


def test_settings_of_whoever_runs_the_suite_reach_no_agent_of_a_test():
    script = "import tests.conftest, os; print([name for name in os.environ if name.startswith('QEIL_')])"
    env = {**os.environ, "QEIL_HTTP_PORT": "1"}
    assert subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, env=env) == b"[]\n"


def test_every_plugin_that_the_suite_cannot_run_without_is_installed_beside_old_runtimes():
    installed = re.findall(r"pytest-[a-z]+", (ROOT / ".ci/matrix").read_text())
    configured = (ROOT / "pyproject.toml").read_text().partition("[tool.pytest.ini_options]")[2].partition("\n[")[0]
    said = {"pytest-timeout": (r"^timeout\b", configured),
            "pytest-rerunfailures": (r"mark\.flaky\b", (ROOT / "tests/conftest.py").read_text())}  # fmt: skip
    for plugin, (pattern, text) in said.items():
        assert plugin in installed or not re.search(pattern, text, re.MULTILINE), plugin
