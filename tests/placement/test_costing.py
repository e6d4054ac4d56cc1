"""From schema to joules and seconds: closed-form cases and what is said where a coefficient is missing."""

from __future__ import annotations

import pytest

from agent.errors import PlacementError
from agent.placement import costing
from agent.placement.candidates import candidates, whole_models
from agent.placement.ranking import Option, rank
from agent.placement.tables import make_tables
from agent.schema.device import Accelerator, DeviceProfile, Link, OperatingPoint
from agent.schema.policy import Objective, Rule, Weights
from agent.schema.workload import Stage, Work, Workload
from tests.service.world import POLICY, quantity


def unit(name: str, **changes) -> dict:
    base = {
        "name": name, "kind": "gpu", "memory_domain": "ram",
        "runtimes": [
            {
                "backend": "onnx", "provider": "P", "bandwidth_efficiency": quantity(0.5),
                "dispatch_overhead_s": quantity(1e-3),
                "compute_efficiency": [{"family": "gemm", "precision": "fp32", "share": quantity(0.5)}],
            }
        ],
        "peak_flops_per_s": {"fp32": quantity(1e10)}, "energy_j_per_flop": {"fp32": quantity(1e-11)},
        "base_power_w": quantity(2.0),
    }  # fmt: skip
    return {**base, **changes}


def board(*units: dict, links=(), domains=("ram",)) -> DeviceProfile:
    made = [
        {"name": d, "capacity_bytes": quantity(2e9), "reserved_bytes": quantity(1e9),
         "bandwidth_bytes_per_s": quantity(1e9), "energy_j_per_byte": quantity(1e-10)}
        for d in domains
    ]  # fmt: skip
    return DeviceProfile.model_validate(
        {"version": 1, "name": "b", "title": "b", "memory_domains": made, "accelerators": units, "links": links}
    )


def stage(name="s", flops=1e8, weight=1e6, activations=1e6, family="gemm", precision="fp32", **changes) -> Stage:
    work = (Work(family=family, precision=precision, flops=flops),)
    return Stage(name=name, work=work, weight_bytes=weight, activation_bytes=activations, input_bytes=100,
                 output_bytes=1000, nodes=3, **changes)  # fmt: skip


def load(*stages: Stage, **changes) -> Workload:
    return Workload(**{"model": "m", "format": "onnx", "stages": stages or (stage(),), **changes})


def cost(workload: Workload, profile: DeviceProfile, name="a", **options) -> costing.ModelCost:
    accelerator = profile.accelerator(name)
    runtime = costing.choose_runtime(accelerator, workload.format)
    assert not isinstance(runtime, str)
    return costing.model_cost(workload, profile, accelerator, runtime, **options)


def test_a_compute_bound_stage_takes_flops_over_achieved_peak_plus_the_dispatch():
    result = cost(load(stage(flops=1e8, weight=0, activations=1)), board(unit("a")))
    assert result.time_s == pytest.approx(1e8 / 5e9 + 1e-3)
    assert result.stages[0].binding == "compute"
    assert result.underutilisation == pytest.approx(0.0)


def test_a_memory_bound_stage_takes_bytes_over_achieved_bandwidth():
    result = cost(load(stage(flops=1e3, weight=5e7, activations=0)), board(unit("a")))
    assert result.time_s == pytest.approx(5e7 / 5e8 + 1e-3)
    assert result.stages[0].binding == "memory"
    assert result.stages[0].dasi == pytest.approx((1e3 / 5e9) / (5e7 / 5e8))


def test_joules_are_switching_plus_static_over_the_time():
    result = cost(load(stage(flops=1e8, weight=1e6, activations=0)), board(unit("a")))
    assert result.switching_j == pytest.approx(1e8 * 1e-11 + 1e6 * 1e-10)
    assert result.energy_j == pytest.approx(result.switching_j + 2.0 * result.time_s)


