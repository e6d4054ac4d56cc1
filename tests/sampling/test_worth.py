"""What further samples are expected to bring, and when they stop paying."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sampling.tally import Tally
from agent.sampling.worth import MAX_HORIZON, gain, pays


def tally_of(answers) -> Tally:
    tally = Tally()
    for answer in answers:
        tally = tally.add(answer)
    return tally


ANSWERS = st.lists(st.integers(0, 6), min_size=1, max_size=30)


@given(ANSWERS, st.integers(1, 40))
def test_gain_is_a_share(answers, more):
    assert 0.0 <= gain(tally_of(answers), more) <= 1.0


def test_a_close_race_is_worth_more_than_agreement_and_than_chaos():
    close = gain(tally_of("aaaabbb"), 8)
    assert close > 2 * gain(tally_of("aaaaaaa"), 8)
    assert close > gain(tally_of("abcdefg"), 8)


def test_the_gain_of_two_answers_is_what_simulation_finds():
    tally, more = tally_of("aaab"), 6
    rng = np.random.default_rng(0)
    theta = rng.beta(4, 2, 200_000)
    wins = rng.binomial(more - 1, theta)  # of six more samples, five go to the two by the expected share 4/5
    after = (4 + wins) / (6 + more - 1)
    expected = 4 / 5 * np.mean(np.maximum(after, 1 - after) - after)
    assert gain(tally, more) == pytest.approx(expected, rel=0.02)


def test_before_the_first_sample_everything_is_to_be_gained():
    assert gain(Tally(), 1) == 1.0


def test_looking_further_than_the_horizon_adds_nothing():
    assert gain(tally_of("ab"), 10 * MAX_HORIZON) == gain(tally_of("ab"), 2 * MAX_HORIZON)


def test_a_run_of_batches_may_pay_where_one_does_not():
    tally = tally_of("aaa")
    assert gain(tally, 1) == 0.0
    assert pays(tally, 1, 13, price=1e-4)
    assert not pays(tally, 1, 2, price=1e-4)


def test_at_a_price_of_nothing_agreement_still_pays_only_while_it_can_be_overturned():
    assert pays(tally_of("aaa"), 1, 13, price=0.0)
    assert not pays(tally_of("aaaaaaaa"), 1, 2, price=0.0)


def test_no_samples_are_no_plan():
    with pytest.raises(ValueError, match="positive"):
        gain(tally_of("a"), 0)
