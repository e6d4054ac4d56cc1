from __future__ import annotations

import json
import threading

import httpx
import pytest

from agent.api.server import HttpServer
from agent.errors import DeadlineExceeded, NotFound, Overloaded
from agent.schema.settings import HttpSettings
from agent.schema.text import AnswerScores, AnswerTold, SourceScore, TextDone, TextModel, TextPiece, TextUsage
from tests.fakes_service import FakeService

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
SCORES = AnswerScores(3, (SourceScore("m", "number", "cpu", 0.7, 0.1, 2.5),), (), 0.2, 0.1, ())
DONE = TextDone(TextUsage(3, 1, 2, 0.5, 1.5, "modelled"), "cpu", "CPU", "d1")


class FakeTexts:
    """Tells what `script` says from a thread of its own, as a lane would."""

    def __init__(self):
        self.script = [TextPiece(0, 1, "He"), TextPiece(0, 2, "llo", "stop"), DONE]
        self.refusal = None
        self.models = (TextModel("m", True, None, 64, 4, 5.0, "cpu", 7),)
        self.requests, self.plans = [], []
        self.cancelled = threading.Event()

    def text_models(self):
        return self.models

    def plan_of(self, request):
        return None

    def write(self, request, on_event):
        if self.refusal is not None:
            raise self.refusal
        self.requests.append(request)
        threading.Thread(target=lambda: [on_event(event) for event in self.script]).start()
        return self

    def answer(self, request, plan, on_event):
        self.plans.append(plan)
        return self.write(request, on_event)

    def cancel(self):
        self.cancelled.set()

    def tell(self, number, truth, right):
        if number == "unknown":
            raise NotFound("no answer 'unknown' is remembered", param="id")
        return AnswerTold(number, "m", (truth == "42") if right is None else right, SCORES)

    def scores(self):
        return SCORES


@pytest.fixture
def texts():
    return FakeTexts()


@pytest.fixture
def http(texts):
    server = HttpServer(FakeService(), HttpSettings(port=0), texts=texts)
    server.start()
    with httpx.Client(base_url=server.url, timeout=60.0) as client:
        yield client
    server.stop(2.0)


def test_the_repository_lists_language_models_with_their_state(http, texts):
    rows = {row["name"]: row for row in http.post("/v2/repository/index").json()}
    assert rows["m"] == {"name": "m", "version": "1", "state": "READY", "reason": ""}
    assert "add1" in rows
    texts.models = (TextModel("m", False, "the graph is damaged", 64, 4, 5.0),)
    rows = {row["name"]: row for row in http.post("/v2/repository/index").json()}
    assert (rows["m"]["state"], rows["m"]["reason"]) == ("UNAVAILABLE", "the graph is damaged")
    assert "m" not in {row["name"] for row in http.post("/v2/repository/index", json={"ready": True}).json()}


def test_a_language_model_is_asked_for_its_readiness_like_any_other(http, texts):
    assert http.get("/v2/models/m/ready").json() == {"name": "m", "ready": True}
    assert http.get("/v2/models/m/versions/1/ready").status_code == 200
    assert http.get("/v2/models/m/versions/2/ready").status_code == 404
    texts.models = (TextModel("m", False, "the graph is damaged", 64, 4, 5.0),)
    refusal = http.get("/v2/models/m/ready")
    assert (refusal.status_code, "the graph is damaged" in refusal.text) == (503, True)


def events(reply):
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line]
    return [json.loads(line) for line in lines if line != "[DONE]"], lines[-1]


def test_a_whole_answer_has_text_usage_and_joules(http):
    document = http.post("/v1/chat/completions", json=CHAT).json()
    assert document["choices"][0]["message"]["content"] == "Hello"
    assert (document["usage"]["total_tokens"], document["usage"]["prompt_tokens_details"]["cached_tokens"]) == (5, 1)
    assert document["usage"]["energy"]["energy_j"] == 1.5
    assert http.post("/v1/completions", json={"model": "m", "prompt": "x"}).json()["choices"][0]["text"] == "Hello"


def test_a_stream_ends_with_done(http):
    chunks, last = events(http.post("/v1/chat/completions", json={**CHAT, "stream": True}))
    assert last == "[DONE]"
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == "Hello"
    assert [c["choices"][0]["finish_reason"] for c in chunks][-1] == "stop"


def test_an_error_before_the_first_token_has_its_status(http, texts):
    texts.script = [Overloaded("full", 3.0)]
    reply = http.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "3")
    assert reply.json()["error"]["type"] == "overloaded_error"
    texts.refusal = Overloaded("none")
    assert http.post("/v1/chat/completions", json=CHAT).status_code == 503


def test_a_language_model_that_was_added_to_the_settings_since_is_told_of(http, texts):
    texts.refusal = NotFound("there is no language model 'added' (known: m)", param="model")
    error = http.post("/v1/chat/completions", json={**CHAT, "model": "added"}).json()["error"]
    assert (error["message"], error["param"]) == (
        "there is no language model 'added' (known: m); the settings name it", "model",
    )  # fmt: skip


