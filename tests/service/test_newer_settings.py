"""A client that asks for a model which the settings name since the agent was started is told to restart it."""

from __future__ import annotations

import os
from concurrent.futures import Future

import pytest

from agent.errors import NotFound
from agent.ports import InferenceRequest
from agent.service.serving.inference import AgentInference
from agent.service.serving.newer_settings import NewerSettings
from tests.service.world import World

ONE = "version: 1\nmodels:\n  - {name: a, path: ./a.onnx}\n"
TWO = ONE + "  - {name: b, path: ./b.onnx}\n"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text(ONE)
    return path


def change(file, text):
    before = file.stat().st_mtime_ns
    file.write_text(text)
    os.utime(file, ns=(before + 10**9, before + 10**9))


def test_a_model_that_was_added_since_the_start_is_named_with_what_to_do(file):
    newer = NewerSettings(file)
    assert newer.hint("b") == ""
    change(file, TWO)
    assert newer.hint("b") == (
        f"; {file} names it since this agent was started: restart the agent, only its policy is read anew"
    )
    assert newer.hint("c") == ""


def test_settings_that_changed_once_more_are_read_once_more(file):
    newer = NewerSettings(file)
    change(file, TWO)
    assert newer.names("b")
    change(file, ONE)
    os.utime(file, ns=(1, 1))
    assert not newer.names("b")


@pytest.mark.parametrize("text", ["version: 1\nmodels: [", "version: 1\nmodles: []\n", ""])
def test_newer_settings_with_mistakes_name_nothing(file, text):
    newer = NewerSettings(file)
    change(file, text)
    assert newer.hint("a") == ""


def test_settings_that_were_taken_away_or_never_were_name_nothing(file, tmp_path):
    assert NewerSettings(None).hint("a") == ""
    newer, later = NewerSettings(file), NewerSettings(tmp_path / "later.yaml")
    file.unlink()
    assert newer.hint("a") == ""
    (tmp_path / "later.yaml").write_text(TWO)
    assert later.names("b")


def test_who_asks_for_it_hears_of_it_and_who_loads_it_too(file):
    world = World()

    def refuse(name: str, _: bool) -> Future[None]:
        raise NotFound(f"there is no model {name!r} in the settings")

    service = AgentInference(world.supervisor, world.dispatcher, refuse, newer=NewerSettings(file))
    change(file, TWO)
    with pytest.raises(NotFound, match=r"there is no model 'b' .*restart the agent"):
        world.dispatcher.routes("b")
    asked = world.dispatcher.infer(InferenceRequest(model="b", inputs={}, outputs=None, request_id="r"))
    assert "restart the agent" in asked.exception().message
    said = service.load_model("b").exception()
    assert isinstance(said, NotFound)
    assert said.message.startswith("there is no model 'b' in the settings; ")
    assert service.load_model("c").exception().message == "there is no model 'c' in the settings"
