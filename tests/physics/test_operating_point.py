"""Operating points: clocks, gated units, and the kink at the voltage floor."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.physics import operating_point

clock = st.floats(1e8, 3e9)
exponent = st.floats(0.0, 0.7)
REFERENCE = {"reference_units": 4.0, "reference_clock_hz": 1e9, "reference_memory_clock_hz": 3.2e9}


def scaled(units, clock_hz, memory_clock_hz=3.2e9, floor_clock_hz=9e8, voltage_exponent=0.4, **more):
    return operating_point.operating_point_scaling(
        units, clock_hz, memory_clock_hz,
        floor_clock_hz=floor_clock_hz, voltage_exponent=voltage_exponent, **(REFERENCE | more),
    )  # fmt: skip


@given(exponent, clock)
def test_the_reference_scales_by_one(voltage_exponent, floor):
    s = scaled(4.0, 1e9, floor_clock_hz=floor, voltage_exponent=voltage_exponent)

    assert [float(x) for x in (s.peak, s.bandwidth, s.dynamic_power, s.energy_per_op, s.leakage)] == [1.0] * 5


@given(st.floats(1.0, 8.0), clock, exponent, clock)
def test_dynamic_power_is_rate_times_energy_per_operation(units, clock_hz, voltage_exponent, floor):
    s = scaled(units, clock_hz, floor_clock_hz=floor, voltage_exponent=voltage_exponent)

    assert float(s.dynamic_power) == pytest.approx(float(s.peak * s.energy_per_op), rel=1e-12)


def test_power_is_linear_below_the_floor_and_kinks_above_it():
    """Orin Nano rails: exponents 0.8–0.9 up to 918 MHz, 1.4–2.2 above."""
    f = np.array([600e6, 918e6, 1020e6])
    power = scaled(4.0, f, floor_clock_hz=918e6, voltage_exponent=operating_point.voltage_exponent(1.8)).dynamic_power
    slope = np.diff(np.log(power)) / np.diff(np.log(f))

    assert slope.tolist() == pytest.approx([1.0, 1.8])


@given(exponent)
def test_voltage_is_continuous_at_the_floor(voltage_exponent):
    below, above = operating_point.voltage_ratio([1e9 * (1 - 1e-9), 1e9 * (1 + 1e-9)], 1e9, voltage_exponent)

    assert below == 1.0
    assert above == pytest.approx(1.0, abs=1e-8)


def test_memory_clock_moves_bandwidth_and_nothing_else():
    low, high = scaled(4.0, 1e9, 2.133e9), scaled(4.0, 1e9, 3.199e9)

    assert float(high.bandwidth / low.bandwidth) == pytest.approx(3.199 / 2.133)
    assert float(high.dynamic_power) == float(low.dynamic_power)


def test_gated_units_keep_the_stated_share_of_their_leakage():
    power_gated, clock_gated, half = (float(scaled(1.0, 1e9, gated_leakage=g).leakage) for g in (0.0, 1.0, 0.5))

    assert (power_gated, clock_gated, half) == (0.25, 1.0, 0.625)


def test_compute_of_a_15_watt_mode_matches_a_published_mode():
    """AGX Orin 15 W: 3 of 8 units at 408 MHz against 1300.5 MHz is 0.118 of the compute of MAXN."""
    s = operating_point.operating_point_scaling(
        3, 408e6, 2133e6,
        reference_units=8, reference_clock_hz=1300.5e6, reference_memory_clock_hz=3199e6,
        floor_clock_hz=900e6, voltage_exponent=0.4,
    )  # fmt: skip

    assert float(s.peak) == pytest.approx(0.118, abs=0.001)


@given(st.floats(0.05, 0.7), st.floats(0.01, 20.0))
def test_no_clock_beats_the_best_energy_clock(voltage_exponent, static_power_w):
    floor, eps, per_cycle = 9e8, 1e-12, 1000.0
    best = float(
        operating_point.best_energy_clock(
            eps, per_cycle, static_power_w, floor_clock_hz=floor, voltage_exponent=voltage_exponent
        )
    )

    def energy_per_flop(f):
        return eps * operating_point.voltage_ratio(f, floor, voltage_exponent) ** 2 + static_power_w / (per_cycle * f)

    others = energy_per_flop(np.geomspace(1e8, 1e11, 2001))
    assert float(energy_per_flop(best)) <= float(others.min()) * (1 + 1e-9)
    assert best >= floor


@pytest.mark.parametrize(("name", "value"), [("units", 0.0), ("clock_hz", -1.0), ("voltage_exponent", -0.1)])
def test_an_impossible_operating_point_is_named(name, value):
    with pytest.raises(ValueError, match=name):
        scaled(**({"units": 1.0, "clock_hz": 1e9} | {name: value}))


def test_a_power_exponent_below_one_is_an_error():
    with pytest.raises(ValueError, match="power_exponent"):
        operating_point.voltage_exponent(0.9)
