"""The cascade of checks in `qeil evaluate`: verdicts kept, resumed and replayed, and verifiers that misbehave."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.evaluate import evaluate_command
from agent.errors import BadInput
from agent.evaluation.questions import generated, reading
from agent.evaluation.questions.checks import CheckBook, Program, Verdict, candidates, check_all
from agent.evaluation.questions.endpoint import Drawn
from agent.evaluation.questions.question import Question
from tests.evaluation.questions.server import serving

SUM = reading.parsed("x", generated.lines("additions", 1)).questions[0]


def drawn(text: str, logprob: float | None = -0.5) -> Drawn:
    return Drawn(text, 4, 0.1, 1.0, "modelled", logprob)


def called(*arguments: str) -> dict:
    result = CliRunner().invoke(evaluate_command, [*arguments, "--json"])
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


def verified(url: str, folder, *more: str, questions: int = 2) -> dict:
    return called("--dataset", "arithmetic", "--model", "toy", "--url", url, "--out", str(folder),
                  "--questions", str(questions), "--samples", "6", "--alpha", "0.01", "--verify", *more)  # fmt: skip


class Asked:
    """A model that says the same to everything."""

    def __init__(self, text: str) -> None:
        self.text, self.prompts, self.seeds = text, [], []

    def sample(self, prompt: str, count: int, seed: int, greedy: bool = False) -> list[Drawn]:
        self.prompts.append(prompt)
        self.seeds.append(seed)
        return [drawn(self.text)] * count


def test_the_cascade_asks_the_dear_verifier_less_often_and_is_right_as_often(tmp_path):
    with serving(skill=0.45) as server:
        found = verified(server.url, tmp_path / "run", questions=16)["eac"]
    assert found["accuracy"] >= found["every"]["accuracy"] > 0.6
    assert found["avoided"] == pytest.approx(1 - found["verifier_calls"] / found["every"]["verifier_calls"])
    assert found["avoided"] > 0.6
    assert found["checks_j"] < found["every"]["checks_j"]
    steps = [step for one in found["trace"] for step in one["checks"]]
    assert {"self_check", "logprob"} <= {step["check"] for step in steps}
    assert all(0 <= step["belief"] <= 1 and step["joules"] >= 0 for step in steps)


def test_verdicts_are_asked_once_and_replayed_without_a_model(tmp_path):
    out = tmp_path / "run"
    with serving(skill=0.45) as server:
        found = verified(server.url, out)
        asked = len(server.requests)
        raw = (out / "checks.jsonl").read_bytes()
        (out / "checks.jsonl").write_bytes(raw[: len(raw) // 2])
        assert verified(server.url, out) == found
        assert len(server.requests) < 2 * asked
    assert called("--replay", str(out), "--samples", "6", "--alpha", "0.01") == found


def test_without_joules_no_check_has_a_price_and_there_is_no_cascade(tmp_path):
    with serving(energy=False) as server:
        assert verified(server.url, tmp_path / "run")["eac"] is None


def test_verdicts_of_another_verifier_are_not_mixed(tmp_path):
    with serving() as server:
        verified(server.url, tmp_path / "run")
        with pytest.raises(BadInput, match="choose another --out"):
            verified(server.url, tmp_path / "run", "--verifier", "true")


@pytest.mark.parametrize(("code", "outcome"), [
    ("raise SystemExit(0)", "pass"), ("raise SystemExit(1)", "fail"), ("raise SystemExit(3)", "unknown"),
    ("import os; os.abort()", "unknown"), ("import time; time.sleep(60)", "unknown"),
    ("import sys, json; told = json.load(sys.stdin); raise SystemExit(told['answer'] != '7')", "pass"),
])  # fmt: skip
def test_a_verifier_that_crashes_or_hangs_says_nothing_and_costs(code, outcome, tmp_path):
    (tmp_path / "verifier.py").write_text(code)
    program = Program(f"{sys.executable} {tmp_path / 'verifier.py'}", 2.5, 1.0 if "sleep" in code else 30.0)
    assert program(SUM, "7", "It is 7") == Verdict(outcome, 2.5, "stated")


def test_a_verifier_that_is_not_there_is_said():
    with pytest.raises(BadInput, match="no-such-program"):
        Program("no-such-program", 1.0)(SUM, "7", "7")


@pytest.mark.parametrize(("command", "why"), [
    (" ", "names no program"), ("", "names no program"), ("no-such-program", "no program no-such-program"),
    ("'open", "No closing quotation"),
])  # fmt: skip
def test_a_verifier_that_cannot_be_run_is_refused_before_anything_is_asked(command, why, tmp_path):
    with serving() as server:
        with pytest.raises(BadInput, match=why):
            verified(server.url, tmp_path / "run", "--verifier", command)
        assert not server.requests


def test_a_verifier_that_prints_without_end_fills_no_memory_and_is_ended():
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert Program("yes", 1.0, 0.5)(SUM, "7", "7") == Verdict("unknown", 1.0, "stated")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 64 * 1024


def test_the_children_of_a_verifier_that_takes_too_long_are_ended_with_it(tmp_path):
    script = tmp_path / "verifier"
    script.write_text(f"#!/bin/sh\nsleep 60 &\necho $! > {tmp_path / 'child'}\nsleep 60\n")
    script.chmod(0o755)
    assert Program(str(script), 1.0, 4.0)(SUM, "7", "7").outcome == "unknown"
    child = Path(f"/proc/{(tmp_path / 'child').read_text().strip()}/stat")
    for _ in range(500):
        if not child.exists() or child.read_text().rpartition(")")[2].split()[0] in "ZX":
            return
        time.sleep(0.01)
    raise AssertionError("the child is still there")


def test_a_verifier_without_verify_is_refused(tmp_path):
    with pytest.raises(BadInput, match="needs --verify"):
        called("--dataset", "sums", "--model", "m", "--out", str(tmp_path), "--verifier", "true")


def test_the_answers_with_the_most_votes_are_candidates_with_all_their_samples():
    found = candidates(SUM, [drawn(str(n)) for n in (1, 2, 3, 4, 5, 2)] + [drawn("none")])
    assert {answer: len(of) for answer, of in found.items()} == {"1": 1, "2": 2, "3": 1, "4": 1}


@pytest.mark.parametrize(("text", "plain"), [
    ("#### 99", "pass"), ("It is 99", "pass"), (f"{SUM.text} 99", "pass"), ("It is 98 or 99", "fail"),
])  # fmt: skip
def test_a_number_is_plain_where_it_is_marked_or_the_only_one_beside_the_questions(text, plain, tmp_path):
    assert checked(SUM, [drawn(text)], Asked("yes"), tmp_path)["99", "plain"] == plain


@pytest.mark.parametrize(("text", "plain"), [("The answer is B", "pass"), ("(B) it is", "fail")])
def test_a_choice_is_plain_where_it_is_named(text, plain, tmp_path):
    choice = Question("c", "choice", "Which?", "B", (("A", "one"), ("B", "two")))
    assert checked(choice, [drawn(text)], Asked("no"), tmp_path)["B", "plain"] == plain


def test_confidence_is_compared_with_the_middle_of_the_question_and_unknown_where_the_model_says_none(tmp_path):
    found = checked(SUM, [drawn("98", -0.1), drawn("99", -2.0), drawn("98", -0.3)], Asked("maybe"), tmp_path)
    assert (found["98", "logprob"], found["99", "logprob"]) == ("pass", "fail")
    assert found["98", "self_check"] == found["98", "verifier"] == "unknown"
    (tmp_path / "checks.jsonl").unlink()
    assert checked(SUM, [drawn("98", None)], Asked("98"), tmp_path)["98", "logprob"] == "unknown"


def checked(question: Question, pool: list[Drawn], model: Asked, folder) -> dict[tuple[str, str], str]:
    book = CheckBook(folder, {"verifier": "again"})
    check_all(question, pool, model, book, 0, "steps", None)
    book.close()
    rows = [json.loads(line) for line in (folder / "checks.jsonl").read_text().splitlines()[1:]]
    return {(row["answer"], row["check"]): row["outcome"] for row in rows}


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "checks.jsonl").write_text('{"header": {}}\n{"question": 1}\n')
    with pytest.raises(BadInput, match=r"checks\.jsonl:2: no verdict"):
        CheckBook(tmp_path, None)


@pytest.mark.parametrize(("said", "outcome"), [
    ("yes", "pass"), ("**Yes**", "pass"), ("Yes.\n", "pass"), ("'No'", "fail"), ("NO!", "fail"),
    ("No errors found: the answer is right.", "unknown"), ("Not wrong.", "unknown"), ("Noted. Yes.", "unknown"),
    ("Yesterday I would have said no", "unknown"), ("Nothing is wrong with it; yes, it is right.", "unknown"),
    ("", "unknown"),
])  # fmt: skip
def test_only_yes_and_no_are_verdicts_of_the_model(said, outcome, tmp_path):
    assert checked(SUM, [drawn("99")], Asked(said), tmp_path)["99", "self_check"] == outcome


def test_every_answer_is_derived_with_a_seed_of_its_own(tmp_path):
    model = Asked("= 12")
    checked(SUM, [drawn("12"), drawn("21"), drawn("102")], model, tmp_path)
    again = [seed for prompt, seed in zip(model.prompts, model.seeds, strict=True) if prompt.startswith("Work")]
    assert len(set(again)) == len(again) == 3