def test_a_hotter_accelerator_leaks_more():
    leakage = {"power_w": quantity(1.0), "activation_energy_ev": quantity(0.1)}
    profile = board(unit("a", leakage=leakage))
    cool, hot = (cost(load(), profile, temperature_c=t).energy_j for t in (25.0, 85.0))
    assert cool == pytest.approx(cost(load(), board(unit("a", base_power_w=quantity(3.0)))).energy_j)
    assert hot > cool


def test_a_power_cap_stretches_the_time_and_keeps_the_mean_below_it():
    free = cost(load(), board(unit("a")))
    capped = cost(load(), board(unit("a", power_cap_w=quantity(2.02))))
    assert capped.time_s > free.time_s
    assert capped.stages[0].stretched_s > 0
    assert capped.stages[0].energy_j / capped.stages[0].time_s <= 2.02 * (1 + 1e-9)


@pytest.mark.parametrize("cap_w", [0.5, 2.0])
def test_a_power_cap_that_being_on_alone_reaches_rules_the_accelerator_out_with_both_figures(cap_w):
    profile = board(unit("a", power_cap_w=quantity(cap_w)), unit("b"))
    why = (
        f"its power cap of {cap_w:g} W is not above the 2 W that it draws for being on at 45 °C: no clock is low enough"
    )
    found, rejected = whole_models(load(), profile, POLICY)
    assert [c.accelerator.name for c in found] == ["b"]
    assert rejected == [("a", why)]
    assert make_tables(load(), profile, POLICY).excluded == (("a", why),)
    with pytest.raises(PlacementError, match=f"a: its power cap of {cap_w:g} W is not above the 2 W"):
        make_tables(load(), board(unit("a", power_cap_w=quantity(cap_w))), POLICY)


def test_a_part_that_leaks_up_to_its_cap_when_hot_is_ruled_out_only_then():
    leakage = {"power_w": quantity(1.0), "activation_energy_ev": quantity(0.3)}
    profile = board(unit("a", leakage=leakage, power_cap_w=quantity(4.0)))
    assert cost(load(), profile, temperature_c=25.0).over_cap is None
    assert "at 95 °C" in (cost(load(), profile, temperature_c=95.0).over_cap or "")


def test_an_operating_points_cap_below_what_being_on_takes_rules_that_point_out():
    low = OperatingPoint.model_validate({"name": "low", "power_cap_w": quantity(1.0)})
    profile = board(unit("a"))
    assert cost(load(), profile, point=low).over_cap is not None
    assert candidates(load(), profile, POLICY, points={"a": low})[0] == []


def test_a_policys_power_cap_names_what_being_on_takes():
    policy = POLICY.model_copy(update={"power_cap_w": 1.5})
    _, rejected = whole_models(load(), board(unit("a")), policy)
    assert "2 W of it for being on (power_cap_w allows 1.5 W)" in dict(rejected)["a"]


def test_work_that_fits_the_cache_moves_nothing_through_memory():
    small = load(stage(flops=1e6, weight=1e6, activations=1e6))
    assert cost(small, board(unit("a", cache_bytes=quantity(1e7)))).stages[0].binding == "compute"
    assert cost(small, board(unit("a", cache_bytes=quantity(1e5)))).stages[0].binding == "memory"


def test_a_nearly_full_memory_slows_the_bytes_down():
    full = load(stage(flops=1, weight=9.5e8, activations=0))
    assert cost(full, board(unit("a", cpq_kappa=1.0))).time_s > cost(full, board(unit("a", cpq_kappa=0.0))).time_s
    assert costing.occupancy(5e8, board(unit("a")).memory_domain("ram")) == pytest.approx(0.5)


def test_what_the_profile_lacks_is_assumed_aloud():
    bare = unit("a", runtimes=[{"backend": "onnx", "provider": "P"}])
    result = cost(load(stage(precision="int8", family="conv")), board(bare))
    text = " ".join(result.notes)
    for words in (
        "no int8 peak",
        "efficiency of conv in fp32 unknown",
        "bandwidth unknown",
        "dispatch overhead unknown",
    ):
        assert words in text


