"""Memory pressure: CPQ, its penalty and the swap cliff."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.physics import pressure

knee = st.floats(0.05, 0.97)
slope = st.floats(0.0, 5.0)


def test_cpq_is_what_is_held_over_what_is_usable():
    assert pressure.cpq(3e9, 0.5e9, 0.5e9, 8e9, 3e9) == pytest.approx(0.8)


@given(knee, slope)
def test_the_penalty_is_one_up_to_the_knee_and_continuous_there(theta, kappa):
    below, at, above = pressure.penalty([theta / 2, theta, theta + 1e-12], knee=theta, slope=kappa)

    assert (below, at) == (1.0, 1.0)
    assert above == pytest.approx(1.0, abs=1e-8)


@given(knee, slope, st.lists(st.floats(0.0, 3.0), min_size=2, max_size=20))
def test_the_penalty_never_falls(theta, kappa, values):
    rising = pressure.penalty(np.sort(values), knee=theta, slope=kappa)

    assert np.all(np.diff(rising) >= 0)
    assert np.all(rising >= 1)
    assert np.all(np.isfinite(rising))


def test_the_penalty_follows_its_formula_and_saturates():
    assert pressure.penalty(0.9, knee=0.8, slope=0.5) == pytest.approx(1 + 0.5 * 0.1 / 0.1)
    assert pressure.penalty(5.0, knee=0.8, slope=0.5) == pressure.penalty(0.98, knee=0.8, slope=0.5)
    assert pressure.penalty(5.0, knee=0.8, slope=0.5, saturation=0.9) == pytest.approx(1.5)


@given(knee, slope, st.lists(st.floats(0.0, 2.0), min_size=1, max_size=6))
def test_an_array_of_occupancies_gives_what_its_elements_give(theta, kappa, values):
    together = pressure.penalty(values, knee=theta, slope=kappa)

    assert together.tolist() == [float(pressure.penalty(v, knee=theta, slope=kappa)) for v in values]


def test_swapping_is_free_until_memory_is_full_and_then_a_cliff():
    fits, full, over = pressure.swap_time([4e9, 5e9, 6e9], 5e9, 0.05e9)

    assert (fits, full, over) == (0.0, 0.0, 20.0)
    assert pressure.swap_time(6e9, 5e9, 0.05e9, touched_share=0.5) == 10.0


def test_reserving_everything_is_an_error():
    with pytest.raises(ValueError, match="capacity_bytes - reserved_bytes"):
        pressure.cpq(1.0, 0.0, 0.0, 8e9, 8e9)


def test_a_penalty_that_could_diverge_is_an_error():
    with pytest.raises(ValueError, match="saturation"):
        pressure.penalty(0.5, knee=0.8, slope=0.5, saturation=1.0)


@pytest.mark.parametrize(("name", "value"), [("cpq", float("nan")), ("knee", 0.0), ("slope", -1.0)])
def test_an_impossible_argument_of_the_penalty_is_named(name, value):
    with pytest.raises(ValueError, match=name):
        pressure.penalty(**({"cpq": 0.5, "knee": 0.8, "slope": 0.5} | {name: value}))
