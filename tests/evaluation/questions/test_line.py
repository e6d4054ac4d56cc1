"""Lines of recordings: what they may hold, and that whatever else is there is told in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agent.cli.evaluate import evaluate_command
from agent.errors import BadInput
from agent.evaluation.questions import line
from agent.evaluation.questions.checks import CheckBook
from agent.evaluation.questions.endpoint import Endpoint
from agent.evaluation.questions.journal import recorded

HEADER = {"header": {"dataset": "sums-0", "questions": 1, "model": "m", "seed": 0}}
SAMPLE = {"text": "5", "tokens": 1, "seconds": 0.5, "joules": 1.0, "provenance": "modelled", "mean_logprob": -0.5}
VERDICT = {
    "question": "sums-0-0", "answer": "5", "check": "verifier", "outcome": "pass", "joules": 1.0,
    "provenance": "stated",
}  # fmt: skip


def batch(greedy: bool = False, **changed: Any) -> dict[str, Any]:
    return {"question": "sums-0-0", "greedy": greedy, "samples": [SAMPLE | changed]}


def written(folder: Path, *rows: dict[str, Any] | str, name: str = "samples.jsonl") -> Path:
    file = folder / name
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def test_what_a_run_writes_is_read(tmp_path):
    found = recorded(written(tmp_path, HEADER, batch(greedy=True), batch(joules=None, mean_logprob=None, seconds=2)))
    assert found.header == HEADER["header"]
    assert found.greedy["sums-0-0"].text == "5"
    assert [(d.joules, d.mean_logprob, d.seconds) for d in found.samples("sums-0-0")] == [(None, None, 2.0)]


@pytest.mark.parametrize(("changed", "key"), [
    ({"tokens": "x"}, "tokens"), ({"tokens": -5}, "tokens"), ({"seconds": None}, "seconds"),
    ({"seconds": -1.0}, "seconds"), ({"joules": float("nan")}, "joules"), ({"joules": -5.0}, "joules"),
    ({"text": 5}, "text"), ({"mean_logprob": "a"}, "mean_logprob"), ({"provenance": "guessed"}, "provenance"),
    ({"more": 1}, "more"),
])  # fmt: skip
def test_samples_that_are_none_are_named_by_line_and_key(changed, key, tmp_path):
    file = written(tmp_path, HEADER, batch(**changed))
    with pytest.raises(BadInput, match=rf"samples\.jsonl:2: no line of an evaluation \(samples\.0\.{key}: ") as told:
        recorded(file)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("rows", "why"), [
    ([{"header": {"dataset": "sums-0"}}], r":1: .*header\.model"),
    ([{"header": {"dataset": None, "model": "m"}}], r":1: .*header\.dataset"),
    ([{"header": HEADER["header"] | {"seed": "zz"}}], r":1: .*header\.seed"),
    ([{"header": HEADER["header"] | {"questions": 10**9}}], r":1: .*header\.questions"),
    ([HEADER, batch(greedy=True), batch(greedy=True, seconds=0.7)], ":3: .*the greedy answer .* was there before"),
    ([HEADER, batch(), batch(seconds=0.7), batch()], ":4: .*the same as line 2"),
    ([HEADER, {"question": "sums-0-0", "greedy": False, "samples": []}], ":2: .*samples"),
    ([HEADER, "[" * 200_000], ":2: .*invalid JSON"), ([HEADER, "5"], ":2: .*object"),
])  # fmt: skip
def test_headers_batches_and_documents_that_are_none_are_named(rows, why, tmp_path):
    with pytest.raises(BadInput, match=why):
        recorded(written(tmp_path, *rows))


def test_an_archive_that_is_damaged_inside_is_named(tmp_path):
    (tmp_path / "samples.jsonl.gz").write_bytes(b"\x1f\x8b\x08\x00" + b"junk" * 20)
    with pytest.raises(BadInput, match=r"samples\.jsonl\.gz: "):
        recorded(tmp_path / "samples.jsonl.gz")


@pytest.mark.parametrize(("changed", "key"), [
    ({"outcome": "maybe"}, "outcome"), ({"joules": float("nan")}, "joules"), ({"joules": -5.0}, "joules"),
    ({"provenance": "guessed"}, "provenance"), ({"answer": 5}, "answer"),
])  # fmt: skip
def test_verdicts_that_are_none_are_named_by_line_and_key(changed, key, tmp_path):
    written(tmp_path, {"header": {}}, VERDICT, VERDICT | changed, name="checks.jsonl")
    with pytest.raises(BadInput, match=rf"checks\.jsonl:3: no verdict \({key}: "):
        CheckBook(tmp_path, None)


def test_a_comparison_on_a_broken_recording_ends_as_other_bad_input_does(tmp_path):
    result = CliRunner().invoke(evaluate_command, ["--replay", str(written(tmp_path, HEADER, batch(tokens="x")))])
    assert isinstance(result.exception, BadInput)


def test_a_header_keeps_keys_of_other_versions():
    assert line.run_header(json.dumps({"header": {"dataset": "d", "model": "m", "new": [1]}}).encode()) == {
        "dataset": "d", "model": "m", "new": [1],
    }  # fmt: skip


@pytest.mark.parametrize("energy", [
    {"energy_j": -1.0, "provenance": "measured"}, {"energy_j": "much", "provenance": "measured"},
    {"energy_j": float("nan"), "provenance": "measured"}, {"energy_j": True, "provenance": "modelled"},
    {"energy_j": None, "provenance": ["measured"]},
])  # fmt: skip
def test_joules_of_a_server_that_are_none_are_unknown_and_what_is_kept_can_be_read(energy, monkeypatch, tmp_path):
    endpoint = Endpoint("127.0.0.1:1", "m", 8, 0.5)
    choice = {"message": {"content": "5"}, "logprobs": {"content": [{"logprob": float("-inf")}]}}
    monkeypatch.setattr(endpoint, "_post", lambda *_: {"choices": [choice], "usage": {"energy": energy}})
    (drawn,) = endpoint.sample("?", 1, 0)
    assert (drawn.joules, drawn.provenance, drawn.mean_logprob) == (None, "unknown", None)
    kept = {"question": "q", "greedy": False, "samples": [vars(drawn)]}
    assert recorded(written(tmp_path, HEADER, kept)).samples("q") == [drawn]
