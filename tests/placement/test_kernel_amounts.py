"""Amounts of kernels, and the seconds that measured times give for them."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from agent.placement.kernel_amounts import Caches, amounts, caches_of, seconds
from agent.schema.device import KernelTerm, KernelTimes
from agent.schema.workload import Kernels
from tests.placement.test_costing import board, cost, load, stage, unit


def kernels(routine="gemm", **changes) -> Kernels:
    fields = {"routine": routine, "precision": "fp32", "count": 2, "flops": 100.0, "weight_bytes": 40.0,
              "moved_bytes": 10.0, **changes}  # fmt: skip
    return Kernels(**fields)


def times(*terms: tuple, cache=1e9) -> KernelTimes:
    made = tuple(KernelTerm(amount=a, routine=r, precision=p, seconds=s) for a, r, p, s in terms)
    return KernelTimes(terms=made, cache_bytes=cache, rel_uncertainty=0.1, source="test")


GEMM = (
    ("heavy_kernel", None, None, 1.0), ("operation", "gemm", "fp32", 0.1), ("weight_byte", None, "fp32", 0.01),
    ("cold_weight_byte", None, "fp32", 0.02), ("moved_byte", None, None, 0.001), ("kernel", None, None, 0.5),
)  # fmt: skip


def test_products_count_launches_operations_weights_and_activations():
    found = amounts([kernels()], 80.0, Caches(1e9), (5.0, 2))
    assert found == {
        ("io_byte", None, None): 5.0, ("io_tensor", None, None): 2, ("heavy_kernel", None, None): 2,
        ("operation", "gemm", "fp32"): 200.0, ("weight_byte", None, "fp32"): 80.0, ("moved_byte", None, None): 20.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("cache", "cold"), [(100.0, 0.0), (80.0, 0.0), (64.0, 0.25), (40.0, 1.0), (20.0, 1.0), (0.0, 1.0)]
)
def test_weights_are_cold_where_the_cache_is_smaller_than_what_goes_through_it(cache, cold):
    found = amounts([kernels()], 80.0, Caches(cache), (0.0, 0))
    assert found.get(("cold_weight_byte", None, "fp32"), 0.0) == pytest.approx(80.0 * cold)
    assert found.get(("weight_byte", None, "fp32"), 0.0) == pytest.approx(80.0 * (1 - cold))


def test_a_cache_of_keys_is_cold_with_the_weights():
    found = amounts([kernels("fused_attention")], 80.0, Caches(64.0), (0.0, 0))
    assert found["moved_byte", "fused_attention", None] == pytest.approx(15.0)
    assert found["cold_moved_byte", "fused_attention", None] == pytest.approx(5.0)


def test_light_kernels_count_operations_or_bytes_and_views_only_calls():
    found = amounts(
        [kernels("softmax"), kernels("movement"), kernels("view"), kernels("fused_attention", fused_arithmetic=3.0)],
        0.0, Caches(1e9), (0.0, 0),
    )  # fmt: skip
    assert found["operation", "softmax", None] == 200.0
    assert found["moved_byte", "movement", None] == 100.0
    assert found["view", None, None] == 2
    assert found["heavy_kernel", "fused_attention", None] == 2
    assert found["fused_arithmetic", None, None] == 6.0


@pytest.mark.parametrize(("columns", "tile", "filled"), [(24, 32, 32 / 24), (64, 32, 1.0), (0, 32, 1.0), (24, 1, 1.0)])
def test_a_product_takes_as_long_as_whole_tiles_of_columns(columns, tile, filled):
    found = amounts([kernels("conv", columns=columns)], 0.0, Caches(1e9, tile_columns=tile), (0.0, 0))
    assert found["operation", "conv", "fp32"] == pytest.approx(200.0 * filled)


@pytest.mark.parametrize(
    ("work", "filled"),
    [
        (kernels("conv", inner=24), 32 / 24), (kernels("pointwise", inner=16), 1.0), (kernels("conv", inner=3), 1.0),
        (kernels("depthwise", inner=24), 1.0), (kernels(inner=24), 1.0),
        (kernels(precision="int4", inner=416), 512 / 416),
    ],
)  # fmt: skip
def test_input_channels_and_sums_of_packed_weights_come_in_whole_tiles_too(work, filled):
    found = amounts([work], 0.0, Caches(1e9, tile_channels=16, tile_inner=128), (0.0, 0))
    assert found["operation", work.routine, work.precision] == pytest.approx(200.0 * filled)


@pytest.mark.parametrize(
    ("precision", "flops", "kind"), [("fp32", 300.0, "gemm"), ("fp32", 100.0, None), ("int4", 300.0, None)]
)
def test_products_of_few_rows_wait_for_their_weights(precision, flops, kind):
    found = amounts([kernels(precision=precision, flops=flops)], 80.0, Caches(1e9), (0.0, 0))
    assert found["weight_byte", kind, precision] == 80.0


def test_products_of_packed_weights_quantise_what_they_read():
    found = amounts([kernels(precision="int4"), kernels()], 80.0, Caches(1e9), (0.0, 0))
    assert found["moved_byte", None, "int4"] == found["moved_byte", None, None] == 20.0


def test_the_times_say_which_sizes_they_were_fitted_with():
    sizes = {
        "cache_bytes": 7.0,
        "near_bytes": 3.0,
        "core_bytes": 5.0,
        "tile_columns": 16,
        "tile_channels": 8,
        "tile_inner": 64,
    }
    fitted = times(*GEMM).model_copy(update=sizes)
    assert asdict(caches_of(fitted)) == sizes


@pytest.mark.parametrize(("near", "far"), [(0.0, 0.0), (50.0, 0.0), (40.0, 0.25), (20.0, 1.0)])
def test_activations_of_kernels_that_go_through_much_are_far(near, far):
    found = amounts([kernels()], 0.0, Caches(1e9, near), (0.0, 0))
    assert found.get(("far_byte", None, None), 0.0) == pytest.approx(20.0 * far)


def test_activations_of_light_kernels_wait_where_a_product_computes_meanwhile():
    found = amounts([kernels("movement", weight_bytes=0.0), kernels()], 0.0, Caches(1e9, 5.0, 8.0), (0.0, 0))
    assert found["far_byte", "arithmetic", None] == found["far_byte", None, None] == 20.0
    assert found["shared_byte", "arithmetic", None] == pytest.approx(5.0)
    assert found["shared_byte", None, None] == 20.0


def test_weights_beyond_a_cores_own_cache_come_from_the_shared_one_as_far_as_that_holds_them():
    found = amounts([kernels()], 96.0, Caches(64.0, core_bytes=8.0), (0.0, 0))
    assert found["shared_weight_byte", None, "fp32"] == found["weight_byte", None, "fp32"] == 40.0
    assert found["cold_weight_byte", None, "fp32"] == 40.0


def test_operators_behind_a_product_that_run_by_themselves_pass_through_the_caches():
    work = kernels("conv", fused_scaling=30.0, fused_nodes=2.0, fused_error_functions=5.0)
    found = amounts([work], 0.0, Caches(1e9, 80.0, 160.0), (0.0, 0))
    assert found["fused_scaling", None, None] == 60.0
    assert found["far_scaling", None, None] == pytest.approx(30.0)
    assert ("shared_scaling", None, None) not in found
    assert found["fused_error_function", None, None] == 10.0


def test_what_is_taken_along_is_told_apart_by_what_can_take_it():
    taken = {"fused_arithmetic": 1.0, "fused_scaling": 2.0, "fused_functions": 3.0, "fused_nodes": 4.0}
    found = amounts([kernels("pointwise", **taken), kernels("gemm", **taken)], 0.0, Caches(1e9), (0.0, 0))
    assert found["fused_arithmetic", "conv", None] == found["fused_arithmetic", None, None] == 2.0
    assert found["fused_scaling", None, None] == 8.0
    assert found["fused_function", None, None] == 12.0
    assert found["fused_node", None, None] == 16.0


def test_kernels_of_a_graph_with_open_sizes_count_their_activations_and_operators_once_more():
    work = {"fused_scaling": 3.0, "fused_nodes": 2.0}
    fixed, open_sizes = (amounts([kernels(open_sizes=o, **work)], 80.0, Caches(1e9), (0, 0)) for o in (False, True))
    more = {key: value for key, value in open_sizes.items() if key not in fixed}
    assert more == {("open_byte", None, None): 2 * (10.0 + 8.0 * 3.0), ("open_kernel", None, None): 2 * 3.0}
    assert {key: open_sizes[key] for key in fixed} == fixed


def test_open_sizes_cost_nothing_on_a_runtime_that_was_calibrated_without_them_and_that_is_said():
    found = seconds(times(*GEMM), amounts([kernels(open_sizes=True)], 80.0, Caches(1e9), (0, 0)))
    assert found.substitutes == ("open byte as nothing", "open kernel as nothing")


def test_seconds_are_the_sum_of_the_measured_terms():
    parts = seconds(times(*GEMM), amounts([kernels()], 80.0, Caches(1e9), (0.0, 0)))
    assert (parts.arithmetic_s, parts.memory_s, parts.launches_s) == pytest.approx((20.0, 0.82, 2.0))
    assert parts.binding == "compute"
    assert parts.substitutes == ()


@pytest.mark.parametrize(
    ("work", "said"),
    [
        (kernels("view"), "view as kernel"),
        (kernels("pooling"), "pooling moved byte as moved byte"),
        (kernels("attention"), "attention fp32 operation as gemm fp32 operation"),
        (kernels(precision="int8"), None),
        (kernels("softmax"), None),
        (kernels("conv"), None),
        (kernels(fused_functions=1.0), "fused function as nothing"),
        (kernels(fused_scaling=1.0), "fused scaling as nothing"),
    ],
)
def test_unmeasured_work_is_taken_from_a_relative_aloud_or_not_at_all(work, said):
    parts = seconds(times(*GEMM), amounts([work], 0.0, Caches(1e9), (0.0, 0)))
    if said is None:
        assert isinstance(parts, str)
    else:
        assert said in parts.substitutes


def test_normalisations_stand_for_each_other():
    known = times(*GEMM, ("operation", "normalisation", None, 1.0))
    assert seconds(known, amounts([kernels("softmax")], 0.0, Caches(1e9), (0.0, 0))).arithmetic_s == 200.0


def test_weights_of_an_unmeasured_precision_take_as_long_as_others():
    known = times(*GEMM, ("operation", "gemm", "int8", 0.0))
    parts = seconds(known, amounts([kernels(precision="int8")], 0.0, Caches(1e9), (0.0, 0)))
    assert "int8 weight byte as fp32 weight byte" in parts.substitutes


def test_a_cold_cache_of_keys_takes_as_long_as_a_warm_one_where_only_that_was_measured():
    known = times(*GEMM, ("operation", "fused_attention", "fp32", 0.0), cache=10.0)
    parts = seconds(known, amounts([kernels("fused_attention")], 80.0, Caches(10.0), (0.0, 0)))
    assert "fused_attention cold moved byte as moved byte" in parts.substitutes


def measured_board(*terms: tuple):
    profile = board(unit("a"))
    accelerator = profile.accelerators[0]
    runtime = accelerator.runtimes[0].model_copy(update={"kernel_times": times(*terms)})
    return profile.model_copy(update={"accelerators": (accelerator.model_copy(update={"runtimes": (runtime,)}),)})


def test_measured_kernel_times_decide_what_a_stage_takes():
    plain = cost(load(stage(kernels=(kernels(),))), measured_board(*GEMM))
    assert plain.stages[0].time_s == pytest.approx(22.82)
    assert plain.stages[0].binding == "compute"
    assert 0 < plain.stages[0].dasi <= 1


def test_a_stage_with_an_unmeasured_kernel_falls_back_and_says_so():
    profile = measured_board(*GEMM)
    fallen = cost(load(stage(kernels=(kernels("conv"),))), profile)
    assert fallen.time_s == pytest.approx(cost(load(stage()), profile).time_s)
    assert any("conv fp32 operation never measured" in note for note in fallen.notes)


def test_costing_names_what_stood_in():
    work = load(stage(kernels=(kernels(fused_arithmetic=1.0),)))
    assert any("fused arithmetic as nothing" in note for note in cost(work, measured_board(*GEMM)).notes)
