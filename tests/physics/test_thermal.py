"""Heat: the exact step, steady state and time to a trip of an RC network."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.physics import leakage, thermal

positive = st.floats(0.05, 50.0)


def one_node(capacity=20.0, conductance=0.5):
    return thermal.ThermalNetwork([capacity], [[0.0]], [conductance])


@st.composite
def networks(draw, nodes=3):
    capacity = draw(st.lists(st.floats(0.5, 500.0), min_size=nodes, max_size=nodes))
    link = np.zeros((nodes, nodes))
    for i in range(nodes - 1):
        link[i, i + 1] = link[i + 1, i] = draw(positive)
    return thermal.ThermalNetwork(capacity, link, [0.0] * (nodes - 1) + [draw(st.floats(0.05, 5.0))])


temperatures = st.lists(st.floats(0.0, 100.0), min_size=3, max_size=3)
powers = st.lists(st.floats(0.0, 30.0), min_size=3, max_size=3)
duration = st.floats(0.0, 5000.0)


@given(st.floats(1.0, 500.0), st.floats(0.05, 5.0), st.floats(0, 100), st.floats(0, 50), duration)
def test_one_node_follows_the_analytic_exponential(capacity, conductance, start_c, power_w, duration_s):
    after = thermal.step(one_node(capacity, conductance), [start_c], [power_w], duration_s, ambient_c=25.0)
    settled = 25.0 + power_w / conductance

    expected = settled + (start_c - settled) * math.exp(-duration_s * conductance / capacity)
    assert float(after[0]) == pytest.approx(expected, rel=1e-10, abs=1e-9)


@given(networks(), temperatures, powers, duration, st.floats(0.0, 1.0))
def test_two_steps_are_one_step(network, start_c, power_w, duration_s, split):
    once = thermal.step(network, start_c, power_w, duration_s, ambient_c=20.0)
    halfway = thermal.step(network, start_c, power_w, duration_s * split, ambient_c=20.0)
    twice = thermal.step(network, halfway, power_w, duration_s * (1 - split), ambient_c=20.0)

    assert twice == pytest.approx(once, rel=1e-9, abs=1e-7)


@given(networks(), temperatures, powers)
def test_a_long_step_ends_at_the_steady_state_and_stays(network, start_c, power_w):
    settled = thermal.steady_state(network, power_w, ambient_c=20.0)
    long = 60.0 * thermal.time_constants(network)[0]

    assert thermal.step(network, start_c, power_w, long, ambient_c=20.0) == pytest.approx(settled, rel=1e-7, abs=1e-6)
    assert thermal.step(network, settled, power_w, 10.0, ambient_c=20.0) == pytest.approx(settled, rel=1e-7, abs=1e-6)


@given(networks(), st.floats(0.0, 20.0))
def test_the_transition_matrix_is_the_exponential_series(network, duration_s):
    exact = -np.linalg.solve(np.diag(network.capacity_j_per_k), network.laplacian_w_per_k) * duration_s
    squarings = 16
    small, term, series = exact / 2.0**squarings, np.eye(3), np.eye(3)
    for order in range(1, 20):
        term = term @ small / order
        series = series + term
    for _ in range(squarings):
        series = series @ series

    assert thermal.transition(network, duration_s) == pytest.approx(series, abs=1e-8)


@given(networks(), temperatures)
def test_an_unpowered_network_decays_by_its_transition_matrix(network, start_c):
    after = thermal.step(network, start_c, [0.0] * 3, 7.0, ambient_c=20.0)

    assert after - 20.0 == pytest.approx(thermal.transition(network, 7.0) @ (np.array(start_c) - 20.0), abs=1e-8)


@given(networks(), temperatures, powers, st.lists(duration, min_size=1, max_size=4))
def test_an_array_of_durations_gives_what_its_elements_give(network, start_c, power_w, durations):
    together = thermal.step(network, start_c, power_w, np.array(durations), ambient_c=20.0)
    alone = [thermal.step(network, start_c, power_w, d, ambient_c=20.0) for d in durations]

    assert together == pytest.approx(np.array(alone), rel=1e-12, abs=1e-10)


@given(networks(), temperatures, powers, st.integers(0, 2), st.floats(30.0, 120.0))
def test_stepping_for_the_time_to_reach_arrives_at_the_trip_and_not_before(network, start_c, power_w, node, trip_c):
    horizon = 2000.0
    reached = thermal.time_to_reach(network, start_c, power_w, trip_c, node=node, ambient_c=20.0, horizon_s=horizon)
    path = thermal.step(network, start_c, power_w, np.linspace(0.0, min(reached, horizon), 400), ambient_c=20.0)

    if math.isfinite(reached) and reached > 0:
        arrived = thermal.step(network, start_c, power_w, reached, ambient_c=20.0)
        assert float(arrived[node]) == pytest.approx(trip_c, abs=1e-6)
        assert np.all(path[:-1, node] <= trip_c + 1e-6)
    elif reached == 0:
        assert start_c[node] >= trip_c
    else:
        assert np.all(path[:, node] <= trip_c + 1e-6)


def test_a_spike_that_rises_and_falls_again_is_caught_on_its_way_up():
    """Heat of a hot neighbour passes through the node: it crosses the trip and ends far below it."""
    network = thermal.ThermalNetwork([1.0, 5.0], [[0.0, 1.0], [1.0, 0.0]], [0.5, 0.1])
    start_c, trip_c = [25.0, 90.0], 50.0
    reached = thermal.time_to_reach(network, start_c, [0, 0], trip_c, node=0, ambient_c=25.0, horizon_s=1e6)

    assert 0 < reached < 5
    assert thermal.step(network, start_c, [0, 0], 1e4, ambient_c=25.0)[0] == pytest.approx(25.0)


def test_time_to_reach_of_one_node_is_the_logarithm():
    reached = thermal.time_to_reach(one_node(20.0, 0.5), [25.0], [40.0], 95.0, node=0, ambient_c=25.0, horizon_s=1e5)

    assert reached == pytest.approx(40.0 * math.log(80.0 / (80.0 - 70.0)), rel=1e-12)


def test_a_trip_beyond_the_steady_state_or_the_horizon_is_never_reached():
    def reach(**more):
        arguments = {"node": 0, "ambient_c": 25.0, "horizon_s": 1e5} | more
        return thermal.time_to_reach(one_node(), [25.0], [20.0], 70.0, **arguments)

    assert reach() == math.inf
    assert math.isfinite(thermal.time_to_reach(one_node(), [25.0], [40.0], 70.0, node=0, ambient_c=25.0, horizon_s=1e5))
    assert reach(power_slope_w_per_k=0.6) < 1e5
    assert reach(power_slope_w_per_k=0.6, horizon_s=1.0) == math.inf


def test_leakage_that_outweighs_the_cooling_reaches_any_trip_along_the_unstable_path():
    network = one_node(20.0, 0.5)
    arguments = {"ambient_c": 25.0, "power_slope_w_per_k": 0.5}
    reached = thermal.time_to_reach(network, [25.0], [10.0], 75.0, node=0, horizon_s=1e4, **arguments)

    assert reached == pytest.approx(100.0, rel=1e-6)
    assert thermal.step(network, [25.0], [10.0], reached, **arguments)[0] == pytest.approx(75.0, abs=1e-5)
    with pytest.raises(ValueError, match="run away"):
        thermal.steady_state(network, [10.0], **arguments)
    with pytest.raises(ValueError, match="run away"):
        thermal.step(network, [25.0], [10.0], 1e6, ambient_c=25.0, power_slope_w_per_k=1.0)


@given(st.floats(0.0, 0.4))
def test_a_rising_power_settles_where_power_and_cooling_balance(slope):
    settled = thermal.steady_state(one_node(20.0, 0.5), [10.0], ambient_c=25.0, power_slope_w_per_k=slope)

    assert float(0.5 * (settled[0] - 25.0)) == pytest.approx(10.0 + slope * float(settled[0] - 25.0))


def test_a_full_fan_cools_and_half_a_fan_cools_half_as_well():
    network = one_node(20.0, 0.3)

    conductances = [float(thermal.with_fan(network, [0.4], fan).ambient_w_per_k[0]) for fan in (0.0, 0.5, 1.0)]
    assert conductances == pytest.approx([0.3, 0.5, 0.7])
    with pytest.raises(ValueError, match="fan"):
        thermal.with_fan(network, [0.4], 1.2)


def test_a_fan_cooled_module_at_fixed_clocks_drifts_less_than_three_percent_in_an_hour():
    """AGX Orin, RetinaNet MultiStream at fixed clocks: 27.02 → 27.49 W in 3600 s (+1.7 %)."""
    network = thermal.with_fan(
        thermal.ThermalNetwork([3.0, 60.0, 400.0], [[0, 4, 0], [4, 0, 3], [0, 3, 0]], [0.0, 0.0, 0.5]), [0, 0, 1.2], 0.6
    )
    activation_ev = 0.1409  # doubles in 30 °C
    leak_25c_w, fixed_w = 1.0, 25.5
    temperature_c = np.array([35.0, 34.0, 33.0])
    board_w = []
    for _ in range(3600):
        leak_w = float(leakage.leakage_power(temperature_c[0], leak_25c_w, activation_ev))
        slope = float(leakage.leakage_slope(temperature_c[0], leak_25c_w, activation_ev))
        board_w.append(fixed_w + leak_w)
        temperature_c = thermal.step(
            network, temperature_c, [fixed_w + leak_w, 0, 0], 1.0, ambient_c=25.0, power_slope_w_per_k=[slope, 0, 0]
        )

    drift = np.mean(board_w[-60:]) / np.mean(board_w[:60]) - 1
    assert 0.0 < drift < 0.03
    assert 45 < temperature_c[0] < 75


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (([0.0], [[0.0]], [1.0]), "capacity_j_per_k"),
        (([1.0], [[0.0]], [-1.0]), "ambient_w_per_k"),
        (([1.0, 1.0], [[0.0, 1.0], [2.0, 0.0]], [1.0, 0.0]), "symmetric"),
        (([1.0], [[1.0]], [1.0]), "diagonal"),
        (([1.0, 1.0], [[0.0]], [1.0, 0.0]), "do not fit"),
        (([[1.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]], [1.0, 0.0]), "do not fit"),
        (([1.0, 1.0], np.zeros((2, 2)), [1.0, 0.0]), "path to ambient"),
    ],
)
def test_an_impossible_network_is_refused(arguments, name):
    with pytest.raises(ValueError, match=name):
        thermal.ThermalNetwork(*arguments)


def test_an_unknown_node_is_an_error():
    with pytest.raises(ValueError, match="node"):
        thermal.time_to_reach(one_node(), [25.0], [1.0], 50.0, node=1, ambient_c=25.0, horizon_s=1.0)


def test_a_node_just_above_its_trip_has_none():
    assert thermal.time_to_reach(one_node(), [71.0], [0.0], 70.0, node=0, ambient_c=25.0, horizon_s=1e5) == 0.0


def test_a_node_just_below_its_trip_still_has_time():
    reached = thermal.time_to_reach(one_node(), [69.0], [40.0], 70.0, node=0, ambient_c=25.0, horizon_s=1e5)

    assert reached == pytest.approx(40.0 * math.log(36.0 / 35.0))
