from __future__ import annotations

import math

import numpy as np
import pytest

from agent.evaluation import regression
from agent.evaluation.regression import Observation, Term, evaluate, level, overlapped, solve


def observe(value, *terms, keys=(), weight=1.0, group=""):
    return Observation(value, ((1.0, terms),), keys, weight, group)


def test_compute_terms_add_up_the_highest_ceiling_counts_and_launches_come_on_top():
    terms = (Term("compute", 2.0, ()), Term("compute", 1.0, ()), Term("ceiling", 2.5, ()), Term("added", 0.5, ()))
    assert evaluate(Observation(1.0, ((2.0, terms),)), {}) == pytest.approx(2.0 * (math.hypot(3.0, 2.5) + 0.5))
    higher = (*terms, Term("ceiling", 4.0, ("m:x",)))
    assert evaluate(observe(1.0, *higher), {"m:x": math.log(2)}) == pytest.approx(math.hypot(3.0, 8.0) + 0.5)
    thrice = evaluate(observe(1.0, *terms, keys=("a:x",)), {"a:x": math.log(3)})
    assert thrice == pytest.approx(3.0 * (math.hypot(3.0, 2.5) + 0.5))


def test_coefficients_that_made_the_data_are_found_again():
    rng = np.random.default_rng(0)
    truth = {"c:a": 0.7, "k:a": -0.4}
    data = []
    for _ in range(40):
        work, kernels = rng.uniform(0.1, 10), rng.uniform(0.1, 10)
        parts = (Term("compute", work, ("c:a",)), Term("added", kernels, ("k:a",)))
        data.append(observe(evaluate(observe(1.0, *parts), truth), *parts))
    found = solve(data, {"c": 10.0, "k": 10.0}, scale=0.01)
    assert found.values == pytest.approx(truth, abs=1e-3)
    assert found.effective_parameters({"c": 10.0, "k": 10.0}) == pytest.approx(2.0, abs=0.01)


def test_one_wild_row_does_not_move_the_others():
    data = [observe(2.0, Term("compute", 1.0, ("c:a",))) for _ in range(9)]
    data.append(observe(2000.0, Term("compute", 1.0, ("c:a",))))
    assert math.exp(solve(data, {"c": 10.0}).values["c:a"]) == pytest.approx(2.0, rel=0.02)


def test_few_rows_stay_near_their_relatives_and_many_leave_them():
    many = [observe(1.0, Term("compute", 1.0, ("c:all", "s:many"))) for _ in range(30)]
    for n, low, high in ((1, 0.0, 0.6), (30, 0.85, 1.0)):
        apart = [observe(math.e, Term("compute", 1.0, ("c:all", "s:few"))) for _ in range(n)]
        values = solve(many + apart, {"c": 2.0, "s": 0.1}, scale=0.2).values
        difference = values["s:few"] - values["s:many"]
        assert low < difference <= high


def test_a_level_without_spread_or_with_too_few_rows_has_no_coefficient():
    twice = [observe(2.0, Term("compute", 1.0, ("c:all", "s:x", "u:x")), group="one") for _ in range(2)]
    found = solve(twice, {"c": 1.0, "s": 1.0}, minimum_rows={"s": 2})
    assert set(found.values) == {"c:all"}
    assert found.counts == {"c:all": 1}


def test_the_higher_ceiling_learns_nearly_all():
    data = [observe(6.0, Term("compute", 1.0, ("c:a",)), Term("ceiling", 3.0, ("m:a",))) for _ in range(5)]
    values = solve(data, {"c": 1.0, "m": 5.0}, scale=0.01).values
    assert math.hypot(math.exp(values["c:a"]), 3.0 * math.exp(values["m:a"])) == pytest.approx(6.0, rel=1e-2)
    assert 0.0 <= values["c:a"] < 0.01
    assert values["m:a"] > 0.65


def test_terms_of_nothing_are_left_out():
    data = [observe(2.0, Term("compute", 1.0, ("c:a",)), Term("added", 0.0, ("l:a",))) for _ in range(3)]
    assert solve(data, {"c": 5.0, "l": 5.0}, scale=0.01).values["c:a"] == pytest.approx(math.log(2), abs=1e-3)


def test_the_level_of_a_key_stands_before_its_colon():
    assert level("c.here:tensorrt/gpu:0") == "c.here"


def test_prior_and_data_weigh_by_their_precision():
    data = [observe(math.e, Term("compute", 1.0, ("s:x",))) for _ in range(4)]
    found = solve(data, {"s": 0.5}, scale=0.5, steps=60)
    assert found.values["s:x"] == pytest.approx(16 / (16 + 4), abs=1e-3)
    assert found.deviations["s:x"] == pytest.approx(math.sqrt(1 / 20), abs=1e-3)


@pytest.mark.parametrize(("compute", "ceiling"), [(3.0, 4.0), (4.0, 3.0), (2.0, 0.0), (0.0, 2.0), (0.0, 0.0)])
def test_a_pass_bound_here_and_there_takes_longer_than_either_bound_and_less_than_both(compute, ceiling):
    seconds = overlapped(compute, ceiling)
    assert seconds == pytest.approx(float(np.hypot(compute, ceiling)))
    assert max(compute, ceiling) <= seconds <= compute + ceiling


def test_the_slope_of_a_pass_bound_by_both_is_that_of_its_value():
    terms = (Term("compute", 3.0, ("a:x",)), Term("ceiling", 4.0, ("b:x",)), Term("added", 1.0, ("k:x",)))
    watched = Observation(1.0, ((1.0, terms),))
    problem = regression._Problem([watched], ["a:x", "b:x", "k:x"])
    _, shares = problem.predict(np.zeros(3))
    base = np.log(evaluate(watched, {}))
    assert base == pytest.approx(np.log(6.0))
    for column, key in enumerate(("a:x", "b:x", "k:x")):
        slope = (np.log(evaluate(watched, {key: 1e-6})) - base) / 1e-6
        assert problem.jacobian(shares)[0, column] == pytest.approx(slope, rel=1e-4)
