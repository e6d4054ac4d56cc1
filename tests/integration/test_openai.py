from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import httpx
import openai
import pytest

from agent.cli import main
from agent.llm.folder import open_folder
from agent.llm.generation import generate
from agent.llm.importer import import_gguf
from agent.llm.row import Prompt
from agent.llm.session import DecoderSession
from tests.integration.agent_process import running
from tests.llm.reference import write_model

CONTEXT = 512
LONG = " ".join(map(str, range(9_000)))
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("model")
    return import_gguf(write_model(base / "m.gguf", context=CONTEXT), base / "tiny").folder


@pytest.fixture(scope="module")
def agent(tmp_path_factory, folder):
    models = [{"name": "tiny", "path": str(folder), "decoder": {"rows": 8, "threads": 1}}]
    with running(tmp_path_factory.mktemp("agent"), models=models) as process:
        yield process


@pytest.fixture
def client(agent):
    with openai.OpenAI(base_url=f"{agent.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


def chat(client, **options):
    return client.chat.completions.create(**{"model": "tiny", "messages": HI, "max_tokens": 20, "seed": 1, **options})


def expected(folder, text, count, special=True):
    opened = open_folder(folder)
    session = DecoderSession(opened, threads=1)
    return "".join(p.text for p in generate(session, Prompt(tuple(opened.encode(text, special=special)), count)))


def test_models_are_listed_with_what_they_can_do(client):
    (model,) = client.models.list().data
    assert (model.id, model.qeil["ready"], model.qeil["context_tokens"], model.qeil["rows"]) == (
        "tiny", True, CONTEXT, 8,
    )  # fmt: skip
    assert client.models.retrieve("tiny").id == "tiny"


def test_the_repository_lists_the_model_with_the_others(agent):
    (row,) = httpx.post(f"{agent.url}/v2/repository/index").json()
    assert row == {"name": "tiny", "version": "1", "state": "READY", "reason": ""}


def test_a_chat_is_answered_as_the_decoder_alone_would(client, folder):
    reply = chat(client, temperature=0)
    assert reply.choices[0].message.content == expected(folder, "<user>hi<assistant>", 20, special=False)
    assert (reply.usage.completion_tokens, reply.choices[0].finish_reason) == (20, "length")
    energy = reply.usage.energy
    assert energy["provenance"] in {"modelled", "unknown"}
    assert (energy["energy_j"] is None) == (energy["provenance"] == "unknown")


def test_texts_keep_a_schema_alone_in_batches_and_in_streams(client):
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "yz"]}, "b": {"type": "boolean"}},
              "required": ["a", "b"], "additionalProperties": False}  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "pair", "strict": True, "schema": schema}}
    texts = [c.message.content for c in chat(client, n=4, temperature=2, response_format=form, max_tokens=200).choices]
    stream = chat(client, temperature=2, response_format=form, max_tokens=200, stream=True)
    texts.append("".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))
    for text in texts:
        assert json.loads(text)["a"] in {"x", "yz"}
        assert json.loads(text)["b"] in {True, False}


def test_a_grammar_is_kept_and_a_wrong_one_is_said(client):
    asked = {"model": "tiny", "prompt": "hi", "max_tokens": 9}
    text = client.completions.create(**asked, extra_body={"grammar": 'root ::= "yes" | "no"'}).choices[0]
    assert (text.text in {"yes", "no"}, text.finish_reason) == (True, "stop")
    with pytest.raises(openai.BadRequestError, match="missing"):
        client.completions.create(**asked, extra_body={"grammar": "root ::= missing"})


def test_asked_for_tensors_a_language_model_says_where_it_answers(agent, capsys):
    assert main.run(["infer", "tiny", "--url", agent.url]) == 1
    assert "qeil generate tiny" in capsys.readouterr().err


