"""What all samples cost as one batch, from the batches they were drawn in; and a replay answers as a live request."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.evaluation.questions import document, eac, generated, pricing, reading
from agent.evaluation.questions.checks import Verdict
from agent.evaluation.questions.journal import recorded
from agent.evaluation.questions.question import Question, Questions
from agent.evaluation.questions.report import batch_sentence
from agent.evaluation.questions.scoring import Answered, score
from agent.sampling.strategy import Sample, Strategy

QUESTION = Question("q", "number", "?", "7")


def drawn(sizes: tuple[int, ...], base_j: float, each_j: float | None, told: bool = True) -> Answered:
    """Samples that took base + each per batch; seconds go with the joules."""
    pool = []
    for size in sizes:
        share = base_j / size + (each_j or 1.0)
        pool += [Sample("7", 10, share, None if each_j is None else share)] * size
    first = base_j + (each_j or 1.0)
    return Answered(QUESTION, Sample("7", 10, first, None if each_j is None else first), tuple(pool), sizes * told)


def compared(*results: Answered) -> dict:
    samples = len(results[0].pool)
    asked = Questions("x", tuple(r.question for r in results))
    strategies = document.strategies(["greedy-v1"], samples, 0.05, None, ())
    return document.build(asked, "toy", list(results), strategies, "modelled", None)


@pytest.mark.parametrize("base_j", [0.0, 3.0, 50.0])
def test_one_batch_costs_its_prompt_once(base_j):
    found = compared(*[drawn((2, 2, 4, 4, 4), base_j, 0.5)] * 3)
    assert found["strategies"][0]["energy_j"] == pytest.approx(base_j + 16 * 0.5)
    assert found["strategies"][0]["seconds"] == pytest.approx(base_j + 16 * 0.5)
    assert found["one_batch"]["as_drawn_j"] == pytest.approx(5 * base_j + 16 * 0.5)
    assert found["one_batch"]["at_once_j"] == pytest.approx(base_j + 16 * 0.5)
    assert "the price of greedy-v1, on the line through those of 2 and 4" in batch_sentence(found)


def test_batches_of_one_size_are_set_beside_the_single_greedy_answer():
    found = compared(drawn((2, 2), 3.0, 0.5))
    assert found["strategies"][0]["energy_j"] == pytest.approx(3.0 + 4 * 0.5)
    assert found["one_batch"]["sizes"] == [1, 2]


def test_a_pool_of_one_batch_costs_what_it_cost():
    found = compared(drawn((2,), 3.0, 0.5))
    assert found["strategies"][0]["energy_j"] == pytest.approx(4.0)
    assert "are those of one batch" in batch_sentence(found)


def test_where_batches_do_not_tell_the_price_is_as_drawn_and_nothing_is_claimed():
    found = compared(drawn((2, 2, 4), 3.0, 0.5, told=False))
    assert found["strategies"][0]["energy_j"] == pytest.approx(3 * 3.0 + 8 * 0.5)
    assert "no saving against it can be claimed" in batch_sentence(found)


def test_without_joules_only_seconds_are_those_of_one_batch():
    found = compared(drawn((2, 2, 4), 3.0, None))
    assert found["strategies"][0]["energy_j"] is None
    assert found["strategies"][0]["seconds"] == pytest.approx(3.0 + 8 * 1.0)
    assert batch_sentence(found) == ""


def test_one_batch_costs_no_less_than_the_largest_drawn_and_no_more_than_all():
    larger_is_cheaper = drawn((2, 2, 4), 0.0, 1.0)
    pool = tuple(Sample("7", 10, 1.0, j) for j in (5.0, 5.0, 5.0, 5.0, 0.5, 0.5, 0.5, 0.5))
    odd = Answered(QUESTION, larger_is_cheaper.greedy, pool, (2, 2, 4))
    share = pricing.one_batch([odd]).joules
    assert 2.0 / 22.0 <= share <= 1.0


def test_the_line_of_batches_is_what_they_were_made_of():
    assert pricing.line([drawn((2, 2, 4), 3.0, 0.5)]) == (pytest.approx(3.0), pytest.approx(0.5))
    for untold in (drawn((2, 2), 3.0, 0.5), drawn((2, 4), 3.0, None), drawn((2, 4), 3.0, 0.5, told=False)):
        with pytest.raises(ValueError, match="two sizes"):
            pricing.line([untold])


def test_the_shipped_recording_is_priced_as_one_batch_for_greedy_v1():
    run = recorded(Path(__file__).parents[3] / "benchmarks/data/sampling/additions-2027")
    asked = reading.parsed("additions-2027", generated.lines("additions", 200, 2027))
    results = document.answered(asked, run, 16)
    ways = document.strategies(["greedy-v1"], 16, 0.05, None, results)
    row = document.build(asked, "m", results, ways, "modelled", None)["strategies"][0]
    assert 10.0 < row["energy_j"] < 13.0  # its five batches took 23.7 J


def test_where_all_samples_differ_nothing_is_the_answer_as_in_a_live_reply():
    pool = tuple(Sample(str(a), 3, 0.5, 1.0, -1.0) for a in (7, 1, 2, 3, 4, 5, 6, 8))
    result = Answered(QUESTION, pool[0], pool)
    for strategy in (Strategy("majority", 8), Strategy("csvet", 8, certify="majority"), Strategy("beta", 8)):
        row = score("x", strategy, [result])
        assert (row["accuracy"], row["no_answer"]) == (0.0, 1)
    assert score("x", Strategy("greedy", 1), [result])["accuracy"] == 1.0
    assert score("x", Strategy("best-of-n", 8), [result])["accuracy"] == 1.0


class Doubting:
    """Checks that speak for no answer at all, at no cost."""

    def verdict(self, question: str, answer: str, check: str) -> Verdict:
        return Verdict("fail", 0.0, "measured")

    def __len__(self) -> int:
        return 1


def test_the_cascade_makes_no_answer_of_samples_that_all_differ_and_that_no_check_believes():
    pool = tuple(Sample(str(a), 3, 0.5, 1.0, -1.0) for a in (7, 1, 2, 3))
    found = eac.measured([Answered(QUESTION, pool[0], pool)], Doubting(), Strategy("csvet", 4), "x")
    assert found["trace"][0]["answer"] is None
    assert found["every"]["accuracy"] == 0.0
