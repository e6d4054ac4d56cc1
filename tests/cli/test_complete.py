"""Completion offers the names that can be given: profiles, policies, and the models of the agent that runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from agent.api.server import HttpServer
from agent.cli import complete
from agent.schema.settings import HttpSettings
from tests.fakes_service import FakeService


def offered(words, **environ):
    """What bash is offered for these words, the last one begun."""
    command = [sys.executable, "-c", "from agent.cli.main import cli; cli(prog_name='qeil')"]
    variables = {"_QEIL_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        command, env={**os.environ, **variables, **environ}, capture_output=True, text=True, check=False
    )
    return [line.split(",", 1) for line in done.stdout.split()]


def test_profiles_and_policies_are_offered_by_name_and_files_once_a_path_is_begun():
    assert ["plain", "raspberry-pi-5"] in offered(["qeil", "plan", "--profile", "rasp"])
    assert ["plain", "balanced"] in offered(["qeil", "explain", "--policy", "bal"])
    assert offered(["qeil", "calibrate", "--profile", "./x"]) == [["file", "./x"]]


def test_the_running_agents_models_are_offered(tmp_path):
    server = HttpServer(FakeService(), HttpSettings(port=0))
    server.start()
    try:
        where = {"QEIL_URL": server.url, "QEIL_STATE_DIR": str(tmp_path)}
        assert offered(["qeil", "infer", "ad"], **where) == [["plain", "add1"]]
        assert offered(["qeil", "models", "unload", "ad"], **where) == [["plain", "add1"]]
    finally:
        server.stop(2.0)


def test_without_an_agent_the_settings_models_are_offered_and_mistakes_offer_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("QEIL_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("QEIL_STATE_DIR", str(tmp_path))
    assert list(complete.models()) == []
    monkeypatch.setenv("QEIL_HTTP_PORT", "nonsense")
    assert list(complete.models()) == []
    monkeypatch.setenv("QEIL_URL", "ftp://x")
    assert list(complete.models()) == []


@pytest.mark.parametrize("said", ["<html>no agent</html>", "[]", "{}", '{"models": [{}]}'])
def test_where_something_else_answers_no_model_of_it_is_offered(monkeypatch, tmp_path, said):
    monkeypatch.setenv("QEIL_STATE_DIR", str(tmp_path))
    monkeypatch.setattr("agent.cli.client.AgentClient._request", lambda *_: ({}, said.encode()))
    assert list(complete.models()) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shipped_scripts_are_what_their_shell_reads(shell):
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    file = f"deploy/completion/qeil.{shell}"
    assert subprocess.run([program, "-n", file], check=False, capture_output=True, text=True).stderr == ""
