"""A sensor's thermal impedance is learnt from noisy readings, and forecasts what a real network then does."""

from __future__ import annotations

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
        for seconds, found in zip((5.0, 30.0, 120.0), ahead, strict=True):
            real = step(NETWORK, at, np.array([power_w, 0.0]), seconds, ambient_c=30.0)[0]
            assert found == pytest.approx(real, abs=0.8)


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
    assert np.array_equal(later.mean, state.mean)


def test_forecast_and_passing_time_agree():
    state, _ = learn()
    ahead = impedance.forecast(state, PRIOR, 25.0, 0.5).temperature_c([4.0])[0]
    later = impedance.observe(state, PRIOR, None, [4.0], 0.5, state.time_s + 25.0)
    assert ahead == pytest.approx(impedance.estimate(later), abs=1e-9)


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
