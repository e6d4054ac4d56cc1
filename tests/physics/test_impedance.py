"""A sensor's thermal impedance is learnt from noisy readings, and forecasts what a real network then does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.physics import impedance
from agent.physics.impedance import ImpedancePrior
from agent.physics.thermal import ThermalNetwork, step

PRIOR = ImpedancePrior(np.array([4.0, 40.0, 400.0]), np.array([[1.0, 1.0, 2.0]]))
NETWORK = ThermalNetwork(np.array([3.0, 90.0]), np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([0.0, 0.25]))


def learn(hours=1.0, ambient_c=30.0, noise_c=0.3, seed=1, prior=PRIOR, power=lambda t: 6.0 * ((t // 50) % 2)):
    random = np.random.default_rng(seed)
    at = np.full(2, ambient_c)
    state = impedance.start(prior, float(at[0]), 0.0)
    for k in range(1, int(hours * 3600)):
        p = power(k)
        at = step(NETWORK, at, np.array([p, 0.0]), 1.0, ambient_c=ambient_c)
        state = impedance.observe(state, prior, float(at[0] + random.normal(0, noise_c)), [p], 0.0, float(k))
    return state, at


def test_the_learnt_network_forecasts_the_real_one_for_powers_it_was_not_run_at():
    state, at = learn()
    for power_w in (0.0, 3.0, 8.0):
        ahead = impedance.forecast(state, PRIOR, [5.0, 30.0, 120.0], 0.0).temperature_c([power_w])
        # The load changed every 50 s: what it does in 120 s was not seen.
        for seconds, found, off_c in zip((5.0, 30.0, 120.0), ahead, (0.8, 0.8, 1.6), strict=True):
            real = step(NETWORK, at, np.array([power_w, 0.0]), seconds, ambient_c=30.0)[0]
            assert found == pytest.approx(real, abs=off_c)


def test_resistance_and_air_are_found_where_the_load_varies():
    state, _ = learn(hours=2.0, power=lambda t: 6.0 * ((t // 50) % 2) * ((t // 1200) % 2))
    assert state.resistance_k_per_w()[0] == pytest.approx(1.0 + 4.0, rel=0.15)
    assert state.ambient_c == pytest.approx(30.0, abs=2.5)


@pytest.mark.parametrize("wrong", [0.7, 1.3])
def test_a_wrong_prior_is_corrected(wrong):
    prior = ImpedancePrior(PRIOR.time_constants_s, PRIOR.resistance_k_per_w * wrong)
    state, at = learn(prior=prior)
    ahead = float(impedance.forecast(state, prior, 30.0, 0.0).temperature_c([6.0])[0])
    assert ahead == pytest.approx(step(NETWORK, at, np.array([6.0, 0.0]), 30.0, ambient_c=30.0)[0], abs=1.0)


def test_the_estimate_is_less_noisy_than_the_readings():
    state, at = learn(noise_c=1.0)
    assert impedance.estimate(state) == pytest.approx(at[0], abs=0.7)
    assert 0.5 < state.innovation_c2**0.5 < 1.5


def test_doubt_grows_with_power_that_was_never_seen_and_with_time():
    state, _ = learn(hours=0.1, power=lambda t: 0.0)
    ahead = impedance.forecast(state, PRIOR, [5.0, 60.0], 0.0)
    idle, busy = ahead.deviation_c([0.0]), ahead.deviation_c([10.0])
    assert busy[0] > 3.0 > idle[0]
    assert np.all(busy[1] > busy[0])


def test_the_doubt_of_the_present_and_of_the_first_forecast_are_that_of_all():
    state, _ = learn(hours=0.1)
    ahead = impedance.forecast(state, PRIOR, [0.0, 60.0], 0.0)
    assert ahead.deviation_c([6.0])[0] == pytest.approx(impedance.estimate_deviation_c(state))
    later = impedance.forecast(state, PRIOR, [20.0, 60.0], 0.0)
    assert later.first_deviation_c(np.array([6.0])) == pytest.approx(later.deviation_c([6.0])[0])


def test_a_running_fan_is_told_from_the_powers():
    random = np.random.default_rng(3)
    at, state = np.full(2, 25.0), impedance.start(PRIOR, 25.0, 0.0)
    for k in range(1, 10_000):
        p, fan = 6.0 * ((k // 60) % 2), float((k // 2000) % 2)
        cooled = ThermalNetwork(NETWORK.capacity_j_per_k, NETWORK.link_w_per_k, np.array([0.0, 0.25 + 0.25 * fan]))
        at = step(cooled, at, np.array([p, 0.0]), 1.0, ambient_c=25.0)
        state = impedance.observe(state, PRIOR, float(at[0] + random.normal(0, 0.2)), [p], fan, float(k))
    still = impedance.forecast(state, PRIOR, 200.0, 0.0).temperature_c([6.0])[0]
    cooled_c = impedance.forecast(state, PRIOR, 200.0, 1.0).temperature_c([6.0])[0]
    assert still - cooled_c > 1.5


def test_a_network_that_starts_anew_keeps_the_powers_and_gives_up_what_it_learnt():
    state, _ = learn(power=lambda _: 6.0)
    anew = impedance.start_anew(state, PRIOR, 70.0)
    assert impedance.estimate(anew) == pytest.approx(70.0)
    assert anew.samples == 0
    assert np.array_equal(anew.filtered_w, state.filtered_w)
    assert np.array_equal(anew.mean[1:], PRIOR.mean[1:])
    assert anew.ambient_c == pytest.approx(70.0 - 4.0 * 6.0, abs=0.1)


def test_a_network_that_is_unsure_keeps_what_it_learnt_and_follows_new_readings_at_once():
    state, _ = learn()
    unsure = impedance.unsure(state, PRIOR)
    assert np.array_equal(unsure.mean, state.mean)
    assert np.array_equal(unsure.covariance, PRIOR.covariance)
    moved = [impedance.correct(s, PRIOR, impedance.estimate(s) + 2.0).mean - s.mean for s in (state, unsure)]
    assert np.linalg.norm(moved[1]) > 2.0 * np.linalg.norm(moved[0])


def test_a_spike_moves_the_estimate_but_hardly_the_network():
    state, _ = learn()
    spiked = impedance.observe(state, PRIOR, 120.0, [6.0], 0.0, state.time_s + 1.0)
    assert spiked.resistance_k_per_w()[0] == pytest.approx(state.resistance_k_per_w()[0], rel=0.2)
    assert impedance.estimate(spiked) < impedance.estimate(state) + 10.0


def test_without_a_reading_only_time_passes():
    state, _ = learn(hours=0.1)
    later = impedance.observe(state, PRIOR, None, [6.0], 0.0, state.time_s + 5.0)
    assert (later.samples, later.time_s) == (state.samples, state.time_s + 5.0)
    assert impedance.estimate(later) > impedance.estimate(state)
    row = np.concatenate([[1.0], later.filtered_w.ravel(), [later.fan_k]])
    assert row @ later.mean == pytest.approx(row @ state.mean, abs=1e-3), "what was learnt of these powers stays"


def test_what_no_reading_holds_falls_back_to_the_prior():
    state, _ = learn()
    long = state
    for k in range(1, 600):
        long = impedance.observe(long, PRIOR, None, [0.0], 0.0, state.time_s + 300.0 * k)
    assert long.mean[1:] == pytest.approx(PRIOR.mean[1:], rel=0.01)
    assert long.ambient_c == pytest.approx(30.0, abs=5.0), "the air makes up for what the resistances give back"
    assert long.covariance[1:, 1:] == pytest.approx(PRIOR.covariance[1:, 1:], abs=1e-3)


def test_what_readings_go_on_telling_is_not_pulled_to_a_prior_that_they_gainsay():
    twice = ImpedancePrior(PRIOR.time_constants_s, np.array([[0.5, 0.5, 2.0], [1.0, 1.0, 2.0]]) * 2.0, memory_s=1800.0)
    random = np.random.default_rng(5)
    state = impedance.start(twice, 30.0, 0.0)
    for k in range(1, 5400):
        powers = np.array([8.0 * (k // 10 % 2) * (k // 70 % 2) * (k // 500 % 2), 0.0])
        state = impedance.observe(state, twice, None, powers, 0.0, 2.0 * k)
        truth_c = 30.0 + float(state.filtered_w[0] @ np.array([0.5, 0.5, 2.0]))
        state = impedance.correct(state, twice, truth_c + float(random.normal(0.0, 0.3)))
    assert state.mean[1:3] == pytest.approx([0.5, 0.5], abs=0.15), "six memories on, not the 1.0 that was believed"
    assert state.mean[4:6] == pytest.approx([2.0, 2.0], abs=0.05), "of the idle source nothing was told"


def loosely_known(sizes):
    root = np.array(sizes).reshape(5, 5)
    covariance = np.linalg.inv(np.linalg.inv(np.diag(PRIOR.variance)) + root @ root.T)
    return replace(impedance.start(PRIOR, 30.0, 0.0), covariance=covariance, mean=PRIOR.mean * 1.5)


STILL = replace(PRIOR, drift_c_per_sqrt_s=1e-9)


@given(st.lists(st.floats(-9, 9), min_size=25, max_size=25), st.floats(1.0, 9000.0), st.floats(1.0, 9000.0))
def test_forgetting_at_once_or_in_two_parts_is_the_same(sizes, first_s, second_s):
    began = loosely_known(sizes)
    once = impedance.observe(began, STILL, None, [0.0], 0.0, first_s + second_s)
    parts = impedance.observe(began, STILL, None, [0.0], 0.0, first_s)
    parts = impedance.observe(parts, STILL, None, [0.0], 0.0, first_s + second_s)
    assert parts.mean[1:] == pytest.approx(once.mean[1:], rel=1e-4, abs=1e-6)
    assert parts.covariance[1:, 1:] == pytest.approx(once.covariance[1:, 1:], rel=1e-3, abs=1e-6)


@given(st.lists(st.floats(-9, 9), min_size=25, max_size=25), st.floats(1.0, 1e9))
def test_forgetting_never_leaves_more_doubt_than_before_any_data(sizes, gap_s):
    later = impedance.observe(loosely_known(sizes), PRIOR, None, [0.0], 0.0, gap_s)
    assert np.isfinite(later.mean).all()
    assert np.linalg.eigvalsh(later.covariance).min() >= -1e-9
    assert np.linalg.eigvalsh(PRIOR.covariance[1:, 1:] - later.covariance[1:, 1:]).min() >= -1e-6


def test_powers_that_answer_to_noise_are_not_learnt_as_its_cause():
    prior = ImpedancePrior(np.array([4.0, 40.0, 400.0]), np.array([[1.0, 1.0, 2.0], [1.0, 1.0, 2.0]]))
    random, at = np.random.default_rng(2), np.full(2, 30.0)
    state, watts = impedance.start(prior, 30.0, 0.0), 3.0
    for k in range(1, 5400):
        at = step(NETWORK, at, np.array([watts + 3.0, 0.0]), 2.0, ambient_c=30.0)
        state = impedance.observe(state, prior, float(at[0] + random.normal(0.0, 0.6)), [watts, 3.0], 0.0, 2.0 * k)
        watts = min(9.0, max(0.0, watts + 0.2 * (60.0 - impedance.estimate(state))))
    quick, steady = state.mean[1], state.mean[4]
    assert quick < 2.5, "of 1 K/W; it was 3.9 where noise counted as news"
    assert steady > 0.5, "and the other source's went to its bound"


def test_forecast_and_passing_time_agree():
    state, _ = learn()
    ahead = impedance.forecast(state, PRIOR, 25.0, 0.5).temperature_c([4.0])[0]
    later = impedance.observe(state, PRIOR, None, [4.0], 0.5, state.time_s + 25.0)
    assert ahead == pytest.approx(impedance.estimate(later), abs=1e-3)


def test_hours_without_change_leave_no_more_doubt_than_the_prior():
    state, _ = learn(hours=0.05)
    for k in range(1, 200):
        state = impedance.observe(state, PRIOR, None, [0.0], 0.0, 180.0 + 600.0 * k)
    assert np.all(np.diagonal(state.covariance) <= PRIOR.variance * (1 + 1e-9))
    assert np.linalg.eigvalsh(state.covariance).min() >= -1e-9


@given(st.lists(st.tuples(st.floats(-20, 110), st.floats(0, 40), st.floats(0, 1)), min_size=1, max_size=40))
def test_whatever_is_read_parameters_stay_physical(rows):
    state = impedance.start(PRIOR, 30.0, 0.0)
    for k, (value, power, fan) in enumerate(rows, 1):
        state = impedance.observe(state, PRIOR, value, [power], fan, 2.0 * k)
    assert np.all(state.mean[1:-1] > 0)
    assert -0.95 <= state.mean[-1] <= 0
    assert np.isfinite(impedance.forecast(state, PRIOR, [1.0, 60.0], 1.0).deviation_c([40.0])).all()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (([4.0, 40.0], [[1.0]]), "one column per time constant"),
        (([40.0, 4.0], [[1.0, 1.0]]), "must rise"),
        (([0.0, 4.0], [[1.0, 1.0]]), "time_constants_s"),
        (([4.0], [[0.0]]), "resistance_k_per_w"),
    ],
)
def test_an_impossible_prior_is_refused_by_name(arguments, name):
    with pytest.raises(ValueError, match=name):
        ImpedancePrior(*(np.array(a) for a in arguments))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda s: impedance.observe(s, PRIOR, 30.0, [1.0], 0.0, -1.0), "lies before"),
        (lambda s: impedance.observe(s, PRIOR, 30.0, [-1.0], 0.0, 1.0), "power_w"),
        (lambda s: impedance.observe(s, PRIOR, float("nan"), [1.0], 0.0, 1.0), "temperature_c"),
        (lambda s: impedance.observe(s, PRIOR, 30.0, [1.0], 1.5, 1.0), "fan"),
        (lambda s: impedance.forecast(s, PRIOR, [-1.0], 0.0), "times_s"),
        (lambda s: impedance.start(PRIOR, -300.0, 0.0), "temperature_c"),
    ],
)
def test_impossible_input_is_refused_by_name(call, name):
    with pytest.raises(ValueError, match=name):
        call(impedance.start(PRIOR, 30.0, 0.0))


def test_the_number_of_sources_is_known():
    assert PRIOR.sources == 1


def test_what_one_source_shows_of_the_way_to_the_air_holds_for_an_idle_one():
    prior = ImpedancePrior(np.array([4.0, 40.0, 400.0]), np.full((2, 3), 1.0))
    state = impedance.start(prior, 30.0, 0.0)
    for k in range(1, 2400):
        powers = np.array([4.0 * (k // 300 % 2), 0.0])
        state = impedance.observe(state, prior, None, powers, 0.0, float(k))
        truth_c = 30.0 + float(np.sum(state.filtered_w * np.array([1.0, 1.0, 3.0])))
        state = impedance.correct(state, prior, truth_c)
    used, idle = state.resistance_k_per_w()
    assert used == pytest.approx(5.0, rel=0.1)
    assert idle > 3.5
