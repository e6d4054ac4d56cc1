"""Questions side by side: the same results, bounded, and ended by the first error."""

from __future__ import annotations

import json
import threading

import pytest
from click.testing import CliRunner

from agent.cli.evaluate import evaluate_command
from agent.errors import BadInput, QeilError
from agent.evaluation.questions import abreast
from tests.evaluation.questions.server import serving
from tests.evaluation.questions.test_evaluate import arguments, evaluated, without_times


def test_results_do_not_depend_on_how_many_questions_are_in_flight(tmp_path):
    few = ("--questions", "12", "--samples", "4")
    with serving(delay_s=0.01) as server:
        one = evaluated(server.url, tmp_path / "one", *few)
        assert server.most_side_by_side == 1
        four = evaluated(server.url, tmp_path / "four", *few, "--parallel", "4")
        assert 1 < server.most_side_by_side <= 4
        assert without_times(four) == without_times(one)
        asked = len(server.requests)
        evaluated(server.url, tmp_path / "four", *few, "--parallel", "2")
        assert len(server.requests) == asked


def test_a_run_side_by_side_that_was_cut_goes_on_and_ends_the_same(tmp_path):
    few = ("--questions", "8", "--samples", "4", "--parallel", "4")
    with serving() as server:
        whole = evaluated(server.url, tmp_path, *few)
        journal = tmp_path / "samples.jsonl"
        raw = journal.read_bytes()
        journal.write_bytes(raw[: len(raw) // 2])
        assert without_times(evaluated(server.url, tmp_path, *few)) == without_times(whole)


def test_the_first_error_ends_the_run_and_no_question_is_begun_after_it(tmp_path):
    with serving() as server:
        server.refuse = [400] * 1000
        result = CliRunner().invoke(
            evaluate_command, arguments(server.url, tmp_path, "--questions", "200", "--parallel", "4")
        )
        assert isinstance(result.exception, QeilError)
        assert len(server.requests) <= 4


def test_a_folder_answers_one_question_at_a_time(tmp_path):
    command = ["--dataset", "sums", "--model", str(tmp_path), "--out", str(tmp_path / "run"), "--parallel", "2"]
    result = CliRunner().invoke(evaluate_command, command)
    assert isinstance(result.exception, BadInput)
    assert "--parallel needs --url" in result.exception.message


def test_every_item_is_worked_on_once_and_each_worker_has_one_at_a_time():
    busy, seen, lock = set(), [], threading.Lock()

    def work(worker, item):
        with lock:
            assert worker not in busy
            busy.add(worker)
        with lock:
            seen.append(item)
            busy.discard(worker)

    abreast.each(range(500), "abcd", work)
    assert sorted(seen) == list(range(500))


@pytest.mark.parametrize("workers", ["a", "abc"])
def test_an_error_is_raised_where_the_work_was_asked_for(workers):
    done = []

    def work(_, item):
        if item == 3:
            raise ValueError("three")
        done.append(item)

    with pytest.raises(ValueError, match="three"):
        abreast.each(range(1_000_000), workers, work)  # so many that the other workers cannot do all of them first
    assert len(done) < 999_999


def test_ten_failures_in_a_row_end_a_run_side_by_side(tmp_path):
    with serving() as server:
        server.live = False
        result = CliRunner().invoke(
            evaluate_command,
            arguments(server.url, tmp_path, "--questions", "60", "--parallel", "4", "--live", "majority"),
        )
    assert isinstance(result.exception, QeilError)
    assert "10 questions in a row failed" in result.exception.message
    assert json.loads((tmp_path / "live.jsonl").read_text().splitlines()[0])["header"]["parallel"] == 4
