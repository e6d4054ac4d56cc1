"""The coefficients of a cost: which ones, where they stand, and the profile with one changed."""

from __future__ import annotations

import pytest

from agent.placement import costing
from agent.placement.explain import explain
from agent.placement.knobs import knobs, value_at, with_value
from tests.placement.test_costing import board, cost, load, quantity, stage, unit

LEAKAGE = {"power_w": quantity(1.0), "activation_energy_ev": quantity(0.3)}


def runtime_of(profile, name="a"):
    accelerator = profile.accelerator(name)
    return accelerator, costing.choose_runtime(accelerator, "onnx")


def names(workload, profile):
    return [k.name for k in knobs(workload, profile, *runtime_of(profile))]


def test_every_coefficient_stands_where_its_place_says():
    profile = board(unit("z"), unit("a", leakage=LEAKAGE, power_cap_w=quantity(9.0)))
    found = knobs(load(), profile, *runtime_of(profile))
    assert {"dispatch", "energy per byte of ram", "leakage at 25 °C", "power cap of the part"} <= {
        k.name for k in found
    }
    for knob in found:
        assert value_at(profile, knob.place) == knob.quantity
        assert value_at(knob.scaled(profile, 3.0), knob.place).value == 3.0 * knob.quantity.value


def test_what_all_share_touches_all():
    profile = board(unit("z"), unit("a"))
    touched = {k.name: k.touches for k in knobs(load(), profile, *runtime_of(profile))}
    assert touched["bandwidth of ram"] == ("z", "a")
    assert touched["peak in fp32"] == ("a",)


def test_a_widened_precision_brings_the_coefficients_it_is_computed_with():
    found = names(load(stage(precision="fp16")), board(unit("a")))
    assert "peak in fp32" in found
    assert "energy per operation in fp32" in found
    assert "share of the peak by gemm in fp32" in found


def test_an_efficiency_that_stands_for_relatives_says_so_once():
    workload = load(stage(), stage(family="conv"))
    found = [n for n in names(workload, board(unit("a"))) if n.startswith("share of the peak")]
    assert found == ["share of the peak by gemm in fp32 (stands for conv in fp32, gemm in fp32)"]


def test_an_assumption_can_be_turned_like_any_other_number():
    bare = unit("a")
    bare["runtimes"] = [{"backend": "onnx", "provider": "P", "dispatch_overhead_s": quantity(0.0)}]
    profile = board(bare)
    workload = load(stage(weight=0, activations=1))
    found = {k.name: k for k in knobs(workload, profile, *runtime_of(profile))}
    assumed = found["share of the peak by gemm in fp32"]
    assert (assumed.stands, assumed.quantity.provenance, assumed.most) == (False, "assumed", 1.0)
    faster = cost(workload, assumed.scaled(profile, 2.0)).time_s
    assert cost(workload, profile).time_s == pytest.approx(2.0 * faster)
    bandwidth = found["share of the bandwidth achieved"]
    heavy = load(stage(flops=1, weight=1e8))
    assert not bandwidth.stands
    assert cost(heavy, profile).time_s == pytest.approx(1.5 * cost(heavy, bandwidth.scaled(profile, 1.5)).time_s)


def test_an_assumed_dispatch_can_be_turned_too():
    bare = unit("a")
    bare["runtimes"] = [{"backend": "onnx", "provider": "P"}]
    profile = board(bare)
    assumed = next(k for k in knobs(load(), profile, *runtime_of(profile)) if k.name == "dispatch")
    assert (assumed.stands, assumed.quantity.provenance) == (False, "assumed")
    slower = cost(load(), assumed.scaled(profile, 3.0)).time_s - cost(load(), profile).time_s
    assert slower == pytest.approx(2.0 * assumed.quantity.value)


def test_the_link_of_an_accelerator_with_its_own_memory_counts_as_published():
    bare = unit("a", sram_bytes=quantity(1e6))
    bare["runtimes"] = [{"backend": "onnx", "provider": "P"}]
    profile = board(bare)
    found = {k.name: k for k in knobs(load(), profile, *runtime_of(profile))}
    assert found["share of the bandwidth achieved"].quantity.value == 1.0


def test_an_unknown_energy_is_no_knob():
    assert not any(n.startswith("energy per operation") for n in names(load(), board(unit("a", energy_j_per_flop={}))))


def test_a_leaf_is_replaced_and_the_original_stays():
    profile = board(unit("a"))
    changed = with_value(profile, ("accelerators", 0, "peak_flops_per_s", "fp32", "value"), 7.0)
    assert changed.accelerators[0].peak_flops_per_s["fp32"].value == 7.0
    assert profile.accelerators[0].peak_flops_per_s["fp32"].value == 1e10


def test_the_joules_of_the_coefficients_add_up_to_the_answer():
    profile = board(unit("a", leakage=LEAKAGE))
    made = explain(load(stage(), stage(flops=1.0, weight=4e7)), profile, *runtime_of(profile))
    assert sum(c.energy_j for c in made.coefficients if c.energy_j is not None) == pytest.approx(made.energy_j)
    assert made.thermal_yield == pytest.approx(made.switching_j / made.energy_j)
    effect = {c.name: c for c in made.coefficients}
    assert effect["energy per operation in fp32"].latency_per_percent == 0.0
    assert effect["peak in fp32"].energy_j is None
    assert effect["peak in fp32"].latency_per_percent < 0 < effect["dispatch"].latency_per_percent


def test_the_parts_of_a_time_add_up_to_it_and_launches_are_a_part_of_their_own():
    launching = unit("a")
    launching["runtimes"][0]["node_overhead_s"] = quantity(1e-3)
    profile = board(launching)
    made = explain(load(stage(), stage(flops=1.0, weight=4e7)), profile, *runtime_of(profile))
    assert made.launches_s == pytest.approx(1e-3 * sum(s.nodes for s in (stage(), stage())))
    assert min(made.compute_bound_s, made.memory_bound_s, made.overhead_s) > 0
    parts = made.compute_bound_s + made.memory_bound_s + made.launches_s + made.overhead_s
    assert parts == pytest.approx(made.time_s)
    waiting = explain(load(*(stage(flops=1.0, weight=w) for w in (4e7, 3e7, 1.1e7))), profile, *runtime_of(profile))
    assert waiting.compute_bound_s == 0.0


def test_joules_that_nobody_knows_are_not_taken_apart():
    profile = board(unit("a", energy_j_per_flop={}))
    made = explain(load(), profile, *runtime_of(profile))
    assert made.energy_j is None
    assert made.thermal_yield is None
    assert all(c.energy_j is None and c.energy_per_percent is None for c in made.coefficients)


def test_one_assumption_does_not_become_the_relative_of_another():
    bare = unit("a")
    bare["runtimes"] = [{"backend": "onnx", "provider": "P"}]
    profile = board(bare)
    workload = load(stage(weight=0, activations=1), stage(family="conv", flops=3e8, weight=0, activations=1))
    made = {c.name: c for c in explain(workload, profile, *runtime_of(profile)).coefficients}
    apart = [made[f"share of the peak by {family} in fp32"].latency_per_percent for family in ("gemm", "conv")]
    assert apart[1] == pytest.approx(3.0 * apart[0])
    assert sum(apart) == pytest.approx(made["peak in fp32"].latency_per_percent)
