"""Strategies answered live: asked by turns, kept on disk, compared in pairs."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from agent.cli.evaluate import evaluate_command
from agent.errors import BadInput
from agent.evaluation.questions import beside, generated, live, reading
from agent.evaluation.questions.endpoint import Answer
from agent.sampling.strategy import Strategy
from tests.evaluation.questions.server import serving
from tests.evaluation.questions.test_evaluate import arguments

LIVE = ("--live", "majority,qeil", "--worth-samples", "800", "--parallel", "4", "--questions", "60")


def shown(*command: str) -> str:
    result = CliRunner().invoke(evaluate_command, list(command))
    if result.exception is not None:
        raise result.exception
    return result.stdout


def found(url, folder, *more, dataset="arithmetic") -> dict:
    return json.loads(shown(*arguments(url, folder, *LIVE, "--json", *more, dataset=dataset)))


def test_each_strategy_is_asked_every_question_with_the_same_seed(tmp_path):
    with serving() as server:
        document = found(server.url, tmp_path)
        by_plan = {}
        for body in server.requests:
            by_plan.setdefault(body["qeil"]["strategy"], {})[body["messages"][0]["content"]] = body["seed"]
    assert by_plan["majority"] == by_plan["csvet"]
    assert document["n"] == 60
    plans = [body["qeil"] for body in server.requests]
    assert {"strategy": "majority", "max_samples": 16, "answer": "number"} in plans
    assert {"strategy": "csvet", "max_samples": 16, "answer": "number", "alpha": 0.05, "certify": "majority",
            "worth_samples": 800.0} in plans  # fmt: skip


def test_strategies_take_turns_and_never_mix(tmp_path):
    with serving() as server:
        found(server.url, tmp_path)
    rules = [body["qeil"]["strategy"] for body in server.requests]
    assert rules == ["majority"] * 25 + ["csvet"] * 50 + ["majority"] * 35 + ["csvet"] * 10


def test_what_each_took_stands_beside_the_first(tmp_path):
    with serving() as server:
        document = found(server.url, tmp_path)
        table = shown(*arguments(server.url, tmp_path, *LIVE))
    majority, qeil = document["live"]
    assert majority["beside"] is None
    assert qeil["beside"]["tokens"] == [pytest.approx(0.25)] * 3
    assert qeil["beside"]["energy_j"] == [pytest.approx(1 / 3)] * 3
    low, high = qeil["beside"]["right_more"][1:]
    assert qeil["beside"]["right_more"][0] == 0.0
    assert -0.05 < low < 0.0 < high < 0.05  # 60 pairs of which none differs are no proof that none ever does
    assert qeil["beside"]["same_answer"] == 1.0
    assert majority["no_answer"] == qeil["no_answer"] > 0
    assert majority["accuracy_interval"][0] < majority["accuracy"] < majority["accuracy_interval"][1]
    assert "Beside majority of 16" in table
    assert "33.3%" in table


def test_joules_that_are_unknown_of_a_few_leave_the_share_of_the_others(tmp_path):
    with serving() as server:
        found(server.url, tmp_path)
    book = tmp_path / live.FILE
    lines = [json.loads(line) for line in book.read_text().splitlines()]
    lines[3]["answer"] |= {"joules": None, "provenance": "unknown"}
    book.write_text("".join(json.dumps(line) + "\n" for line in lines))
    document = json.loads(shown("--replay", str(tmp_path), "--json"))
    assert document["live"][0]["energy_j"] is None
    assert document["live"][1]["beside"]["energy_j"] == [pytest.approx(1 / 3)] * 3
    assert document["live"][1]["beside"]["energy_pairs"] == 59
    assert "of the 59 questions where both are known" in shown("--replay", str(tmp_path))


def test_a_run_goes_on_where_it_was_and_is_replayed_without_a_server(tmp_path):
    with serving() as server:
        whole = found(server.url, tmp_path)
        book = tmp_path / live.FILE
        book.write_bytes(book.read_bytes()[: book.stat().st_size // 2])
        asked = len(server.requests)
        again = found(server.url, tmp_path)
        assert asked < len(server.requests) < asked + 120
    for document in (whole, again):
        for row in document["live"]:
            row.pop("seconds")
    assert again == whole
    replayed = json.loads(shown("--replay", str(tmp_path), "--json"))
    for row in replayed["live"]:
        row.pop("seconds")
    assert replayed == whole


def test_unknown_joules_stay_unknown(tmp_path):
    with serving(energy=False) as server:
        document = found(server.url, tmp_path)
    assert [row["energy_j"] for row in document["live"]] == [None, None]
    assert document["live"][1]["beside"]["energy_j"] is None
    assert document["live"][1]["provenance"] == "unknown"


def test_choices_are_named_to_the_agent(tmp_path):
    with serving() as server:
        found(server.url, tmp_path, "--questions", "2", dataset="choice")
    assert all(body["qeil"]["choices"] == ["A", "B", "C", "D"] for body in server.requests)


@pytest.mark.parametrize(("more", "why"), [
    (["--live", "standard"], "a way to price"), (["--live", "magic"], "unknown strategy"),
    (["--verify"], "takes no wikitext, --report or --verify"), (["--report", "x.html"], "--report or --verify"),
])  # fmt: skip
def test_what_does_not_go_with_live_answers_is_refused_before_anything_is_asked(tmp_path, more, why):
    with serving() as server:
        with pytest.raises(BadInput, match=why):
            found(server.url, tmp_path, *more)
        assert not server.requests


def test_a_folder_or_a_server_that_knows_no_strategies_cannot_be_asked_live(tmp_path):
    with pytest.raises(BadInput, match="--live needs --url"):
        shown("--dataset", "sums", "--model", "x", "--out", str(tmp_path), "--live", "majority")


def test_a_book_of_another_run_and_damaged_lines_are_refused(tmp_path):
    with serving() as server:
        found(server.url, tmp_path)
        with pytest.raises(BadInput, match="a run with parallel 4, not 2"):
            found(server.url, tmp_path, "--parallel", "2")
        asked = len(server.requests)
        with pytest.raises(BadInput, match=r"a run with strategies .*800.*, not .*400"):
            found(server.url, tmp_path, "--worth-samples", "400")
        assert len(server.requests) == asked  # else answers of two settings would count as one strategy's
        book = tmp_path / live.FILE
        raw = book.read_bytes()
        lines = raw.split(b"\n")
        for damage, why in (
            (lines[-2] + b"\n", r"live\.jsonl:122.*was answered by"),
            (b'{"strategy": "x", "question": "q", "answer": {}}\n', r"live\.jsonl:122.*answer\.text"),
        ):
            book.write_bytes(raw + damage)
            with pytest.raises(BadInput, match=why):
                found(server.url, tmp_path)


def test_shares_and_differences_have_the_intervals_of_pairs(tmp_path):
    questions = reading.parsed("sums-1", generated.lines("sums", 4, 1))
    book = live.LiveBook(tmp_path, {"dataset": "sums-1", "model": "m"})
    for number, question in enumerate(questions.questions):

        def told(text, tokens, question=question):
            return Answer(text, 1, tokens, 1.0, float(tokens), "modelled", "samples", False)

        book.add("a", question.id, told(question.truth, 100))
        book.add("b", question.id, told(question.truth if number else "-1", 40 + 10 * (number % 2)))
    book.close()
    row = beside.build(questions, book, ["a", "b"])["live"][1]["beside"]
    half = 1.95996 * (2 / 36 - 1 / 216) ** 0.5  # half a pair more of each kind: 1.5 worse, 0.5 better, 6 in all
    assert row["right_more"] == [pytest.approx(-0.25), pytest.approx(-1 / 6 - half, abs=1e-4),
                                 pytest.approx(-1 / 6 + half, abs=1e-4)]  # fmt: skip
    half = 3.1824 * 0.05 / 3**0.5
    assert row["tokens"] == [pytest.approx(0.45), pytest.approx(0.45 - half, abs=1e-4),
                             pytest.approx(0.45 + half, abs=1e-4)]  # fmt: skip
    assert row["same_answer"] == 0.75


def test_the_plan_says_only_what_the_strategy_has():
    question = reading.parsed("sums-1", generated.lines("sums", 1, 1)).questions[0]
    assert live.plan_of(Strategy("greedy", 1), question) == {"strategy": "greedy", "max_samples": 1, "answer": "number"}
    assert live.plan_of(Strategy("beta", 16, threshold=0.9), question)["threshold"] == 0.9
