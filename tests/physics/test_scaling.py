"""Scaling laws: recovered with intervals where the data supports them, refused with a reason where not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.physics import scaling

exponent = st.floats(0.2, 1.5)


def grid():
    n, s = np.meshgrid([1.25e8, 5e8, 1e9, 3e9, 8e9], [1.0, 2.0, 5.0, 10.0, 20.0])
    return {"model_size": n.ravel(), "samples": s.ravel()}


@given(exponent, exponent, st.floats(1e-9, 1e-3))
def test_an_exact_power_law_is_recovered(beta_n, beta_s, scale):
    x = grid()
    y = scale * x["model_size"] ** beta_n * x["samples"] ** beta_s
    report = scaling.fit_power_law(x, y)

    assert report.supported
    assert report.law.exponents == pytest.approx([beta_n, beta_s], abs=1e-9)
    assert report.law.scale == pytest.approx(scale, rel=1e-6)
    assert report.law.r_squared == pytest.approx(1.0)
    assert scaling.evaluate_law(report.law, x) == pytest.approx(y, rel=1e-6)


@given(exponent, st.floats(0.1, 0.6), st.floats(0.01, 0.05))
def test_an_exact_coverage_law_is_recovered(beta_s, beta_n, alpha):
    x = {"model_size": grid()["model_size"] / 1e8, "samples": grid()["samples"]}
    c = 1 - np.exp(-alpha * x["model_size"] ** beta_n * x["samples"] ** beta_s)
    report = scaling.fit_coverage(x, c)

    assert report.supported
    assert report.law.exponents == pytest.approx([beta_n, beta_s], rel=1e-5)
    assert report.law.scale == pytest.approx(alpha, rel=1e-4)
    assert scaling.evaluate_law(report.law, x) == pytest.approx(c, abs=1e-7)


def test_intervals_cover_the_truth_about_as_often_as_they_promise():
    rng = np.random.default_rng(7)
    x = {"samples": np.geomspace(1, 100, 12)}
    covered = 0
    for _ in range(400):
        law = scaling.fit_power_law(x, 2.0 * x["samples"] ** 0.7 * np.exp(rng.normal(0, 0.3, 12)), confidence=0.9).law
        low, high = law.exponent_intervals[0]
        covered += low <= 0.7 <= high

    assert 0.85 < covered / 400 < 0.95


def test_noisy_coverage_is_fitted_on_coverage_itself_with_an_honest_interval():
    rng = np.random.default_rng(3)
    samples = np.geomspace(1, 50, 15)
    c = np.clip(1 - np.exp(-0.1 * samples**0.8) + rng.normal(0, 0.01, 15), 0, 1)
    law = scaling.fit_coverage({"samples": samples}, c).law

    assert law.exponent_intervals[0, 0] < 0.8 < law.exponent_intervals[0, 1]
    assert law.scale_interval[0] < 0.1 < law.scale_interval[1]
    assert np.abs(law.residuals).max() < 0.04
    assert law.degrees_of_freedom == 13


def test_a_bad_start_is_still_refined_to_the_least_squares_solution():
    """Points near 1 dominate the log–log start; the refinement weighs them as coverage does."""
    rng = np.random.default_rng(5)
    samples = np.geomspace(1, 1000, 25)
    truth = 1 - np.exp(-0.3 * samples**0.5)
    c = np.clip(truth + rng.normal(0, 0.03, 25), 0.001, 0.9999)
    law = scaling.fit_coverage({"samples": samples}, c).law

    for factor in (0.98, 1.02):
        nudged = 1 - np.exp(-law.scale * factor * samples ** law.exponents[0])
        assert law.residuals @ law.residuals < (c - nudged) @ (c - nudged)


def test_points_at_zero_and_one_count_in_the_fit_but_not_in_its_start():
    samples = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 4000.0])
    c = np.append(1 - np.exp(-0.1 * samples[:-1]), 1.0)

    assert scaling.fit_coverage({"samples": samples}, c).law.exponents == pytest.approx([1.0], rel=1e-6)


@pytest.mark.parametrize(
    ("samples", "values", "reason"),
    [
        ([1.0, 2.0], [1.0, 2.0], "2 points cannot determine 2"),
        ([3.0, 3.0, 3.0, 3.0], [1.0, 2.0, 3.0, 4.0], "do not vary"),
        ([1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 9.0, 1.0, 9.0, 1.0], "R²"),
        ([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 2.0, 2.0, 2.0, 2.0], "R²"),
    ],
)
def test_a_fit_that_the_data_does_not_support_says_why(samples, values, reason):
    report = scaling.fit_power_law({"samples": samples}, values)

    assert not report.supported
    assert reason in report.unsupported_because


def test_an_exponent_that_may_be_zero_is_not_supported():
    report = scaling.fit_power_law({"samples": [1.0, 2.0, 4.0]}, [1.0, 2.2, 2.4], min_r_squared=0.0)

    assert report.law is not None
    assert "no exponent differs from 0 at 95%" in report.unsupported_because


def test_saturated_coverage_cannot_tell_its_exponents():
    few = scaling.fit_coverage({"samples": [1.0, 2.0, 3.0, 4.0]}, [1.0, 1.0, 1.0, 0.9])
    flat = scaling.fit_coverage({"samples": [1.0, 2.0, 3.0, 4.0, 5.0]}, [0.5, 1 - 1e-16, 1.0, 1.0, 1.0])
    steep = scaling.fit_coverage({"samples": [1.0, 1e3, 2e3, 3e3, 4e3]}, [0.5] + [1 - 1.2e-16] * 4)

    assert "strictly between 0 and 1: 1 points" in few.unsupported_because
    assert "strictly between 0 and 1" in flat.unsupported_because
    assert "saturated" in steep.unsupported_because


def test_impossible_data_is_named():
    with pytest.raises(ValueError, match="samples must be"):
        scaling.fit_power_law({"samples": [0.0, 1.0, 2.0]}, [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="samples must have one value"):
        scaling.fit_power_law({"samples": [1.0, 2.0]}, [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="one-dimensional"):
        scaling.fit_power_law({"samples": [1.0]}, 1.0)
    with pytest.raises(ValueError, match="coverage"):
        scaling.fit_coverage({"samples": [1.0, 2.0, 3.0]}, [0.1, 0.2, 1.3])
    law = scaling.fit_power_law({"samples": [1.0, 2.0, 3.0]}, [1.0, 2.0, 3.1]).law
    with pytest.raises(ValueError, match="lack samples"):
        scaling.evaluate_law(law, {})


def test_intervals_follow_the_textbook_formula_of_a_straight_line():
    x, y = np.log([1.0, 2.0, 4.0, 9.0, 20.0]), np.array([0.1, 0.5, 1.1, 1.4, 2.2])
    law = scaling.fit_power_law({"samples": np.exp(x)}, np.exp(y)).law
    standard_error = np.sqrt(law.residuals @ law.residuals / 3 / np.sum((x - x.mean()) ** 2))

    half_width = (law.exponent_intervals[0, 1] - law.exponent_intervals[0, 0]) / 2
    assert half_width == pytest.approx(3.18245 * standard_error, rel=1e-5)


@pytest.mark.parametrize("noise", ["even", "shares"])
def test_intervals_hold_the_truth_as_often_as_they_say(noise):
    """Also where the points are shares of 200 questions, whose noise differs with the share."""
    rng = np.random.default_rng(7)
    samples = np.geomspace(1, 64, 7)
    truth = 1 - np.exp(-0.3 * samples**0.7)
    held = np.zeros(2)
    for _ in range(100):
        seen = truth + rng.normal(0, 0.01, 7) if noise == "even" else rng.binomial(200, truth) / 200
        law = scaling.fit_coverage({"samples": samples}, np.clip(seen, 0, 1)).law
        exponent = law.exponent_intervals[0]
        held += [law.scale_interval[0] <= 0.3 <= law.scale_interval[1], exponent[0] <= 0.7 <= exponent[1]]
    assert held.min() >= 93
