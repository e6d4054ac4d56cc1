"""A placement among others, at another clock, and warm; silence where a profile says too little."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.placement import clocks, costing
from agent.placement.candidates import candidates, violates
from agent.placement.surroundings import Surroundings, surroundings
from agent.schema.device import DeviceProfile, OperatingPoint
from agent.schema.workload import Stage, Work, Workload
from tests.placement.test_costing import board, unit
from tests.service.world import POLICY, quantity


def runtime(bandwidth: float) -> list[dict]:
    return [
        {
            "backend": "onnx", "provider": "P", "bandwidth_efficiency": quantity(bandwidth),
            "dispatch_overhead_s": quantity(0.0),
            "compute_efficiency": [{"family": "gemm", "precision": "fp32", "share": quantity(1.0)}],
        }
    ]  # fmt: skip


def work(flops: float, weight_bytes: float) -> Workload:
    stage = Stage(
        name="s", work=(Work(family="gemm", precision="fp32", flops=flops),), weight_bytes=weight_bytes,
        activation_bytes=0.0, arena_bytes=0.0, input_bytes=0.0, output_bytes=0.0, nodes=1,
    )  # fmt: skip
    return Workload(model="m", digest="", format="onnx", stages=(stage,), phase="forward")


def around(workload: Workload, profile: DeviceProfile, temperature_c: float = 45.0) -> Surroundings:
    accelerator = profile.accelerators[0]
    own = accelerator.runtimes[0]
    cost = costing.model_cost(workload, profile, accelerator, own, temperature_c)
    return surroundings(workload, profile, accelerator, own, cost, temperature_c)


def test_two_that_could_each_draw_it_all_share_a_memory_in_halves():
    found = around(
        work(1.0, 1e8), board(unit("gpu", runtimes=runtime(1.0)), unit("npu", runtimes=runtime(1.0)))
    ).beside  # fmt: skip

    assert found is not None
    assert (found.domain, found.others) == ("ram", ("npu",))
    assert found.bandwidth_alone_bytes_per_s == pytest.approx(1e9)
    assert found.bandwidth_bytes_per_s == pytest.approx(0.5e9)
    assert found.time_s == pytest.approx(0.2)


def test_a_neighbour_that_draws_little_leaves_the_rest():
    found = around(work(1.0, 1e8), board(unit("gpu", runtimes=runtime(1.0)), unit("npu", runtimes=runtime(0.2)))).beside

    assert found is not None
    assert found.time_s == pytest.approx(0.1 / 0.8)


def test_what_arithmetic_binds_does_not_wait_for_memory_until_it_binds():
    crowded = board(unit("gpu", runtimes=runtime(1.0)), unit("npu", runtimes=runtime(1.0)))

    light, heavy = around(work(1e9, 1e6), crowded).beside, around(work(1e9, 8e7), crowded).beside

    assert light is not None
    assert heavy is not None
    assert light.time_s == pytest.approx(0.1)
    assert heavy.time_s == pytest.approx(0.16)


def test_the_same_silicon_under_another_name_is_no_neighbour_and_counts_once_among_others():
    own = {"runtimes": runtime(1.0), "silicon": "die"}
    assert around(work(1.0, 1e8), board(unit("gpu", **own), unit("gpu-too", **own))).beside is None

    found = around(work(1.0, 1e8), board(unit("npu", runtimes=runtime(1.0)), unit("a", **own), unit("b", **own))).beside
    assert found is not None
    assert len(found.others) == 1
    assert found.time_s == pytest.approx(0.2)


def test_more_than_the_whole_bandwidth_measured_counts_as_the_whole():
    found = around(work(1.0, 1e8), board(unit("gpu", runtimes=runtime(1.4)), unit("npu", runtimes=runtime(1.4))))

    assert found.beside is not None
    assert found.beside.bandwidth_bytes_per_s == pytest.approx(0.5e9)
    assert found.ridge_flops_per_byte == pytest.approx(1e10 / 1e9)


def test_one_alone_at_its_memory_has_nobody_beside_it():
    apart = board(unit("gpu"), unit("npu", memory_domain="own"), domains=("ram", "own"))

    assert around(work(1.0, 1e8), apart).beside is None


def test_measured_kernel_times_add_what_waiting_for_memory_costs():
    alone = costing.StageCost(1.0, None, 1.0, 0.5, "memory", 0.0, 0.0, 0.4, overlaps=False)
    crowded = board(unit("gpu", runtimes=runtime(1.0)), unit("npu", runtimes=runtime(1.0)))
    cost = costing.ModelCost("gpu", (alone,), 1.0, None, 1.0, 0.5, 1.0, ())

    gpu = crowded.accelerators[0]
    found = surroundings(work(1.0, 1e8), crowded, gpu, gpu.runtimes[0], cost, 45.0)

    assert found.beside is not None
    assert found.beside.time_s == pytest.approx(1.4)
    assert found.energy_by_yield_j is None
    assert found.forms_apart is None


def test_intensity_and_ridge_are_operations_per_byte_of_the_model_and_of_the_accelerator():
    found = around(work(1e9, 1e8), board(unit("gpu", runtimes=runtime(0.5))))

    assert found.intensity_flops_per_byte == pytest.approx(10.0)
    assert found.ridge_flops_per_byte == pytest.approx(1e10 / 0.5e9)
    assert around(work(1e9, 0.0), board(unit("gpu"))).intensity_flops_per_byte is None
    assert around(work(0.0, 1e6), board(unit("gpu"))).ridge_flops_per_byte is None


def test_an_efficiency_that_nobody_measured_is_the_assumed_one():
    bare = [{"backend": "onnx", "provider": "P", "bandwidth_efficiency": quantity(1.0)}]

    found = around(work(1e9, 1e8), board(unit("gpu", runtimes=bare)))

    assert found.ridge_flops_per_byte == pytest.approx(costing.ASSUMED_SHARE * 1e10 / 1e9)


@given(st.floats(1e6, 1e12), st.floats(1e3, 1e9), st.floats(0.0, 100.0))
def test_both_forms_of_the_energy_equation_agree(flops, weight_bytes, base_w):
    found = around(work(flops, weight_bytes), board(unit("gpu", base_power_w=quantity(base_w))))

    assert found.forms_apart is not None
    assert found.forms_apart <= 1e-9


TWO_STAGES = Workload(
    model="m", digest="", format="onnx", phase="forward",
    stages=tuple(
        Stage(
            name=name, work=(Work(family="gemm", precision="fp32", flops=flops),), weight_bytes=4e6, nodes=1,
            activation_bytes=2e6, arena_bytes=arena, input_bytes=1e5, output_bytes=1e4, kv_bytes=3e5,
        )
        for name, flops, arena in (("a", 1e9, 1e5), ("b", 2e9, 1e7))
    ),
)  # fmt: skip
LEAKAGE = {"power_w": quantity(0.5), "activation_energy_ev": quantity(0.15)}


@pytest.mark.parametrize(
    "changes",
    [{}, {"cache_bytes": quantity(1e6)}, {"cache_bytes": quantity(1e9)}, {"sram_bytes": quantity(5e6)}],
)
def test_both_forms_count_the_same_bytes_through_caches_and_links(changes):
    found = around(TWO_STAGES, board(unit("gpu", leakage=LEAKAGE, **changes)), 70.0)

    assert found.forms_apart is not None
    assert found.forms_apart <= 1e-9
    assert found.leakage_known


@pytest.mark.parametrize(
    "changes",
    [
        {"energy_j_per_flop": {"fp32": quantity(3e-12)}}, {"base_power_w": quantity(1.5)}, {"leakage": None},
        {"leakage": {**LEAKAGE, "activation_energy_ev": quantity(0.3)}},
    ],
)  # fmt: skip
def test_a_coefficient_that_differs_on_one_of_the_two_paths_shows(changes):
    told, other = (board(unit("gpu", **{"leakage": LEAKAGE, **more})) for more in ({}, changes))
    own, accelerator = told.accelerators[0], other.accelerators[0]
    cost = costing.model_cost(TWO_STAGES, told, own, own.runtimes[0], 70.0)

    found = surroundings(TWO_STAGES, other, accelerator, accelerator.runtimes[0], cost, 70.0)

    assert found.forms_apart is not None
    assert found.forms_apart > 0.01
    assert found.leakage_known == (accelerator.leakage is not None)


def test_joules_of_switching_that_nothing_in_the_workload_accounts_for_show():
    profile = board(unit("gpu"))
    own = profile.accelerators[0]
    cost = costing.model_cost(TWO_STAGES, profile, own, own.runtimes[0], 45.0)

    found = surroundings(work(0.0, 0.0), profile, own, own.runtimes[0], cost, 45.0)

    assert found.forms_apart == 1.0


def test_the_thriftiest_clock_has_fewer_joules_than_those_on_both_sides_of_it():
    gpu = unit("gpu", runtimes=runtime(1.0), base_power_w=quantity(0.05), voltage_floor_clock_share=0.4)
    profile, load = board(gpu), work(1e9, 1.0)
    found = around(load, profile).thriftiest

    def energy_j(share: float) -> float:
        accelerator = profile.accelerators[0]
        point = OperatingPoint(name="p", clock_share=share)
        cost = costing.model_cost(load, profile, accelerator, accelerator.runtimes[0], 45.0, point)
        assert cost.energy_j is not None
        return cost.energy_j

    assert found is not None
    assert 0.4 < found.clock_share < 1.0
    assert found.energy_j == pytest.approx(energy_j(found.clock_share))
    assert found.energy_j < min(energy_j(found.clock_share * 0.97), energy_j(found.clock_share * 1.03))
    assert found.time_s == pytest.approx(0.1 / found.clock_share)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"voltage_floor_clock_share": 0.4, "energy_j_per_flop": {}},
        {"voltage_floor_clock_share": 0.4, "energy_j_per_flop": {"fp32": quantity(0.0)}},
    ],
)
def test_no_clock_is_recommended_where_the_profile_says_too_little(changes):
    assert around(work(1e9, 1.0), board(unit("gpu", runtimes=runtime(1.0), **changes))).thriftiest is None


def test_no_clock_is_recommended_to_work_that_memory_binds_or_that_does_not_compute():
    profile = board(unit("gpu", runtimes=runtime(1.0), voltage_floor_clock_share=0.4))

    assert around(work(1.0, 1e8), profile).thriftiest is None
    assert around(work(0.0, 1e8), profile).thriftiest is None


def test_below_the_floor_a_slower_clock_saves_nothing_so_the_floor_is_the_least():
    accelerator = board(unit("gpu", voltage_floor_clock_share=0.5)).accelerators[0]

    assert clocks.thriftiest_share(accelerator, 1e12, 1e-12, 0.0) == pytest.approx(0.5)
    assert clocks.thriftiest_share(accelerator, 1e9, 1e-12, 100.0) == 1.0


@pytest.mark.parametrize(("backing", "told"), [(1e9, "; swap would add 0.5 s to every pass"), (None, "")])
def test_what_does_not_fit_says_what_swap_would_add(backing, told):
    document = board(unit("gpu", runtimes=runtime(1.0))).model_dump(mode="json")
    document["memory_domains"][0]["backing_bytes_per_s"] = None if backing is None else quantity(backing)
    profile = DeviceProfile.model_validate(document)
    found, _ = candidates(work(1.0, 1.5e9), profile, POLICY)

    why = violates(found[0], POLICY, profile)

    assert why is not None
    assert why.startswith("needs 150% of ram")
    assert why.endswith(f"%){told}")
    assert math.isfinite(found[0].cost.time_s)
