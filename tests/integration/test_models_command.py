"""A model of one's own, added and served by commands alone while the agent runs."""

from __future__ import annotations

import json

from click.testing import CliRunner

from agent.cli.infer import infer_command
from agent.cli.models import models_command
from agent.errors import QeilError
from tests.integration.agent_process import MAGIKA, model_file, running


def invoke(command, *arguments: str):
    return CliRunner().invoke(command, [str(a) for a in arguments])


def test_a_model_is_added_loaded_asked_unloaded_and_asked_in_vain(tmp_path):
    with running(tmp_path, models=[]) as process:
        file = model_file(*MAGIKA[1:])
        added = invoke(models_command, "add", file, "--name", "mine", "--config", process.config)
        assert "qeil models load mine" in added.output

        loaded = invoke(models_command, "load", "mine", "--url", process.url)
        assert loaded.output.startswith("mine is ready on ")
        asked = invoke(infer_command, "mine", "--url", process.url)
        assert "ms with transport" in asked.output
        assert "J modelled" in asked.output or "energy unknown" in asked.output

        again = json.loads(invoke(models_command, "load", "mine", "--json", "--url", process.url).output)
        assert (again["name"], again["state"]) == ("mine", "ready")
        assert "qeil models load mine" in invoke(models_command, "unload", "mine", "--url", process.url).output
        gone = json.loads(invoke(models_command, "unload", "mine", "--json", "--url", process.url).output)
        assert gone == {"name": "mine", "state": "unloaded"}
        refused = invoke(infer_command, "mine", "--url", process.url)
        assert isinstance(refused.exception, QeilError)


def test_an_unknown_model_cannot_be_loaded_and_the_known_ones_are_named(tmp_path):
    with running(tmp_path, models=[]) as process:
        result = invoke(models_command, "load", "nothing", "--url", process.url)
    assert isinstance(result.exception, QeilError)
    assert "there is no model 'nothing'" in str(result.exception)
