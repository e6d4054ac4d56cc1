"""The composed prediction: where each effect enters, and that it broadcasts."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import physics

LOAD = physics.StageLoad(flops=2e9, weight_bytes=1e7, stream_bytes=2e6)
TERMS = physics.AcceleratorTerms(
    peak_flops_per_s=1e12,
    bandwidth_bytes_per_s=5e9,
    j_per_flop=1e-12,
    j_per_byte=4e-11,
    base_power_w=1.0,
    leakage_w=0.5,
    activation_ev=0.15,
    overhead_s=1e-4,
)


def predicted(load=LOAD, terms=TERMS, temperature_c=50.0, **more):
    return physics.predict(load, terms, temperature_c=temperature_c, **more)


@given(st.floats(0, 1e11), st.floats(1, 1e9), st.floats(0, 1e8), st.floats(-10, 105), st.floats(1, 5), st.floats(5, 50))
def test_every_law_holds_of_the_composition(flops, weight_bytes, stream_bytes, temperature_c, penalty, cap_w):
    load = physics.StageLoad(flops, weight_bytes, stream_bytes)
    p = predicted(load, replace(TERMS, power_cap_w=cap_w + 4), temperature_c, penalty=penalty)

    assert 0 < p.energy.thermal_yield <= 1
    assert 0 <= p.roofline.dasi <= 1
    assert p.energy.time_s >= p.roofline.time_s
    assert float(physics.energy_by_yield(p.energy.switching_j, p.energy.thermal_yield)) == pytest.approx(
        float(p.energy.energy_j), rel=1e-12
    )


@given(st.floats(-10, 90), st.floats(0.5, 20))
def test_energy_rises_with_temperature(temperature_c, rise_c):
    cold, hot = predicted(temperature_c=[temperature_c, temperature_c + rise_c]).energy.energy_j

    assert hot > cold


def test_pressure_lengthens_and_costs_memory_traffic():
    free, crowded = predicted(), predicted(penalty=2.0)

    assert float(crowded.roofline.memory_s) == 2 * float(free.roofline.memory_s)
    assert float(crowded.energy.switching_j - free.energy.switching_j) == pytest.approx(1.2e7 * 4e-11)


def test_weights_that_fit_the_cache_leave_dram_and_pay_cache_time():
    cached = predicted(terms=replace(TERMS, cache_bytes=2e7, cache_bytes_per_s=1e10))

    assert float(cached.bytes_moved) == 2e6
    assert float(cached.roofline.cache_s) == pytest.approx(1e-3)


def test_spilled_weights_and_issue_can_bind():
    linked = predicted(terms=replace(TERMS, sram_bytes=2e6, link_bytes_per_s=4e8))
    issued = predicted(load=replace(LOAD, cycles=1e8), terms=replace(TERMS, issue_cycles_per_s=1e9))

    assert (str(linked.roofline.binding), float(linked.roofline.link_s)) == ("link", pytest.approx(0.02))
    assert (str(issued.roofline.binding), float(issued.roofline.issue_s)) == ("issue", pytest.approx(0.1))


def test_a_cap_stretches_the_predicted_time():
    p = predicted(terms=replace(TERMS, power_cap_w=2.2))

    assert p.energy.capped
    assert float(p.energy.mean_power_w) == pytest.approx(2.2)


def test_stages_accelerators_and_points_broadcast_and_match_single_calls():
    flops = np.array([1e8, 1e9, 1e10])
    peaks = np.array([1e11, 1e12])
    table = predicted(
        load=replace(LOAD, flops=flops[:, None, None]),
        terms=replace(TERMS, peak_flops_per_s=peaks[:, None]),
        temperature_c=np.array([40.0, 60.0, 80.0, 95.0]),
    ).energy.energy_j
    one = predicted(
        load=replace(LOAD, flops=1e9), terms=replace(TERMS, peak_flops_per_s=1e11), temperature_c=80.0
    ).energy.energy_j

    assert table.shape == (3, 2, 4)
    assert table[1, 0, 2] == float(one)
