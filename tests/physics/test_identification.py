"""On-line identification: what the sensors determine is found, what they do not is said."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.physics import identification, thermal

AMBIENT_C = 24.0


def drive(fans, noise_c=0.0, seed=1, network=None, fan_w_per_k=0.6, windows=120, samples=20):
    """Sensor data of a one-node board under changing power: (times, temperatures, powers, fan) per window."""
    rng = np.random.default_rng(seed)
    board = network or thermal.ThermalNetwork([80.0], [[0.0]], [0.4])
    temperature_c = np.full(board.capacity_j_per_k.size, 40.0)
    data = []
    for index in range(windows):
        fan = fans[index % len(fans)]
        cooled = thermal.with_fan(board, [fan_w_per_k] + [0.0] * (temperature_c.size - 1), fan)
        power_w = np.array([rng.uniform(4, 30)] + [rng.uniform(0, 10) for _ in temperature_c[1:]])
        times = np.linspace(0.0, 10.0, samples)
        path = thermal.step(cooled, temperature_c, power_w, times, ambient_c=AMBIENT_C)
        temperature_c = path[-1]
        noisy = path + rng.normal(0.0, noise_c, path.shape) if noise_c else path
        data.append((times, noisy, np.broadcast_to(power_w, path.shape), np.full(samples, fan)))
    return data


def learn(data, node=0, forgetting=1.0):
    nodes = data[0][1].shape[1]
    state = identification.start(3 + nodes - 1, forgetting)
    for times, path, power_w, fan in data:
        others = [path[:, j] for j in range(nodes) if j != node]
        state = identification.update(
            state,
            *identification.window(
                times, path[:, node], power_w[:, node], fan if node == 0 else 0.0 * fan,
                ambient_c=AMBIENT_C, neighbours_c=others,
            ),
        )  # fmt: skip
    return state


def test_capacity_conductance_and_fan_are_recovered_from_clean_data():
    found = identification.estimate(learn(drive([0.0, 0.3, 1.0])))

    assert found.supported
    assert found.capacity_j_per_k == pytest.approx(80.0, rel=0.01)
    assert found.ambient_w_per_k == pytest.approx(0.4, rel=0.01)
    assert found.fan_w_per_k == pytest.approx(0.6, rel=0.01)


def test_half_a_degree_of_noise_leaves_the_truth_within_three_standard_deviations():
    found = identification.estimate(learn(drive([0.0, 0.3, 1.0], noise_c=0.5, windows=400)))
    truth = np.array([80.0, 0.4, 0.6])
    values = np.array([found.capacity_j_per_k, found.ambient_w_per_k, found.fan_w_per_k])

    assert found.supported
    assert np.all(np.abs(values / truth - 1) < 3 * found.rel_uncertainty + 0.02)


@pytest.mark.parametrize("fan", [0.0, 0.5])
def test_a_fan_that_never_changed_is_reported_as_undetermined(fan):
    found = identification.estimate(learn(drive([fan], noise_c=0.05)))

    assert "fan" in found.undetermined
    assert not found.supported
    assert found.capacity_j_per_k == pytest.approx(80.0, rel=0.05)


def test_perfect_data_does_not_hide_that_the_fan_never_changed():
    rng = np.random.default_rng(4)
    state = identification.start(3)
    for heat_j, area_ks in rng.uniform(50, 300, (40, 2)):
        rise_c = (heat_j - 0.7 * area_ks) / 80.0
        state = identification.update(state, [heat_j, -area_ks, -0.5 * area_ks], rise_c)

    assert identification.estimate(state).undetermined == ("ambient", "fan")


def test_too_little_data_supports_nothing():
    for count in (0, 2):
        found = identification.estimate(learn(drive([0.0, 1.0])[:count]) if count else identification.start(3))

        assert found.undetermined == ("capacity", "ambient", "fan")
        assert found.capacity_j_per_k == math.inf


def test_a_constant_power_that_no_reading_has_is_found_with_its_uncertainty():
    state = identification.start(4)
    for times, path, power_w, fan in drive([0.0, 0.3, 1.0], noise_c=0.02):
        regressors, response = identification.window(times, path[:, 0], power_w[:, 0] - 3.0, fan, ambient_c=AMBIENT_C)
        state = identification.update(state, np.append(regressors, times[-1] - times[0]), response)

    node, unnamed = identification.estimate_beside(state)

    assert unnamed.power_w == pytest.approx(3.0, abs=3 * unnamed.standard_error_w + 0.1)
    assert 0 < unnamed.standard_error_w < 0.5
    assert node.supported
    assert node.ambient_w_per_k == pytest.approx(0.4, rel=0.05)
    assert node.fan_w_per_k == pytest.approx(0.6, rel=0.05)


def test_nothing_is_said_of_a_power_beside_that_the_data_cannot_tell():
    node, unnamed = identification.estimate_beside(identification.start(4))

    assert node.undetermined == ("capacity", "ambient", "fan")
    assert (unnamed.power_w, unnamed.standard_error_w) == (0.0, math.inf)


def test_old_cooling_is_forgotten_when_dust_halves_it():
    before, after = drive([0.0, 1.0], windows=200), drive([0.0, 1.0], fan_w_per_k=0.3, windows=200, seed=2)

    assert identification.estimate(learn(before + after, forgetting=0.95)).fan_w_per_k == pytest.approx(0.3, rel=0.05)
    assert identification.estimate(learn(before + after)).fan_w_per_k > 0.33


def test_a_board_of_two_nodes_is_put_together_again():
    board = thermal.ThermalNetwork([10.0, 120.0], [[0.0, 2.0], [2.0, 0.0]], [0.1, 0.9])
    data = drive([0.0, 0.5, 1.0], network=board, samples=200)
    estimates = tuple(identification.estimate(learn(data, node)) for node in (0, 1))
    found = identification.assemble(estimates, fan=0.5)

    assert estimates[0].supported
    assert estimates[1].undetermined == ("fan",)
    assert found.capacity_j_per_k == pytest.approx(board.capacity_j_per_k, rel=0.02)
    assert found.link_w_per_k == pytest.approx(board.link_w_per_k, rel=0.02)
    assert found.ambient_w_per_k == pytest.approx([0.1 + 0.3, 0.9], rel=0.05)


def test_estimates_that_do_not_know_each_other_cannot_be_assembled():
    lone = identification.estimate(learn(drive([0.0, 1.0])))

    assert identification.assemble((lone,), fan=1.0).ambient_w_per_k == pytest.approx([1.0], rel=0.01)
    with pytest.raises(ValueError, match=r"estimates\[0\]"):
        identification.assemble((lone, lone), fan=0.0)


@given(st.integers(0, 10_000))
def test_recursion_equals_the_batch_solution(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=12)
    state = identification.start(3)
    for row, value in zip(x, y, strict=True):
        state = identification.update(state, row, value)
    batch, squared, *_ = np.linalg.lstsq(x, y, rcond=None)

    assert state.parameters == pytest.approx(batch, abs=1e-3)
    assert state.squared_error == pytest.approx(float(squared[0]), rel=1e-2, abs=1e-3)
    assert state.weight == 12


def test_a_silent_board_does_not_wind_up_the_covariance():
    state = identification.start(3, forgetting=0.9)
    for _ in range(2000):
        state = identification.update(state, [1.0, 0.0, 0.0], 1.0)

    assert np.trace(state.covariance) <= 3e6
    assert state.parameters == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"time_s": [0.0]}, "time_s"),
        ({"time_s": [0.0, 0.0]}, "time_s"),
        ({"time_s": [[0.0, 1.0]]}, "time_s"),
        ({"fan": [0.0, 1.5]}, "fan"),
        ({"power_w": [1.0, 2.0, 3.0]}, "power_w"),
        ({"temperature_c": [math.nan, 1.0]}, "temperature_c"),
    ],
)
def test_an_impossible_window_is_refused(change, name):
    arguments = {"time_s": [0.0, 1.0], "temperature_c": [30.0, 31.0], "power_w": 5.0, "fan": 0.0} | change

    with pytest.raises(ValueError, match=name):
        identification.window(**arguments, ambient_c=AMBIENT_C)


def test_impossible_states_and_observations_are_refused():
    with pytest.raises(ValueError, match="parameters"):
        identification.start(0)
    with pytest.raises(ValueError, match="forgetting"):
        identification.start(3, 0.0)
    with pytest.raises(ValueError, match="regressors"):
        identification.update(identification.start(3), [1.0, 2.0], 1.0)
    with pytest.raises(ValueError, match="response"):
        identification.update(identification.start(1), [1.0], math.nan)
    with pytest.raises(ValueError, match="3 parameters"):
        identification.estimate(identification.start(2))
