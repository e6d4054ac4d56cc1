"""EAC: information per joule decides what is asked, and the trace says what it cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sampling.cascade import Check, choose, gain_bits, learnt, rise, start

FORMAT = Check("format", 0.0, (19.0, 1.0), (12.0, 8.0))
LOGPROB = Check("logprob", 0.01, (14.0, 6.0), (6.0, 14.0))
VERIFIER = Check("verifier", 5.0, (19.0, 1.0), (1.0, 19.0))
CHECKS = (VERIFIER, LOGPROB, FORMAT)

BELIEFS = st.lists(st.floats(0.01, 1), min_size=1, max_size=5).map(lambda w: [x / (sum(w) + 0.5) for x in w])


def test_the_free_check_comes_before_the_cheap_one_and_the_dear_one_last():
    cascade, asked = start([0.4, 0.4]), []
    by_name = {c.name: c for c in CHECKS}
    while (step := choose(cascade, CHECKS)).stop is None:
        asked.append(step.check)
        cascade = cascade.after(step.candidate, by_name[step.check], "pass", by_name[step.check].cost_j)
    assert asked.index("format") < asked.index("logprob") < asked.index("verifier")


def test_a_decided_question_asks_nothing():
    assert choose(start([0.97, 0.01]), CHECKS).stop == "decided"
    assert choose(start([0.01, 0.01]), CHECKS).stop == "decided"


def test_no_candidates_means_no_winner():
    cascade = start([])
    assert choose(cascade, CHECKS).stop == "no_candidate"
    assert cascade.leader is None


def test_what_would_pass_the_budget_is_not_asked():
    cascade = start([0.5, 0.3])
    assert choose(cascade, [VERIFIER], budget_j=4.9).stop == "joules"
    assert choose(cascade, [VERIFIER], budget_j=5.0).check == "verifier"


def test_a_check_that_says_nothing_is_not_asked_twice_and_changes_nothing():
    cascade = start([0.5, 0.3]).after(0, VERIFIER, "unknown", 2.0)
    assert cascade.belief == (0.5, 0.3)
    assert cascade.spent_j == 2.0
    assert choose(cascade, [VERIFIER]).candidate == 1


def test_a_check_without_power_to_tell_is_not_worth_asking():
    coin = Check("coin", 1.0, (5.0, 5.0), (5.0, 5.0))
    assert choose(start([0.5, 0.3]), [coin]).stop == "nothing_to_gain"


def test_passing_speaks_for_a_candidate_and_failing_for_the_others():
    before = start([0.5, 0.3])
    passed, failed = before.after(0, VERIFIER, "pass", 5.0), before.after(0, VERIFIER, "fail", 5.0)
    assert passed.belief[0] > 0.9
    assert passed.belief[1] < before.belief[1]
    assert failed.leader == 1
    assert sum(failed.belief) <= 1


@given(BELIEFS, st.integers(0, 4), st.sampled_from(CHECKS))
def test_asking_never_loses_information_on_average(belief, index, check):
    assert gain_bits(belief, index % len(belief), check) >= 0


@given(BELIEFS, st.lists(st.tuples(st.integers(0, 4), st.sampled_from(CHECKS), st.booleans()), max_size=12))
def test_belief_stays_a_probability(belief, outcomes):
    cascade = start(belief)
    for index, check, passed in outcomes:
        cascade = cascade.after(index % len(belief), check, "pass" if passed else "fail", check.cost_j)
    assert all(0 <= b <= 1 for b in cascade.belief)
    assert sum(cascade.belief) <= 1 + 1e-9


def test_checks_learn_their_rates_from_what_turned_out_right():
    cascade = start([0.5, 0.3]).after(0, VERIFIER, "fail", 5.0).after(1, VERIFIER, "pass", 5.0)
    cascade = cascade.after(0, LOGPROB, "unknown", 0.01)
    updated = learnt({"verifier": VERIFIER, "logprob": LOGPROB}, cascade, truth=1)
    assert updated["verifier"].right == (20.0, 1.0)
    assert updated["verifier"].wrong == (1.0, 20.0)
    assert updated["logprob"] == LOGPROB


@pytest.mark.parametrize("chances", [[0.8, 0.8], [-0.1], [1.2]])
def test_impossible_chances_are_refused(chances):
    with pytest.raises(ValueError, match="chances"):
        start(chances)


@pytest.mark.parametrize("fields", [{"cost_j": -1.0}, {"right": (0.0, 1.0)}])
def test_impossible_checks_are_refused(fields):
    with pytest.raises(ValueError, match="check x"):
        Check(**{"name": "x", "cost_j": 1.0, "right": (1.0, 1.0), "wrong": (1.0, 1.0), **fields})


def test_a_check_that_would_change_no_answer_is_worth_no_joules():
    weak = Check("weak", 1.0, (6.0, 5.0), (5.0, 6.0))
    sure = Check("sure", 1.0, (19.0, 1.0), (1.0, 19.0))
    belief = (0.8, 0.1)
    assert rise(belief, 0, weak) == pytest.approx(0.0, abs=1e-12)
    assert rise((0.45, 0.4), 0, sure) > 0.1
    state = start(belief)
    assert choose(state, [weak]).check == "weak"
    assert choose(state, [weak], worth_j=1e6).stop == "not_worth_it"


def test_a_check_is_asked_while_what_it_raises_is_worth_what_it_costs():
    sure = Check("sure", 1.0, (19.0, 1.0), (1.0, 19.0))
    state = start((0.45, 0.4))
    gained = max(rise(state.belief, i, sure) for i in (0, 1))
    assert choose(state, [sure], worth_j=1.01 / gained).check == "sure"
    assert choose(state, [sure], worth_j=0.99 / gained).stop == "not_worth_it"
    assert choose(state, [sure], worth_j=1.01 / gained, budget_j=0.5).stop == "joules"