def test_an_accelerator_with_another_precision_only_says_so():
    half = unit("a", peak_flops_per_s={"int8": quantity(1e10)}, energy_j_per_flop={"int8": quantity(1e-12)})
    assert "no fp32 peak in the profile, int8 used" in " ".join(cost(load(), board(half)).notes)


@pytest.mark.parametrize(
    ("known", "priced"), [(("int8", "fp32"), "int8"), (("fp32",), "fp32"), (("int4", "int8"), "int4")]
)
def test_an_energy_per_operation_that_is_unknown_is_that_of_the_next_wider_precision_and_said(known, priced):
    peaks = {p: quantity(1e10) for p in ("int4", "fp32")}
    energies = {p: quantity(1e-11 * (i + 1)) for i, p in enumerate(known)}
    narrow = board(unit("a", peak_flops_per_s=peaks, energy_j_per_flop=energies))
    [found] = candidates(load(stage(precision="int4")), narrow, POLICY)[0]
    same = board(unit("a", peak_flops_per_s=peaks, energy_j_per_flop={"int4": energies[priced]}))
    [expected] = candidates(load(stage(precision="int4")), same, POLICY)[0]
    assert found.cost.switching_j == expected.cost.switching_j
    told = f"a: energy per operation in int4 unknown, that in {priced} used"
    assert (told in found.cost.notes) == (priced != "int4")


def test_unknown_energy_stays_unknown():
    result = cost(load(), board(unit("a", energy_j_per_flop={})))
    assert (result.switching_j, result.energy_j, result.stages[0].energy_j) == (None, None, None)
    assert result.time_s > 0


def test_an_operating_point_scales_compute_and_memory():
    from agent.schema.device import OperatingPoint

    slow = OperatingPoint(name="slow", clock_share=0.5, memory_clock_share=0.25)
    compute, memory = load(stage(weight=0, activations=1)), load(stage(flops=1, weight=1e7, activations=0))
    for workload, factor in ((compute, 2.0), (memory, 4.0)):
        full = cost(workload, board(unit("a"))).stages[0].time_s
        assert cost(workload, board(unit("a")), point=slow).stages[0].time_s == pytest.approx(full * factor)


def test_a_stage_of_nothing_costs_nothing():
    empty = stage(flops=0, weight=0, activations=0)
    assert cost(load(empty, stage()), board(unit("a"))).stages[0].time_s == 0.0


@pytest.mark.parametrize(
    ("format_", "operators", "words"),
    [("tflite", (), "no runtime for tflite models (has onnx)"), ("onnx", ("Foo", "Bar"), "P does not support Foo")],
)
def test_a_model_nobody_can_run_has_a_reason(format_, operators, words):
    runtimes = [{"backend": "onnx", "provider": "P", "unsupported_operators": ["Foo"]}]
    accelerator = Accelerator.model_validate(unit("a", runtimes=runtimes))
    assert costing.choose_runtime(accelerator, format_, operators) == words


# ------------------------------------------------------------------------------------------- tables


def test_tables_agree_with_the_whole_model_cost_on_one_accelerator():
    workload = load(stage("one"), stage("two", flops=5e8))
    profile = board(unit("a"), unit("b", base_power_w=quantity(4.0)))
    tables = make_tables(workload, profile, POLICY)
    for index, name in enumerate(("a", "b")):
        whole = cost(workload, profile, name)
        energy, latency, _ = tables.problem.objectives([index, index])[0]
        assert (energy, latency) == (pytest.approx(whole.energy_j), pytest.approx(whole.time_s))


