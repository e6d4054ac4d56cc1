from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import BadInput
from agent.llm.sampler import Sampling, choose, likeliest, log_probabilities

LOGITS = np.array([2.0, 1.0, 0.5, -1.0, -3.0], np.float32)


def shares(options, logits=LOGITS, draws=4000):
    rng = np.random.default_rng(0)
    drawn = [choose(logits, options, (), rng) for _ in range(draws)]
    return np.bincount(drawn, minlength=len(logits)) / draws


def softmax(logits):
    chances = np.exp(logits - logits.max())
    return chances / chances.sum()


def test_temperature_0_takes_the_likeliest():
    assert choose(LOGITS, Sampling(), (), np.random.default_rng(0)) == 0


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_with_their_probabilities(temperature):
    np.testing.assert_allclose(shares(Sampling(temperature)), softmax(LOGITS / temperature), atol=0.03)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (Sampling(1.0, top_k=2), [0, 1]),
        (Sampling(1.0, top_p=0.7), [0, 1]),
        (Sampling(1.0, top_p=0.5), [0]),
        (Sampling(1.0, min_p=0.3), [0, 1]),
        (Sampling(1.0, top_k=3, min_p=0.1), [0, 1, 2]),
    ],
)
def test_what_is_cut_off_is_never_drawn_and_the_rest_keeps_its_proportions(options, kept):
    found = shares(options)
    expected = np.zeros(len(LOGITS))
    expected[kept] = softmax(LOGITS)[kept] / softmax(LOGITS)[kept].sum()
    np.testing.assert_allclose(found, expected, atol=0.03)
    assert set(np.flatnonzero(found)) == set(kept)


def test_a_large_vocabulary_is_cut_at_the_same_place_as_a_small_one():
    rng = np.random.default_rng(1)
    logits = np.concatenate([LOGITS + 12, rng.standard_normal(5000).astype(np.float32)])
    assert set(np.flatnonzero(shares(Sampling(1.0, top_p=0.9), logits, 300))) <= {0, 1, 2}
    flat = np.zeros(5000, np.float32)
    drawn = {choose(flat, Sampling(1.0, top_p=0.5), (), rng) for _ in range(300)}
    assert max(drawn) < 2500


def full_sort(logits, options, random):
    """The same choice by sorting everything."""
    scaled = logits.astype(np.float64) / options.temperature
    order = np.argsort(-scaled, kind="stable")[: options.top_k or None]
    chances = np.exp(scaled[order] - scaled[order[0]])
    chances /= chances.sum()
    order = order[np.cumsum(chances) - chances < options.top_p]
    if options.top_p == 1 and options.top_k == 0:
        order = np.sort(order)
    chances = np.exp(scaled[order] - scaled.max())
    drawn = np.searchsorted(np.cumsum(chances), random * chances.sum(), side="right")
    return int(order[min(drawn, len(order) - 1)])


@pytest.mark.parametrize(
    "options", [Sampling(0.8, top_k=40), Sampling(1.0), Sampling(0.7, top_p=0.9), Sampling(1.3, top_p=0.99, top_k=900)]
)
@pytest.mark.parametrize("spread", [0.5, 3.0, 6.0])
def test_a_seed_draws_from_a_large_vocabulary_what_a_full_sort_draws(options, spread):
    for seed in range(20):
        logits = (np.random.default_rng(seed).standard_normal(20_011) * spread).astype(np.float32)
        logits = np.round(logits, 2)  # equal values lie at the cut
        found = choose(logits, options, (), np.random.default_rng(seed))
        assert found == full_sort(logits, options, np.random.default_rng(seed).random())


def test_repetition_makes_what_was_seen_less_likely():
    logits = np.array([1.0, 0.9, -0.5], np.float32)
    assert choose(logits, Sampling(repetition=2.0), (0,), np.random.default_rng(0)) == 1
    assert choose(np.array([-1.0, -1.5], np.float32), Sampling(repetition=2.0), (0,), np.random.default_rng(0)) == 1
    assert logits[0] == 1.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=300), st.integers(0, 45))
def test_the_likeliest_are_those_of_a_full_sort(values, count):
    logs = np.asarray(values, np.float64)
    assert likeliest(logs, count).tolist() == np.argsort(-logs, kind="stable")[:count].tolist()
    assert np.exp(log_probabilities(np.asarray(values, np.float32))).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_p": 0}, {"min_p": 2}, {"seed": -1}, {"repetition": 0}])
def test_a_value_out_of_range_is_refused_by_name(wrong):
    with pytest.raises(BadInput, match=next(iter(wrong))):
        Sampling(**wrong)
