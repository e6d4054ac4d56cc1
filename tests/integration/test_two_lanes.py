"""A language model on two accelerators, as clients see it: the text of one, whichever of the processes dies."""

from __future__ import annotations

import os
import signal

import openai
import pytest

from agent.llm.folder import open_folder
from agent.llm.generation import generate
from agent.llm.importer import import_gguf
from agent.llm.row import Prompt
from agent.llm.session import DecoderSession
from tests.integration.agent_process import running
from tests.llm.reference import write_model

TOKENS = 330
TEXT = "the " * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("model")
    return import_gguf(write_model(base / "m.gguf", context=512), base / "tiny").folder


@pytest.fixture(scope="module")
def agent(tmp_path_factory, folder):
    models = [
        {"name": name, "path": str(folder),
         "decoder": {"accelerator": "cpu", "rows": 4, "second": {"accelerator": "cpu-eco", **more}}}
        for name, more in (("layers", {"layers": 1}), ("prompts", {}))
    ]  # fmt: skip
    with running(tmp_path_factory.mktemp("agent"), models=models) as process:
        yield process


@pytest.fixture(scope="module")
def expected(folder):
    opened = open_folder(folder)
    prompt = Prompt(tuple(opened.encode(TEXT)), TOKENS)
    return "".join(piece.text for piece in generate(DecoderSession(opened, threads=1), prompt))


@pytest.fixture
def client(agent):
    with openai.OpenAI(base_url=f"{agent.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


def stream(client, model, at=-1, pid=None):
    """A greedy text, a process being killed at one of its tokens."""
    text, asked = "", {"model": model, "prompt": TEXT, "max_tokens": TOKENS, "temperature": 0}
    for number, chunk in enumerate(client.completions.create(**asked, stream=True)):
        if number == at:
            os.kill(pid, signal.SIGKILL)
        text += chunk.choices[0].text
    return text


@pytest.mark.parametrize("model", ["layers", "prompts"])
def test_the_text_is_that_of_one_lane(agent, client, expected, model):
    assert stream(client, model) == expected
    agent.wait_until(lambda: agent.model(model)["placement"] == "cpu-eco+cpu")


@pytest.mark.parametrize("model", ["layers", "prompts"])
@pytest.mark.parametrize("which", ["pid", "second_pid"])
def test_the_text_goes_on_when_a_process_is_killed(agent, client, expected, model, which):
    pid = client.models.retrieve(model).qeil[which]
    assert stream(client, model, 3, pid) == expected
    agent.wait_until(lambda: client.models.retrieve(model).qeil[which] not in {pid, None})
    agent.wait_until(lambda: agent.model(model)["state"] == "ready")
    assert stream(client, model) == expected


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ({"accelerator": "cpu"}, "name another one"),
        ({"accelerator": "gpu9"}, "runs no decoder"),
        ({"accelerator": "cpu-eco", "layers": 2}, "1 to 1 work"),
    ],
)
def test_a_second_accelerator_that_cannot_share_is_said(tmp_path, folder, second, says):
    models = [{"name": "tiny", "path": str(folder), "decoder": {"accelerator": "cpu", "second": second}}]
    with running(tmp_path / "agent", models=models) as process:
        assert says in process.model("tiny")["reason"]