def test_an_error_in_the_middle_ends_the_stream_and_is_in_it(http, texts):
    texts.script = [TextPiece(0, 1, "He"), DeadlineExceeded("late")]
    chunks, _ = events(http.post("/v1/chat/completions", json={**CHAT, "stream": True}))
    assert chunks[-1]["error"]["message"] == "late"
    assert http.post("/v1/chat/completions", json=CHAT).status_code == 504


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_ends_the_writing(http, texts, stream):
    texts.script = [TextPiece(0, 1, "He")]
    with pytest.raises(httpx.ReadTimeout):
        http.post("/v1/chat/completions", json={**CHAT, "stream": stream}, timeout=httpx.Timeout(60.0, read=1.0))
    assert texts.cancelled.wait(60.0)


def test_the_block_of_the_agents_own_chooses_the_strategy(http, texts):
    asked = {"strategy": "majority", "max_samples": 5, "answer": "number"}
    assert http.post("/v1/chat/completions", json={**CHAT, "qeil": asked}).status_code == 200
    (plan,) = texts.plans
    assert (plan.strategy, plan.max_samples, plan.answer) == ("majority", 5, "number")


def test_an_agent_without_language_models_says_so():
    server = HttpServer(FakeService(), HttpSettings(port=0))
    server.start()
    try:
        assert httpx.get(f"{server.url}/v1/models").json() == {"object": "list", "data": []}
        reply = httpx.post(f"{server.url}/v1/chat/completions", json=CHAT)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
        assert reply.json()["error"]["message"] == "this agent serves no language model"
        reply = httpx.post(f"{server.url}/v1/chat/completions", json={**CHAT, "model": "added"})
        assert reply.json()["error"]["message"] == "this agent serves no language model; the settings name it"
        assert httpx.get(f"{server.url}/v1/models/m").status_code == 404
    finally:
        server.stop(2.0)


@pytest.mark.parametrize(
    ("told", "right"), [({"answer": "42"}, True), ({"answer": "41"}, False), ({"right": False}, False)]
)
def test_clients_tell_which_answer_was_right(http, told, right):
    reply = http.post("/v1/feedback", json={"id": "chatcmpl-1", **told})
    assert reply.status_code == 200
    document = reply.json()
    assert (document["object"], document["id"], document["right"]) == ("feedback", "chatcmpl-1", right)
    assert document["scores"]["outcomes"] == 3


def test_what_was_learnt_of_answers_is_shown(http):
    document = http.get("/v1/feedback").json()
    assert (document["outcomes"], document["brier"]) == (3, 0.2)
    assert document["data"][0]["reliability"] == 0.7


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ('{"id": "x"}', 400, "right: true or false"),
        ('{"id": "x", "answer": "1", "right": true}', 400, "tell either"),
        ('{"answer": "1"}', 400, "id is missing"),
        ('{"id": "x", "rihgt": true}', 400, "did you mean right"),
        ('{"id": "x", "right": 1}', 400, "right:"),
        ('{"id": "x", "answer": "\\ud800"}', 400, "unicode"),
        ("[]", 400, "the body: expected an object, got a list"),
        ("{", 400, "not JSON"),
        ('{"id": "unknown", "right": true}', 404, "remembered"),
    ],
)
def test_feedback_that_cannot_be_used_is_one_sentence(http, body, status, says):
    reply = http.post("/v1/feedback", content=body)
    assert reply.status_code == status
    assert says in reply.json()["error"]["message"]


ECHOED = [
    TextPiece(0, 5, "The", None, None, "The", (), prompt=True),
    TextPiece(0, 6, " sky", None, -2.5, " sky", ((" sun", -1.0),), prompt=True),
    TextPiece(0, 7, " is", "length", -0.5, " is", ((" is", -0.5),)),
    DONE,
]


def test_an_echoed_prompt_stands_in_front_with_its_log_probabilities(http, texts):
    texts.script = ECHOED
    asked = {"model": "m", "prompt": "The sky", "echo": True, "logprobs": 1, "max_tokens": 1}
    choice = http.post("/v1/completions", json=asked).json()["choices"][0]
    assert choice["text"] == "The sky is"
    assert choice["logprobs"] == {
        "tokens": ["The", " sky", " is"], "token_logprobs": [None, -2.5, -0.5],
        "top_logprobs": [None, {" sun": -1.0}, {" is": -0.5}], "text_offset": [0, 3, 7],
    }  # fmt: skip
    chunks, _ = events(http.post("/v1/completions", json={**asked, "stream": True}))
    assert "".join(c["choices"][0]["text"] for c in chunks) == "The sky is"
    assert [c["choices"][0]["logprobs"]["text_offset"] for c in chunks[:3]] == [[0], [3], [7]]


def test_an_echo_alone_ends_without_a_token_of_its_own(http, texts):
    texts.script = [*ECHOED[:2], TextPiece(0, -1, "", "length", prompt=True), DONE]
    asked = {"model": "m", "prompt": "The sky", "echo": True, "logprobs": 1, "max_tokens": 0}
    choice = http.post("/v1/completions", json=asked).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("The sky", "length")
    assert choice["logprobs"]["tokens"] == ["The", " sky"]
    texts.script = [TextPiece(0, 6, "The sky", prompt=True), TextPiece(0, -1, "", "length", prompt=True), DONE]
    choice = http.post("/v1/completions", json={**asked, "logprobs": None}).json()["choices"][0]
    assert (choice["text"], choice["logprobs"]) == ("The sky", None)
