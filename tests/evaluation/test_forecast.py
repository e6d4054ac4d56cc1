from __future__ import annotations

import dataclasses
import math

import pytest

from agent.evaluation import terms
from agent.evaluation.forecast import Coefficients, forecast_power, forecast_time, phase
from agent.evaluation.regression import Observation, Solution, evaluate
from agent.evaluation.targets import compare
from tests.evaluation.worlds import NOTHING, case

CASES = [
    {},
    {"model": "mobile", "device": "cpu", "precision": "fp32"},
    {"model": "llama", "task": "decode", "prompt_tokens": 2048},
    {"model": "llama", "task": "prefill", "prompt_tokens": 512},
    {"board": "stick", "device": "tpu", "notes": "coral"},
    {"device": "gpu+dla", "latency_ms": "", "throughput_ips": 10},
]


@pytest.mark.parametrize("cells", CASES)
def test_the_physics_and_the_regression_give_one_time(cells):
    found = case(**cells)
    values = {"c:all": 0.4, "m:all": -0.3, "k:all": 0.2, "a.model:" + found.model: 0.1, "i:all": 0.3, "v:all": 0.5}
    coefficients = Coefficients(Solution(values), Solution({}))
    parts = tuple((load.times, terms.time_terms(found, load)) for load in found.loads)
    modelled = evaluate(Observation(1.0, parts, terms.time_keys(found)), values)
    assert forecast_time(found, coefficients).mean_s == pytest.approx(modelled, rel=1e-9)


def test_half_the_units_at_half_the_clock_take_nearly_four_times_as_long_where_arithmetic_binds_most_kernels():
    fast, slow = case(latency_ms="", throughput_ips=9), case(latency_ms="", throughput_ips=9, power_mode="low")
    ratio = phase(slow, slow.loads[0], {}).time_s / phase(fast, fast.loads[0], {}).time_s
    assert 3.5 < ratio < 4.0


def test_a_slower_operating_point_draws_less_and_a_coefficient_scales_it():
    fast, slow = case(power_w=30), case(power_w=30, power_mode="low")
    watts = [forecast_power(c, forecast_time(c, NOTHING), NOTHING).power_w for c in (fast, slow)]
    assert watts[0] > watts[1] > slow.site.idle_w
    hungry = Coefficients(Solution({}), Solution({"on:wall": 1.0}))
    assert forecast_power(fast, forecast_time(fast, hungry), hungry).power_w > watts[0]


def test_energy_is_power_times_mean_time_of_what_the_joules_are_per():
    query = {c.quantity: c for c in compare(case(power_w=20, energy_j=0.1, latency_stat="p90"), NOTHING)}
    seconds = forecast_time(case(), NOTHING).mean_s
    assert query["energy"].predicted == pytest.approx(query["power"].predicted * seconds)
    rate = {c.quantity: c for c in compare(case(latency_ms="", throughput_ips=100, power_w=20, energy_j=0.1), NOTHING)}
    assert rate["energy"].predicted == pytest.approx(rate["power"].predicted / rate["throughput"].predicted)


def test_a_percentile_is_the_mean_times_its_tail():
    coefficients = Coefficients(Solution({"t:p90": math.log(1.2)}), Solution({}))
    (p90,) = compare(case(latency_stat="p90"), coefficients)
    (mean,) = compare(case(latency_stat="mean"), coefficients)
    (published_mean,) = compare(case(latency_ms="", mean_latency_ms=1.0, latency_stat="p90"), coefficients)
    assert p90.predicted == pytest.approx(1.2 * mean.predicted)
    assert published_mean.predicted == pytest.approx(mean.predicted)


def test_what_nobody_measured_is_less_certain_and_held_out_errors_scale_it():
    found = case()
    keys = {k: 0.0 for load in found.loads for t in terms.time_terms(found, load) for k in t.keys}
    keys |= dict.fromkeys(terms.time_keys(found), 0.0)
    known = Coefficients(Solution(keys, scale=0.1), Solution({}))
    assert forecast_time(found, known).rel_uncertainty == pytest.approx(0.1)
    assert forecast_time(found, NOTHING).rel_uncertainty > 0.5
    wider = dataclasses.replace(known, uncertainty_factor=2.0)
    assert forecast_time(found, wider).rel_uncertainty == pytest.approx(0.2)


def test_power_in_a_scope_nobody_knows_is_not_compared():
    quantities = [c.quantity for c in compare(case(power_w=5, power_scope="guess"), NOTHING)]
    assert quantities == ["latency"]