def test_moving_between_memories_pays_the_link_and_between_units_of_one_memory_only_a_hand_over():
    link = Link.model_validate(
        {"between": ["ram", "vram"], "bandwidth_bytes_per_s": quantity(1e6), "overhead_s": quantity(0.01),
         "energy_j_per_byte": quantity(1e-9)}
    )  # fmt: skip
    profile = board(unit("a"), unit("b"), unit("c", memory_domain="vram"), links=(link,), domains=("ram", "vram"))
    transfer = make_tables(load(stage("one"), stage("two")), profile, POLICY).problem.transfer_latency[0]
    assert transfer[0, 0] == 0.0
    assert transfer[0, 1] == pytest.approx(20e-6 + 1e-3)
    assert transfer[0, 2] == pytest.approx(1000 / 1e6 + 0.01 + 1e-3)
    assert transfer[2, 0] == pytest.approx(transfer[0, 2])


def test_an_unknown_link_is_assumed_aloud():
    profile = board(unit("a"), unit("c", memory_domain="vram"), domains=("ram", "vram"))
    assert any("link" in note for note in make_tables(load(stage("one"), stage("two")), profile, POLICY).notes)


def test_accelerators_that_cannot_take_part_are_left_out_with_their_reason():
    policy = POLICY.model_copy(update={"forbidden": (Rule(model="*", accelerator="b"),)})
    units = (unit("a"), unit("b"), unit("c", runtimes=[]), unit("d", energy_j_per_flop={}))
    tables = make_tables(load(), board(*units), policy)
    assert tables.problem.accelerators == ("a",)
    assert [name for name, _ in tables.excluded] == ["b", "c", "d"]


def test_a_pin_leaves_only_that_accelerator_and_nothing_left_is_an_error():
    pinned = POLICY.model_copy(update={"pinned": (Rule(model="m", accelerator="b"),)})
    assert make_tables(load(), board(unit("a"), unit("b")), pinned).problem.accelerators == ("b",)
    with pytest.raises(PlacementError, match="pins the model to b"):
        make_tables(load(), board(unit("a")), pinned)


# ------------------------------------------------------------------------------------------- ranking


def test_where_nobody_measured_a_dispatch_a_tiny_model_still_takes_one_and_says_that_it_is_assumed():
    bare = unit("a")
    bare["runtimes"] = [{"backend": "onnx", "provider": "P"}]
    tiny = load(stage(flops=384, weight=768, activations=100))
    whole = cost(tiny, board(bare))
    assert whole.time_s >= costing.ASSUMED_DISPATCH.value
    assert whole.notes[-1] == "a: dispatch overhead unknown, 12 µs (±100 %) assumed"
    assert costing.ASSUMED_DISPATCH.value * 1e6 == 12
    assert costing.ASSUMED_DISPATCH.rel_uncertainty == 1.0
    tables = make_tables(tiny, board(bare), POLICY)
    assert tables.problem.latency[0, 0] == pytest.approx(whole.time_s)
    assert any("dispatch overhead unknown" in note for note in tables.notes)


def test_a_measured_dispatch_is_not_replaced_by_an_assumed_one():
    known = cost(load(), board(unit("a")))
    assert known.time_s - sum(s.time_s for s in known.stages) == pytest.approx(1e-3)
    assert not any("dispatch" in note for note in known.notes)


FAST, FRUGAL = Option("fast", 4.0, 1.0, 0.5), Option("frugal", 1.0, 3.0, 0.1)


@pytest.mark.parametrize(
    ("objective", "first"),
    [
        (Objective(method="weights", weights=Weights(energy=1, latency=0, underutilisation=0)), "frugal"),
        (Objective(method="weights", weights=Weights(energy=0, latency=1, underutilisation=0)), "fast"),
        (Objective(method="weights", weights=Weights(energy=0, latency=0, underutilisation=1)), "frugal"),
        (Objective(method="lexicographic", order=("latency",)), "fast"),
        (Objective(method="lexicographic", order=("energy", "latency")), "frugal"),
        (Objective(method="knee"), "frugal"),
    ],
)
def test_the_objective_decides_which_placement_comes_first(objective, first):
    assert rank([FAST, FRUGAL], objective)[0].name == first
    assert {o.name for o in rank([FAST, FRUGAL], objective)} == {"fast", "frugal"}


