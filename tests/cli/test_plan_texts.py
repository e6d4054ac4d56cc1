"""Language models in `qeil plan` and `qeil explain`: by their name in the settings, or by their folder."""

from __future__ import annotations

import json

import pytest

from agent.cli.main import run
from agent.llm.importer import import_gguf
from tests.llm.reference import write_model

BOARD = ("--profile", "generic-x86")


@pytest.fixture(autouse=True)
def _state(tmp_path, monkeypatch):
    monkeypatch.setenv("QEIL_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("text")
    return import_gguf(write_model(base / "m.gguf"), base / "tiny").folder


def document(capsys, *arguments):
    assert run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_served_language_model_is_explained_by_its_name_in_its_mode(capsys, tmp_path, folder):
    config = tmp_path / "agent.yaml"
    config.write_text(
        f"version: 1\nstate_dir: {tmp_path}\nmodels:\n  - {{name: writer, path: {folder}, decoder: {{mode: fast}}}}\n"
    )
    found = document(capsys, "explain", "writer", *BOARD, "--config", str(config))
    assert (found["model"], found["phase"]) == ("tiny", "decode")
    assert "mode fast; one written token, --phase prefill for the prompt" in found["notes"]
    named = document(capsys, "plan", "writer", *BOARD, "--config", str(config), "--method", "greedy")
    assert named["phase"] == "decode"


def test_longer_prompts_take_longer(capsys, folder):
    def seconds(tokens):
        found = document(capsys, "explain", str(folder), *BOARD, "--phase", "prefill", "--prompt-tokens", str(tokens))
        assert "mode exact" in found["notes"]
        return {entry["accelerator"]: entry["time_s"] for entry in found["placements"]}

    short, long = seconds(8), seconds(60)
    assert all(long[name] > short[name] for name in short)


def test_prompts_and_writing_are_planned_together(capsys, folder):
    found = document(capsys, "plan", str(folder), *BOARD, "--phase", "both")
    assert (found["model"], found["phase"]) == ("tiny", "both")


def test_a_folder_that_holds_no_model_is_one_line(capsys, tmp_path):
    assert run(["explain", str(tmp_path), *BOARD]) != 0
    assert "no decoder folder" in capsys.readouterr().err
