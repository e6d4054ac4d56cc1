"""`qeil evaluate --replay`: comparisons on the samples of a run, without a model; and matched errors."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.evaluate import evaluate_command
from agent.errors import BadInput
from agent.evaluation.questions import generated, matching, reading
from agent.evaluation.questions.scoring import Answered
from agent.sampling.strategy import Sample
from tests.evaluation.questions.server import serving


def called(*arguments: str) -> str:
    result = CliRunner().invoke(evaluate_command, list(arguments))
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("run") / "out"
    with serving(skill=0.7) as server:
        shown = called("--dataset", "additions", "--model", "toy", "--url", server.url, "--out", str(folder),
                       "--questions", "12", "--samples", "8", "--json")  # fmt: skip
    return folder, json.loads(shown)


def test_a_replay_says_what_the_run_said(run):
    folder, found = run
    assert json.loads(called("--replay", str(folder), "--samples", "8", "--json")) == found


def test_a_recording_packed_by_gzip_is_read_and_nothing_is_written(run, tmp_path):
    folder, found = run
    packed = tmp_path / "samples.jsonl.gz"
    packed.write_bytes(gzip.compress((folder / "samples.jsonl").read_bytes()))
    assert json.loads(called("--replay", str(packed), "--samples", "8", "--json")) == found
    assert [path.name for path in tmp_path.iterdir()] == ["samples.jsonl.gz"]


def test_a_replay_takes_as_many_samples_as_the_run_has_where_none_are_said(run):
    assert json.loads(called("--replay", str(run[0]), "--json")) == run[1]


def test_questions_whose_pool_is_not_full_are_left_out_and_counted(run, tmp_path):
    lines = (run[0] / "samples.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "samples.jsonl").write_text("".join(lines[:-1]) + lines[-1][:20])
    shown = CliRunner().invoke(evaluate_command, ["--replay", str(tmp_path), "--samples", "8"])
    assert shown.exit_code == 0
    assert "1 questions of the run have fewer samples: left out" in shown.output
    assert "11 questions" in shown.output
    assert "Beta that errs as" in shown.output


@pytest.mark.parametrize(
    ("content", "more", "why"),
    [
        (None, ("--samples", "9"), "no question has 9 samples"),
        (None, ("--out", "elsewhere"), "--out does not go with it"),
        ("", (), "no recording"),
        ('{"greedy": 1}\n', (), ":1: no line of an evaluation"),
        ('{"header": {"dataset": "test", "model": "m", "questions": null}}\n', (), "give it by --data"),
    ],
)
def test_a_replay_of_nothing_is_refused(run, tmp_path, content, more, why):
    folder = run[0]
    if content is not None:
        folder = tmp_path
        (tmp_path / "samples.jsonl").write_text(content)
    with pytest.raises(BadInput, match=why):
        called("--replay", str(folder), *more)


def test_a_damaged_archive_is_named(tmp_path):
    (tmp_path / "samples.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(BadInput, match=r"samples\.jsonl\.gz"):
        called("--replay", str(tmp_path / "samples.jsonl.gz"))


@pytest.mark.parametrize("missing", ["--dataset", "--model", "--out"])
def test_a_run_needs_to_know_what_of_whom_and_where(missing, tmp_path):
    given = {"--dataset": "sums", "--model": "toy", "--out": str(tmp_path), "--url": "127.0.0.1:1"}
    arguments = [part for name, value in given.items() if name != missing for part in (name, value)]
    with pytest.raises(BadInput, match=f"{missing} is missing"):
        called(*arguments)


def test_a_recording_of_a_file_is_compared_with_the_file_given_again(tmp_path):
    data = tmp_path / "mine.jsonl"
    data.write_text("\n".join(generated.lines("sums", 4, 1)))
    out = str(tmp_path / "out")
    with serving(skill=0.7) as server:
        called("--dataset", "gsm8k", "--data", str(data), "--model", "toy", "--url", server.url, "--out", out,
               "--samples", "4")  # fmt: skip
    found = json.loads(called("--replay", out, "--data", str(data), "--samples", "4", "--json"))
    assert found["n"] == 4


def test_additions_never_repeat_and_more_than_there_are_is_refused(tmp_path):
    asked = {json.loads(line)["question"] for line in generated.lines("additions", 400, 7)}
    assert len(asked) == 400
    with pytest.raises(BadInput, match="400 different additions"):
        called("--dataset", "additions", "--questions", "401", "--model", "m", "--url", "127.0.0.1:1",
               "--out", str(tmp_path))  # fmt: skip


def pools(*answers: str) -> list[Answered]:
    question = reading.parsed("x", generated.lines("sums", 1)).questions[0]
    return [
        Answered(question, Sample("a", 10, 1.0), tuple(Sample(None if a == "-" else a, 10, 1.0) for a in answer))
        for answer in answers
    ]


def test_matched_errors_are_counted_in_every_order_and_beta_errs_no_more_often():
    rows = matching.matched(pools("a" * 16, "aaaaaaaabbbbbbb-", "abcdefghijklmnop", "-" * 16))
    assert [row["alpha"] for row in rows] == list(matching.ALPHAS)
    assert [row["error"] for row in rows] == sorted(row["error"] for row in rows)
    assert all(row["beta_error"] <= row["error"] <= row["alpha"] for row in rows)
    assert all(row["tokens"] == pytest.approx(10 * row["samples"]) for row in rows)


def test_unanimous_pools_stop_where_the_lines_begin():
    row = matching.matched(pools("a" * 16))[0]
    assert (row["samples"], row["error"]) == (4.0, 0.0)
    assert (row["beta_threshold"], row["beta_samples"]) == (0.7, 1.0)


def test_where_no_threshold_errs_so_rarely_beta_has_no_figures():
    pool = "aaaaaaaabbbbbbbb" * 8
    assert matching.matched(pools(pool + "a")) == []
    assert matching.matched(pools("ab" * 64))[0]["beta_tokens"] is not None


def test_beta_also_stops_where_the_samples_left_cannot_change_the_vote(monkeypatch):
    monkeypatch.setattr(matching, "THRESHOLDS", (0.999,))
    assert matching.matched(pools("a" * 8))[0]["beta_samples"] == 5.0  # by its line alone it would take all eight


def test_beta_is_not_held_to_a_threshold_much_higher_than_it_needs():
    steps = [high - low for low, high in pairwise(matching.THRESHOLDS)]
    assert all(0 < step < 0.0051 for step in steps)
