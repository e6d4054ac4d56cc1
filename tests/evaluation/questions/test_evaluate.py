"""`qeil evaluate` from outside: against a server, killed and resumed, with bad options, and its report."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.evaluate import evaluate_command
from agent.errors import BadInput, Overloaded, QeilError
from agent.evaluation.questions import generated, perplexity, pricing, reading, report, scoring
from agent.evaluation.questions.endpoint import Drawn, Endpoint
from agent.physics import scaling
from tests.evaluation.questions.server import serving


def arguments(url: str, folder, *more: str, dataset: str = "arithmetic") -> list[str]:
    return ["--dataset", dataset, "--model", "toy", "--url", url, "--out", str(folder), *more]


def evaluated(url: str, folder, *more: str, dataset: str = "arithmetic") -> dict:
    result = CliRunner().invoke(evaluate_command, arguments(url, folder, "--json", *more, dataset=dataset))
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


def without_times(document: dict) -> dict:
    text = json.dumps(document)
    data = json.loads(text)
    for key in ("seconds", "tokens_per_s", "mean_power_w", "ipw", "ppp"):
        data.pop(key)
    for row in data["strategies"]:
        for key in ("seconds", "mean_power_w", "ipw"):
            row.pop(key)
    return data


def test_the_result_has_what_the_contract_says_and_the_numbers_fit_together(tmp_path):
    with serving(skill=0.7) as server:
        found = evaluated(server.url, tmp_path, "--questions", "20", "--samples", "8", "--price-usd", "100")
    keys = "dataset model n pass_at energy_j mean_power_w provenance ipw ece ppp tokens samples_used fits"
    assert set(keys.split()) <= set(found)
    assert found["n"] == 20
    assert found["energy_j"] == pytest.approx(20 * 8 * 0.5)
    assert found["provenance"] == "modelled"
    values = [found["pass_at"][k][0] for k in ("1", "2", "4", "8")]
    assert values == sorted(values)
    assert all(low <= value <= high for value, low, high in found["pass_at"].values())
    rows = {row["strategy"]: row for row in found["strategies"]}
    assert rows["majority of 8"]["samples"] == 8
    assert rows["greedy"]["accuracy"] == 1.0
    assert rows["csvet 0.05"]["tokens"] <= rows["majority of 8"]["tokens"]
    assert found["ece"] == pytest.approx(found["pass_at"]["8"][0] / found["energy_j"])


def test_joules_that_the_server_does_not_say_are_unknown_and_so_is_what_follows(tmp_path):
    with serving(energy=False) as server:
        found = evaluated(server.url, tmp_path, "--questions", "3", "--samples", "4")
    assert found["provenance"] == "unknown"
    assert {found[key] for key in ("energy_j", "mean_power_w", "ipw", "ece", "ppp")} == {None}


def test_the_papers_three_ways_are_told_apart_by_what_they_cost(tmp_path):
    ways = ("--compare", "standard,greedy-v1,qeil", "--worth-j", "2")
    with serving(skill=0.9) as server:
        found = evaluated(server.url, tmp_path, "--questions", "20", "--samples", "8", *ways)
        shown = CliRunner().invoke(evaluate_command, arguments(server.url, tmp_path, "--questions", "20",
                                                               "--samples", "8", *ways)).output  # fmt: skip
    standard, batch, qeil = found["strategies"]
    assert [row["strategy"] for row in found["strategies"]] == ["standard", "greedy-v1", "qeil"]
    assert standard["accuracy"] == batch["accuracy"]
    assert standard["coverage"] == batch["coverage"] == pytest.approx(found["pass_at"]["8"][0])
    assert qeil["samples"] < batch["samples"]
    assert qeil["energy_j"] < batch["energy_j"]
    assert batch["ipw"] == pytest.approx(100 * batch["coverage"] * batch["seconds"] / batch["energy_j"])
    assert batch["ece"] == pytest.approx(batch["coverage"] / (20 * batch["energy_j"]))
    assert "IPW" in shown
    assert "ECE" in shown


def test_a_sample_by_itself_costs_what_the_greedy_answer_did_per_token():
    question = reading.parsed("x", generated.lines("sums", 1)).questions[0]
    greedy, drawn = Drawn("#### 1", 10, 2.0, 5.0, "modelled", None), Drawn("#### 2", 20, 1.0, 1.0, "modelled", None)
    (lone,) = pricing.alone([scoring.answered(question, greedy, [drawn])])
    assert (lone.pool[0].joules, lone.pool[0].seconds, lone.pool[0].tokens) == (10.0, 4.0, 20)
    unknown = scoring.answered(question, replace(greedy, joules=None), [drawn])
    assert pricing.alone([unknown])[0].pool[0].joules is None


@given(chance=st.floats(0.0, 1.0), count=st.integers(1, 60), seed=st.integers(0, 2**32 - 1))
def test_an_interval_of_few_questions_is_never_a_point(chance, count, seed):
    draw = random.Random(seed)
    question = reading.parsed("x", generated.lines("sums", 1)).questions[0]
    right, wrong = (Drawn(f"#### {t}", 1, 1.0, None, "unknown", None) for t in (question.truth, "-1"))
    results = [
        scoring.answered(question, right, [right if draw.random() < chance else wrong for _ in range(4)])
        for _ in range(count)
    ]
    for mean, low, high in scoring.pass_at(results, 4).values():
        assert 0.0 <= low <= mean <= high <= 1.0
        assert high - low > 0.5 / (count + 4)


def test_the_coverage_law_is_as_sure_as_its_questions_are_many():
    question = reading.parsed("x", generated.lines("sums", 1)).questions[0]
    right, wrong = (Drawn(f"#### {t}", 1, 1.0, None, "unknown", None) for t in (question.truth, "-1"))
    few = [scoring.answered(question, right, [right] * n + [wrong] * (8 - n)) for n in (0, 1, 1, 2, 3, 0, 5, 8, 1, 0)]

    def widths(results):
        fit = scoring.coverage_fit(results, 8)
        return [fit[key][1] - fit[key][0] for key in ("alpha_interval", "beta_interval")]

    for less, more in zip(widths(few * 4), widths(few), strict=True):
        assert 0.3 * more < less < 0.6 * more  # four times the questions: half the width
    own = scaling.fit_coverage({"samples": [1, 2, 4, 8]}, [v for v, *_ in scoring.pass_at(few[:4], 8).values()]).law
    assert scoring.coverage_fit(few[:4], 8)["alpha_interval"] == list(own.scale_interval)


def test_a_number_can_be_asked_for_alone_and_a_run_keeps_how_it_asked(tmp_path):
    few = ("--questions", "2", "--samples", "2")
    with serving() as server:
        evaluated(server.url, tmp_path, *few, "--ask", "direct", dataset="sums")
        assert server.requests[0]["messages"][0]["content"].endswith("Answer with a number.")
        with pytest.raises(BadInput, match="ask 'direct', not None"):
            evaluated(server.url, tmp_path, *few, dataset="sums")


def test_killed_three_times_it_ends_with_the_result_of_an_undisturbed_run(tmp_path):
    options = ["--questions", "12", "--samples", "8", "--json"]
    with serving() as server:
        undisturbed = evaluated(server.url, tmp_path / "a", *options[:-1])
        server.delay_s = 0.1
        command = [sys.executable, "-m", "agent.cli.main", "evaluate", *arguments(server.url, tmp_path / "b", *options)]
        journal = tmp_path / "b" / "samples.jsonl"
        for kill in range(3):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            lines = 0 if kill == 0 else journal.read_bytes().count(b"\n")
            end_s = time.monotonic() + 300.0
            while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < lines + 5):
                assert time.monotonic() < end_s, "it has not asked five times"
                time.sleep(0.005)
            process.kill()
            assert process.wait() == -signal.SIGKILL
        server.delay_s = 0.0
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert without_times(json.loads(done.stdout)) == without_times(undisturbed)


def test_a_journal_cut_in_the_middle_of_a_line_goes_on_before_it(tmp_path):
    with serving() as server:
        whole = evaluated(server.url, tmp_path, "--questions", "4", "--samples", "4")
        journal = tmp_path / "samples.jsonl"
        journal.write_bytes(journal.read_bytes()[:-40])
        assert without_times(evaluated(server.url, tmp_path, "--questions", "4", "--samples", "4")) == without_times(
            whole
        )


def test_a_folder_of_another_run_and_a_damaged_journal_are_refused(tmp_path):
    with serving() as server:
        evaluated(server.url, tmp_path, "--questions", "2", "--samples", "2")
        with pytest.raises(BadInput, match="temperature"):
            evaluated(server.url, tmp_path, "--questions", "2", "--samples", "2", "--temperature", "0.2")
        journal = tmp_path / "samples.jsonl"
        journal.write_bytes(journal.read_bytes() + b"nonsense\n")
        with pytest.raises(BadInput, match=r"samples\.jsonl:6"):
            evaluated(server.url, tmp_path, "--questions", "2", "--samples", "2")


def test_more_samples_can_be_added_to_a_run(tmp_path):
    with serving() as server:
        evaluated(server.url, tmp_path, "--questions", "2", "--samples", "4")
        asked = len(server.requests)
        assert evaluated(server.url, tmp_path, "--questions", "2", "--samples", "8")["samples_per_question"] == 8
        assert len(server.requests) == asked + 2


def test_broken_lines_are_named_in_the_output(tmp_path):
    path = tmp_path / "gsm8k.jsonl"
    path.write_text("\n".join([*generated.lines("arithmetic", 3), "{"]))
    with serving() as server:
        command = arguments(server.url, tmp_path / "run", "--data", str(path), "--samples", "2", dataset="gsm8k")
        result = CliRunner().invoke(evaluate_command, command)
    assert "line 4 skipped" in result.output
    assert "Strategies on the same samples" in result.output


@pytest.mark.parametrize(("more", "dataset", "why"), [
    ([], "gsm8k", "needs --data"), (["--data", "x"], "logic", "takes no --data"),
    (["--compare", "csvet,magic"], "logic", "unknown strategy 'magic'"),
])  # fmt: skip
def test_contradictory_options_are_refused_before_anything_is_asked(tmp_path, more, dataset, why):
    with serving() as server:
        with pytest.raises(BadInput, match=why):
            evaluated(server.url, tmp_path / "x", *more, dataset=dataset)
        assert not server.requests


def test_a_busy_server_is_asked_again_and_a_refusal_is_said(tmp_path):
    with serving() as server:
        endpoint = Endpoint(server.url, "toy", 10, 0.7)
        server.refuse = [503, 503]
        assert len(endpoint.sample("There are 2 eggs. How many?", 2, 1)) == 2
        server.refuse = [503] * 10
        with pytest.raises(Overloaded, match="busy"):
            endpoint.sample("x", 1, 1)
        server.refuse = [400]
        with pytest.raises(QeilError, match="HTTP 400: busy"):
            endpoint.sample("x", 1, 1)
        endpoint.close()
    with pytest.raises(QeilError, match="no answer from"):
        Endpoint(server.url, "toy", 10, 0.7).sample("x", 1, 1)


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://h:99999"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(BadInput):
        Endpoint(url, "toy", 10, 0.7)


def test_perplexity_of_a_text_is_read_from_its_log_probabilities(tmp_path):
    path = tmp_path / "wiki.test.tokens"
    path.write_text("\n = First = \n\n" + "word " * 900 + "\n\n = Second = \n\n = = part = = \n" + "more words " * 50)
    with serving() as server:
        found = evaluated(server.url, tmp_path / "run", "--data", str(path), dataset="wikitext")
        assert found["perplexity"] == pytest.approx(2.718281828**0.5)
        assert found["documents"] == 5
        server.logprobs_of_prompts = False
        with pytest.raises(QeilError, match="no perplexity"):
            evaluated(server.url, tmp_path / "other", "--data", str(path), dataset="wikitext")


def test_passages_lose_nothing_and_are_short():
    text = " = A = \n" + "x" * 5000 + "\n = B = \nshort\n"
    pieces = perplexity.passages(text)
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= perplexity.MAX_CHARACTERS
    assert any(piece.startswith(" = B") for piece in pieces)


def test_an_empty_text_has_no_perplexity(tmp_path):
    path = tmp_path / "empty.txt"
    path.write_text("\n\n")
    with serving() as server, pytest.raises(BadInput, match="no text"):
        evaluated(server.url, tmp_path / "run", "--data", str(path), dataset="wikitext")


def test_the_report_is_one_file_with_plots_and_no_address_outside(tmp_path):
    with serving() as server:
        evaluated(server.url, tmp_path, "--questions", "5", "--samples", "4", "--report", str(tmp_path / "r.html"))
    page = (tmp_path / "r.html").read_text()
    assert page.count("<svg") == 2
    assert "src=" not in page
    assert "viewport" in page
    assert "majority of 4" in page


def test_names_in_the_report_are_text_not_markup(tmp_path):
    with serving() as server:
        found = evaluated(server.url, tmp_path, "--questions", "2", "--samples", "2")
    found["model"] = "<script>alert(1)</script>"
    assert "<script>" not in report.render(found)


def test_wilson_is_the_published_interval():
    low, high = scoring.wilson(81, 263)
    assert (low, high) == (pytest.approx(0.2553, abs=1e-4), pytest.approx(0.3662, abs=1e-4))
    with pytest.raises(ValueError, match="at least one"):
        scoring.wilson(0, 0)


def test_a_connection_that_the_server_closed_meanwhile_is_opened_again(tmp_path):
    with serving() as server:
        server.closes = True
        endpoint = Endpoint(server.url, "toy", 10, 0.7)
        for seed in range(3):
            assert len(endpoint.sample("There are 2 eggs. How many?", 2, seed)) == 2
        endpoint.close()
        assert len(server.requests) == 3
