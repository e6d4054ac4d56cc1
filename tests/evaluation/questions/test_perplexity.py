"""Perplexity of a text: figures that are numbers or missing, never endless, and passages kept as they are scored."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.evaluate import evaluate_command
from agent.cli.evaluation_tables import print_perplexity
from agent.errors import BadInput, QeilError
from agent.evaluation.questions import perplexity
from tests.evaluation.questions.server import serving

HEADER = {"model": "toy", "url": None, "mode": "exact"}


class Words:
    """Every word behind the first has this log-probability; after so many texts the model is gone."""

    def __init__(self, value: float, texts: int = 10**6) -> None:
        self.value, self.left, self.asked = value, texts, 0

    def logprobs(self, text: str) -> list[float]:
        if self.left == 0:
            raise QeilError("gone")
        self.left -= 1
        self.asked += 1
        return [self.value + i % 2 * 0.1 for i in range(len(text.split()) - 1)]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "wiki.txt"
    path.write_text("".join(f" = T{n} = \n" + "word " * (20 + n) + "\n" for n in range(5)))
    return path


def measured(text: Path, model: Words, limit: int | None = None) -> dict:
    return perplexity.measure(text, model, limit, lambda *_: None, text.parent / "run", HEADER)


def said(document: dict, capsys: pytest.CaptureFixture[str]) -> str:
    print_perplexity(document)
    return capsys.readouterr().out


def test_one_passage_has_no_interval(text, capsys):
    found = measured(text, Words(-2.0), 1)
    assert (found["low"], found["high"]) == (None, None)
    assert "one passage, so no interval" in said(found, capsys)


def test_several_passages_have_an_interval_around_the_figure(text, capsys):
    found = measured(text, Words(-2.0))
    assert found["low"] < found["perplexity"] < found["high"]
    assert len(said(found, capsys)) < 120


def test_a_perplexity_too_large_for_a_number_is_told_in_nats(text, capsys):
    found = measured(text, Words(-1000.0))
    assert found["perplexity"] is None
    assert found["nats_per_token"] == pytest.approx(1000.0, abs=0.1)
    assert "nats per token" in said(found, capsys)
    json.dumps(found, allow_nan=False)


def test_a_token_of_probability_nought_is_counted_and_lowers_nothing(text, capsys):
    found = measured(text, Words(-math.inf))
    assert found["perplexity"] is None
    assert found["impossible"] == found["tokens"]
    assert "have probability 0" in said(found, capsys)
    json.dumps(found, allow_nan=False)


def test_a_run_that_ended_early_goes_on_with_the_passages_that_are_missing(text):
    with pytest.raises(QeilError, match="gone"):
        measured(text, Words(-2.0, 2))
    kept = text.parent / "run" / "passages.jsonl"
    kept.write_bytes(kept.read_bytes() + b'{"passage": 2, "na')
    rest = Words(-2.0)
    found = measured(text, rest)
    assert rest.asked == 3
    (text.parent / "run" / "passages.jsonl").unlink()
    assert found == measured(text, Words(-2.0))


def test_passages_of_another_text_or_model_are_not_mixed(text):
    measured(text, Words(-2.0))
    with pytest.raises(BadInput, match="with model"):
        perplexity.measure(text, Words(-2.0), None, lambda *_: None, text.parent / "run", {**HEADER, "model": "other"})
    text.write_text(text.read_text() + "more words\n")
    with pytest.raises(BadInput, match="with text_sha256"):
        measured(text, Words(-2.0))


def test_a_damaged_line_is_named(text):
    measured(text, Words(-2.0))
    kept = text.parent / "run" / "passages.jsonl"
    kept.write_bytes(kept.read_bytes() + b"nonsense\n")
    with pytest.raises(BadInput, match=r"passages\.jsonl:7: no passage"):
        measured(text, Words(-2.0))


def test_text_of_single_words_has_nothing_to_score(tmp_path):
    (tmp_path / "one.txt").write_text("word\n")
    with pytest.raises(BadInput, match="nothing to score"):
        measured(tmp_path / "one.txt", Words(-2.0))


@pytest.mark.parametrize("more", [("--report", "r.html"), ("--verify",)])
def test_options_of_questions_are_refused_before_anything_is_asked(text, more):
    with serving() as server:
        result = CliRunner().invoke(evaluate_command, [
            "--dataset", "wikitext", "--data", str(text), "--model", "toy", "--url", server.url,
            "--out", str(text.parent / "run"), *more,
        ])  # fmt: skip
        assert "are of questions" in str(result.exception)
        assert not server.requests