def test_within_the_tolerance_the_next_objective_decides():
    close = [Option("a", 1.0, 2.0, 0), Option("b", 1.01, 1.0, 0)]
    assert rank(close, Objective(method="lexicographic", order=("energy", "latency"), tolerance=0.02))[0].name == "b"
    assert rank(close, Objective(method="lexicographic", order=("energy", "latency"), tolerance=0.0))[0].name == "a"


def test_energy_counts_only_where_it_is_known_for_all():
    mixed = [Option("unknown", None, 2.0, 0.0), Option("known", 100.0, 1.0, 0.0)]
    assert (
        rank(mixed, Objective(method="weights", weights=Weights(energy=9, latency=1, underutilisation=0)))[0].name
        == "known"
    )


def test_zero_values_rank_without_dividing_by_them():
    assert rank([Option("x", 0.0, 0.0, 0.0), Option("y", 1.0, 1.0, 0.0)], Objective(method="knee"))[0].name == "x"
    assert rank([], Objective(method="knee")) == ()


def linked(**changes) -> DeviceProfile:
    return board(unit("a", peak_flops_per_s={"int8": quantity(1e10)}, energy_j_per_flop={"int8": quantity(1e-12)},
                      runtimes=[{"backend": "native", "provider": "Vendor", "bandwidth_efficiency": quantity(1.0),
                                 "dispatch_overhead_s": quantity(0.0)}],
                      **changes))  # fmt: skip


def test_weights_beyond_the_chips_own_memory_cross_the_link_and_activations_do_not():
    work = load(stage(flops=1.0, weight=3e6, activations=5e9, precision="int8"), format="catalogue")
    spilling = cost(work, linked(sram_bytes=quantity(1e6)))
    assert spilling.stages[0].binding == "link"
    assert spilling.time_s == pytest.approx((3e6 - 1e6) / 1e9 + (100 + 1000) / 1e9)
    assert spilling.stages[0].switching_j == pytest.approx((2e6 + 1100) * 1e-10, rel=1e-6)


def test_a_model_that_fits_on_the_chip_only_pays_for_its_input_and_output():
    work = load(stage(flops=1.0, weight=1e6, activations=5e9, precision="int8"), format="catalogue")
    fitting = cost(work, linked(sram_bytes=quantity(1e6)))
    assert fitting.time_s == pytest.approx(1100 / 1e9, rel=1e-3)


def test_a_vendors_own_runtime_is_planned_with_but_never_serves_a_file():
    accelerator = linked().accelerator("a")
    assert not isinstance(costing.choose_runtime(accelerator, "catalogue"), str)
    assert costing.choose_runtime(accelerator, "onnx") == "no runtime for onnx models (has native)"


@pytest.mark.parametrize(("precision", "fits"), [("int8", True), ("int4", True), ("fp32", False), ("fp16", False)])
def test_a_float_model_needs_converting_for_a_chip_of_integers(precision, fits):
    reason = costing.cannot_compute(load(stage(precision=precision)), linked().accelerator("a"))
    assert (reason is None) == fits
    assert fits or "needs converting first" in reason


def test_what_a_chain_leaves_out_of_branches_is_said():
    profile = board(unit("a"))
    wide = stage("heads", output_tensors=3)
    assert not any("several tensors" in n for n in make_tables(load(stage("a"), stage("b")), profile, POLICY).notes)
    notes = " ".join(make_tables(load(stage("a"), wide, stage("end")), profile, POLICY).notes)
    assert "1 boundaries are crossed by several tensors, from heads on" in notes
    heavy = stage("neck", flops=9e9).model_copy(update={"nodes": 60})
    assert any("branches of neck are one stage, with 99% of the work" in n
               for n in make_tables(load(stage("a"), heavy), profile, POLICY).notes)  # fmt: skip
    assert not any("are one stage" in n for n in make_tables(load(heavy), profile, POLICY).notes)
