"""The e-process: its closed form, its monotonicity, and that it is a fair bet under the hypothesis."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sampling.e_process import log_e, wins_needed

COUNTS = st.integers(0, 60)


@given(COUNTS, COUNTS)
def test_it_equals_the_integral_of_the_bets(wins, losses):
    theta = (np.arange(200_000) + 0.5) / 400_000 + 0.5
    direct = np.mean(np.exp(wins * np.log(2 * theta) + losses * np.log(2 * (1 - theta))))
    assert log_e(wins, losses) == pytest.approx(math.log(direct), abs=1e-5, rel=1e-6)


@given(COUNTS, COUNTS)
def test_a_fair_coin_neither_gains_nor_loses_on_average(wins, losses):
    next_bet = 0.5 * (math.exp(log_e(wins + 1, losses)) + math.exp(log_e(wins, losses + 1)))
    assert next_bet == pytest.approx(math.exp(log_e(wins, losses)), rel=1e-9)


@given(COUNTS, COUNTS)
def test_a_win_never_speaks_against_and_a_loss_never_for_it(wins, losses):
    assert log_e(wins + 1, losses) >= log_e(wins, losses) >= log_e(wins, losses + 1)


def test_it_begins_at_one_and_stays_finite():
    assert log_e(0, 0) == pytest.approx(0.0, abs=1e-12)
    assert math.isfinite(log_e(0, 5000))
    assert math.isfinite(log_e(100_000, 3))


@given(st.integers(0, 40), st.sampled_from([0.2, 0.05, 0.01, 1e-6]))
def test_the_fewest_wins_that_certify_are_found(losses, alpha):
    wins = wins_needed(losses, alpha)
    assert log_e(wins, losses) >= -math.log(alpha) > log_e(wins - 1, losses)


@pytest.mark.parametrize("call", [lambda: log_e(-1, 0), lambda: wins_needed(0, 0.0), lambda: wins_needed(0, 1.0)])
def test_what_is_no_count_and_no_probability_is_refused(call):
    with pytest.raises(ValueError, match="must"):
        call()
