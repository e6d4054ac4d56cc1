"""Leakage: growth with temperature, doubling temperature, and stability."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.physics import leakage

activation = st.floats(0.0, 0.6)
junction = st.floats(-20.0, 110.0)


@given(activation, st.floats(0.01, 10.0), junction)
def test_leakage_at_the_reference_is_the_reference_power(activation_ev, power_w, reference_c):
    assert float(leakage.leakage_power(reference_c, power_w, activation_ev, reference_c)) == pytest.approx(power_w)


@given(activation, junction, st.floats(0.1, 50.0))
def test_leakage_rises_with_temperature(activation_ev, cold_c, rise_c):
    cold, hot = leakage.leakage_power([cold_c, cold_c + rise_c], 1.0, activation_ev)

    assert hot > cold


@given(activation, junction)
def test_the_slope_is_the_derivative(activation_ev, at_c):
    step = 1e-3
    low, high = leakage.leakage_power([at_c - step, at_c + step], 2.0, activation_ev)

    assert float(leakage.leakage_slope(at_c, 2.0, activation_ev)) == pytest.approx((high - low) / (2 * step), rel=1e-5)


@given(st.floats(0.0, 1.5), st.floats(0.0, 80.0))
def test_one_doubling_temperature_above_the_reference_leakage_has_doubled(activation_ev, reference_c):
    hot_c = reference_c + float(leakage.doubling_from_activation(activation_ev, reference_c))

    assert float(leakage.leakage_power(hot_c, 1.0, activation_ev, reference_c)) == pytest.approx(2.0, rel=1e-9)


def test_doubling_temperatures_broadcast_and_are_the_square_of_temperature_alone_without_activation():
    there = leakage.doubling_from_activation([[0.1], [0.4]], [25.0, 60.0])

    assert there.shape == (2, 2)
    assert float(there[1, 0]) == float(leakage.doubling_from_activation(0.4, 25.0))
    assert float(leakage.doubling_from_activation(0.0)) == pytest.approx(298.15 * (math.sqrt(2) - 1))


def test_the_law_reproduces_a_published_fit_of_a_65_nm_process():
    """PAPT fit of Liao, He, Lepak 2005 at 0.95 V relative to 25 °C, with one free parameter here."""
    volts, squared, flat = 0.95, 1.1432e-12, 1.0126e-14

    def published(at_c):
        kelvin = at_c + 273.15
        thermal = squared * kelvin**2 * math.exp((466.4029 * volts - 1224.74083) / kelvin)
        return thermal + flat * math.exp(6.28153 * volts + 6.9094)

    at_c = np.array([40.0, 60.0, 80.0, 85.0, 100.0])
    expected = [published(t) / published(25.0) for t in at_c]
    ours = leakage.leakage_power(at_c, 1.0, 0.03552)  # doubles in 71 °C

    assert np.round(expected, 2).tolist() == pytest.approx([1.16, 1.42, 1.72, 1.81, 2.08], abs=0.011)
    assert ours.tolist() == pytest.approx(expected, rel=0.03)


@given(
    st.floats(0.0, 60.0), st.floats(0.1, 8.0), st.floats(0.0, 20.0), st.floats(0.0, 3.0), activation
)  # fmt: skip
def test_a_stable_fixed_point_solves_its_equation_with_gain_below_one(ambient_c, r, dynamic_w, leak_w, activation_ev):
    point = leakage.fixed_point(ambient_c, r, dynamic_w, leak_w, activation_ev)

    if point.stable:
        t = float(point.temperature_c)
        assert t == pytest.approx(ambient_c + r * (dynamic_w + float(point.leakage_power_w)), abs=1e-6)
        assert point.loop_gain < 1
    else:
        probe = np.linspace(ambient_c, ambient_c + 2000, 20001)
        assert np.all(probe - ambient_c < r * (dynamic_w + leakage.leakage_power(probe, leak_w, activation_ev)) + 1e-3)


def test_enough_cooling_settles_and_too_little_runs_away():
    point = leakage.fixed_point(25.0, [1.0, 40.0], 10.0, 1.0, 0.3)

    assert point.stable.tolist() == [True, False]
    assert 36 < point.temperature_c[0] < 50
    assert point.temperature_c[1] == point.leakage_power_w[1] == point.loop_gain[1] == math.inf


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature_c", -300.0), ("reference_power_w", -1.0), ("activation_ev", math.nan), ("reference_c", -273.15)],
)
def test_an_impossible_argument_is_named(name, value):
    arguments = {"temperature_c": 50.0, "reference_power_w": 1.0, "activation_ev": 0.1, name: value}

    with pytest.raises(ValueError, match=name):
        leakage.leakage_power(**arguments)
