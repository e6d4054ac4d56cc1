"""Servers that answer what the protocol does not say: counted and named, no end of the run and no made-up figure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.evaluate import evaluate_command
from agent.errors import QeilError
from agent.evaluation.questions.endpoint import Endpoint, OddAnswer
from tests.evaluation.questions.server import Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as found:
        yield found


def evaluated(server: Server, folder: Path, *more: str) -> Result:
    return CliRunner().invoke(evaluate_command, [
        "--dataset", "arithmetic", "--model", "toy", "--url", server.url, "--out", str(folder), "--samples", "2",
        "--questions", "3", "--json", *more,
    ])  # fmt: skip


def spoiling(server: Server, spoil: Callable[[dict], object], first: int = 0) -> None:
    """Every answer from the first so-many-th on is what `spoil` makes of it."""
    whole, count = server.RequestHandlerClass._chat, iter(range(10**6))

    class Spoilt(server.RequestHandlerClass):
        def _chat(self, body: dict) -> object:
            found = whole(self, body)
            return found if next(count) < first else spoil(found)

    server.RequestHandlerClass = Spoilt


def with_choice(key: str, value: object) -> Callable[[dict], object]:
    return lambda answer: {**answer, "choices": [{**choice, key: value} for choice in answer["choices"]]}


ODD = [
    with_choice("message", "hi"), with_choice("message", {"content": [1]}), with_choice("logprobs", "none"),
    with_choice("logprobs", {"content": ["x"]}), lambda answer: {**answer, "usage": "none"},
    lambda answer: {**answer, "usage": {"energy": 5}}, lambda answer: {**answer, "choices": 5}, lambda _: [],
]  # fmt: skip


@pytest.mark.parametrize("spoil", ODD)
def test_an_odd_answer_is_a_failed_question_which_is_said_and_asked_again(server, tmp_path, spoil):
    spoiling(server, spoil, first=4)  # of each question a greedy answer and one batch: the third one fails
    result = evaluated(server, tmp_path)
    assert result.exit_code == 0, result.exception
    assert result.stderr.count("1 questions failed, the first, arithmetic-0-2, because") == 1
    assert json.loads(result.stdout)["n"] == 2
    server.RequestHandlerClass = server.RequestHandlerClass.__mro__[1]
    assert json.loads(evaluated(server, tmp_path).stdout)["n"] == 3


def test_where_every_answer_is_odd_there_is_no_result(server, tmp_path):
    spoiling(server, ODD[0])
    assert str(evaluated(server, tmp_path).exception).startswith("no question was answered: 3 questions failed")
    ended = evaluated(server, tmp_path / "more", "--questions", "40")
    assert isinstance(ended.exception, QeilError)
    assert "10 questions in a row failed" in str(ended.exception)


def test_half_a_character_is_kept_as_what_it_is_and_read_beside(server, tmp_path):
    spoiling(server, with_choice("message", {"content": "\ud800 #### 7"}))
    result = evaluated(server, tmp_path)
    assert result.exit_code == 0
    assert "\ufffd #### 7" in (tmp_path / "samples.jsonl").read_text()


@pytest.mark.parametrize("value", [None, "x", True, float("nan"), 10**400])
def test_a_log_probability_that_is_none_is_unknown(server, value):
    spoiling(server, with_choice("logprobs", {"content": [{"logprob": -0.5}, {"logprob": value}]}))
    endpoint = Endpoint(server.url, "toy", 10, 0.7)
    assert endpoint.sample("There are 2 eggs.", 1, 0)[0].mean_logprob is None
    endpoint.close()


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([
        "message", "content", "logprobs", "logprob", "usage", "energy", "energy_j", "completion_tokens",
    ]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


class Saying(Endpoint):
    """An endpoint whose server says this."""

    def __init__(self, said: object) -> None:
        super().__init__("127.0.0.1:1", "toy", 10, 0.7)
        self._said = json.dumps(said).encode()

    def _once(self, path: str, payload: bytes) -> tuple[int, dict[str, str], bytes]:
        return 200, {}, self._said


@given(st.dictionaries(st.sampled_from(["message", "logprobs"]), ANY), ANY)
def test_whatever_json_a_server_says_is_samples_or_an_odd_answer(choice, usage):
    try:
        (drawn,) = Saying({"choices": [choice], "usage": usage}).sample("x", 1, 0)
    except OddAnswer:
        return
    json.dumps(vars(drawn), ensure_ascii=False, allow_nan=False).encode()
    assert drawn.tokens >= 0
    assert drawn.joules is None or drawn.joules >= 0


@given(ANY)
def test_whatever_json_a_server_says_is_log_probabilities_or_an_error_of_ours(said):
    try:
        values = Saying({"choices": [{"logprobs": {"token_logprobs": said}}]}).logprobs("x")
    except QeilError:
        return
    assert all(value <= 0.001 for value in values)