def test_a_stream_gives_the_same_text_piece_by_piece(client):
    whole = chat(client, n=4, temperature=1.5)
    texts = [""] * 4
    ends = []
    usage = None
    for chunk in chat(client, n=4, temperature=1.5, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends += [choice.finish_reason] if choice.finish_reason else []
    assert texts == [choice.message.content for choice in whole.choices]
    assert len(set(texts)) > 1
    assert (ends, usage.completion_tokens) == (["length"] * 4, 80)


def test_the_same_seed_writes_the_same_text_and_another_one_another(client):
    texts = [chat(client, temperature=1.5, seed=seed).choices[0].message.content for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]


def test_a_text_ends_before_a_stop_string(client):
    free = chat(client, temperature=0).choices[0].message.content
    stop = free[6:9]
    ended = chat(client, temperature=0, stop=[stop, "never"]).choices[0]
    assert (ended.message.content, ended.finish_reason) == (free.split(stop)[0], "stop")


def test_log_probabilities_are_those_of_the_tokens(client):
    content = chat(client, temperature=0, max_tokens=3, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert len(content) == 3
    for token in content:
        assert token.logprob == token.top_logprobs[0].logprob <= 0
        assert len(token.top_logprobs) == 2
    legacy = client.completions.create(model="tiny", prompt="hi", max_tokens=3, temperature=0, logprobs=1)
    assert len(legacy.choices[0].logprobs.tokens) == 3


def test_a_prompt_is_continued_from_text_or_tokens(client, folder):
    text = client.completions.create(model="tiny", prompt="the", max_tokens=9, temperature=0).choices[0].text
    assert text == expected(folder, "the", 9)
    ids = open_folder(folder).encode("the")
    assert client.completions.create(model="tiny", prompt=ids, max_tokens=9, temperature=0).choices[0].text == text


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"model": "tinny"}, openai.NotFoundError, "did you mean 'tiny'"),
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError, "did you mean temperature"),
        ({"top_logprobs": 2}, openai.BadRequestError, "needs logprobs"),
        ({"max_completion_tokens": 3}, openai.BadRequestError, "contradict"),
        ({"temperature": 9}, openai.BadRequestError, "temperature"),
        ({"n": 9}, openai.BadRequestError, "8 at once"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"messages": [{"role": "user"}]}, openai.BadRequestError, "messages.0.content is missing"),
        ({"max_tokens": 4000}, openai.APIStatusError, "max_tokens of at most"),
        ({"messages": [{"role": "user", "content": LONG}]}, openai.APIStatusError, "shorten"),
        ({"stream": False, "stream_options": {"include_usage": True}}, openai.BadRequestError, "stream: true"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(client, options, error, says):
    with pytest.raises(error, match=says) as caught:
        chat(client, **options)
    assert set(caught.value.body) == {"message", "type", "param", "code"}
    assert chat(client, max_tokens=1).choices[0].finish_reason == "length"


def cpu_ticks(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def settled_ticks(agent, pid):
    """CPU time of the lane once it rests."""
    seen = []

    def rests():
        seen.append(cpu_ticks(pid))
        return len(seen) > 20 and seen[-1] <= seen[-20] + 3

    agent.wait_until(rests)
    return seen[-1]


def test_a_client_that_leaves_ends_the_writing(agent, client):
    """On a busy machine much may be written before the client is told of the first token: it leaves several times."""
    long = {"max_tokens": CONTEXT - 60, "n": 8}
    pid = client.models.retrieve("tiny").qeil["pid"]
    before = settled_ticks(agent, pid)
    chat(client, **long)
    whole = settled_ticks(agent, pid) - before
    shares = []
    while len(shares) < 20 and min(shares, default=1.0) >= 0.5:
        before = settled_ticks(agent, pid)
        body = {"model": "tiny", "messages": HI, "seed": 1, "stream": True, **long}
        with httpx.stream("POST", f"{agent.url}/v1/chat/completions", json=body, timeout=60.0) as reply:
            assert reply.status_code == 200
        shares.append((settled_ticks(agent, pid) - before) / whole)
    assert min(shares) < 0.5, shares


def killed_at_the_first_token(agent, client, **options):
    """Texts of a stream whose lane is killed as soon as it begins."""
    pid = client.models.retrieve("tiny").qeil["pid"]
    texts = [""] * options["n"]
    for number, chunk in enumerate(chat(client, stream=True, **options)):
        if number == 0:
            os.kill(pid, signal.SIGKILL)
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    agent.wait_until(lambda: client.models.retrieve("tiny").qeil["pid"] not in {pid, None})
    agent.wait_until(lambda: agent.model("tiny")["state"] == "ready")
    return texts


def test_a_killed_lane_does_not_break_a_greedy_stream(agent, client, folder):
    text = expected(folder, "<user>hi<assistant>", 470, special=False)
    replayed = lambda: agent.model("tiny")["replayed"]  # noqa: E731
    for _ in range(5):  # a lane may have finished before the client has read the first token
        assert killed_at_the_first_token(agent, client, n=4, max_tokens=470, temperature=0) == [text] * 4
        with contextlib.suppress(AssertionError):
            agent.wait_until(replayed, 3.0)  # status follows at a tick
            break
    assert replayed()


def test_an_error_of_the_connection_itself_has_the_same_form(agent):
    reply = httpx.put(f"{agent.url}/v1/completions")
    assert reply.status_code == 405
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert httpx.post(f"{agent.url}/v1/completions", content=b"{").json()["error"]["message"].startswith("the body is")


def test_a_model_that_does_not_fit_says_what_would(tmp_path, folder):
    models = [{"name": "tiny", "path": str(folder), "decoder": {"rows": 8, "mode": "quick"}}]
    with running(tmp_path / "agent", models=models) as process:
        assert "no mode 'quick'" in process.model("tiny")["reason"]


def test_a_question_is_answered_from_repeated_samples(client):
    asked = {"qeil": {"strategy": "majority", "max_samples": 10, "trace": True}}
    reply = chat(client, temperature=2.0, max_tokens=4, extra_body=asked)
    report = reply.qeil
    assert (report["samples_used"], report["stop_reason"], report["strategy"]) == (10, "samples", "majority")
    assert (len(report["trace"]), reply.usage.completion_tokens) == (10, 40)
    assert report["answer"] is None
    assert report["guarantee"]["certified"] is False


def test_agreement_is_certified_and_ends_the_sampling(client):
    asked = {"qeil": {"strategy": "csvet", "max_samples": 64, "alpha": 0.05}}
    reply = chat(client, temperature=0.01, top_p=0.01, max_tokens=6, extra_body=asked)
    report = reply.qeil
    assert (report["stop_reason"], report["agreement"], report["guarantee"]["certified"]) == ("majority", 1.0, True)
    assert 2 < report["samples_used"] < 16
    assert reply.choices[0].message.content == chat(client, temperature=0, max_tokens=6).choices[0].message.content
    chunks = list(chat(client, temperature=0.01, top_p=0.01, max_tokens=6, stream=True, extra_body=asked))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == reply.choices[0].message.content
    assert chunks[-1].qeil["samples_used"] == report["samples_used"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n": 2, "extra_body": {"qeil": {}}}, "n must be 1"),
        ({"temperature": 0, "extra_body": {"qeil": {}}}, "needs texts that may differ"),
        ({"extra_body": {"qeil": {"strategy": "majority", "worth_j": 3}}}, "worth_j belongs to csvet"),
        ({"extra_body": {"qeil": {"answer": "choice"}}}, "needs qeil.choices"),
        ({"extra_body": {"qeil": {"strategi": "csvet"}}}, "qeil.strategi"),
    ],
)
def test_options_of_sampling_that_contradict_each_other_are_refused(client, options, says):
    with pytest.raises(openai.BadRequestError, match=says):
        chat(client, **options)


def test_the_command_line_streams_from_a_served_model_and_says_what_it_cost(agent, folder, capsys):
    asked = ["generate", "tiny", "hi", "--url", agent.url, "--max-tokens", "12"]
    assert main.run(asked) == 0
    out, err = capsys.readouterr()
    assert out == expected(folder, "<user>hi<assistant>", 12, special=False) + "\n"
    assert "12 tokens on cpu" in err
    assert main.run(["generate", "tiny", "the", "--raw", "-n", "2", *asked[3:]]) == 0
    assert "[2] " in capsys.readouterr().out
    assert main.run(["generate", "tinny", *asked[2:]]) == 1
    assert "did you mean 'tiny'" in capsys.readouterr().err


def test_a_text_that_hides_its_order_is_refused_before_the_model_reads_it(client):
    with pytest.raises(openai.BadRequestError, match=r"guard\.texts"):
        chat(client, messages=[{"role": "user", "content": "pay \u202eboB\u202c now"}])
