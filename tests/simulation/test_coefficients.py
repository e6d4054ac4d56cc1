"""A profile's numbers move one by one or by an assumption, and nothing else moves with them."""

from __future__ import annotations

import pytest

from agent.schema.device import DeviceProfile
from agent.simulation.coefficients import coefficients, pulled, shifted
from tests.simulation.board import board, data, quantity


def by_name(profile: DeviceProfile, accelerators: set[str]) -> dict[str, float | None]:
    return {c.name: c.rel_uncertainty for c in coefficients(profile, accelerators)}


def test_only_what_the_accelerators_rest_on_counts() -> None:
    gpu = by_name(board(), {"gpu"})

    assert gpu["gpu energy_j_per_flop"] == 0.5
    assert gpu["gpu peak_flops_per_s"] is None
    assert gpu["vram energy_j_per_byte"] == 0.2
    assert not any(name.startswith(("dram", "cpu", "npu")) for name in gpu)
    assert "dram–vram energy_j_per_byte" in by_name(board(), {"gpu", "npu"})


def test_sizes_are_no_coefficients() -> None:
    assert not any("capacity" in name or "reserved" in name for name in by_name(board(), {"gpu", "cpu"}))


def test_precisions_of_one_table_are_wrong_together_by_the_largest() -> None:
    content = data()
    content["accelerators"][0]["energy_j_per_flop"]["fp32"] = quantity(4e-12, 0.7)
    content["accelerators"][0]["peak_flops_per_s"]["fp32"] = quantity(2e13)
    profile = DeviceProfile.model_validate(content)

    (energy,) = (c for c in coefficients(profile, {"gpu"}) if c.key == "energy_j_per_flop")
    moved = shifted(profile, energy, 1.5)

    assert energy.rel_uncertainty == 0.7
    assert [q.value for q in moved.accelerator("gpu").energy_j_per_flop.values()] == pytest.approx([3e-12, 6e-12])


def test_a_shift_moves_one_coefficient_and_leaves_the_rest() -> None:
    profile = board()
    (base,) = (c for c in coefficients(profile, {"gpu"}) if c.key == "base_power_w")

    moved = shifted(profile, base, 2.0)

    assert moved.accelerator("gpu").base_power_w.value == 40.0
    assert moved.accelerator("cpu") == profile.accelerator("cpu")
    assert moved.memory_domains == profile.memory_domains


def test_a_share_never_passes_one() -> None:
    content = data()
    content["accelerators"][0]["runtimes"][0]["bandwidth_efficiency"] = quantity(0.8, 0.5)
    profile = DeviceProfile.model_validate(content)
    (share,) = (c for c in coefficients(profile, {"gpu"}) if c.key == "bandwidth_efficiency")

    efficiency = shifted(profile, share, 1.5).accelerator("gpu").runtimes[0].bandwidth_efficiency

    assert efficiency is not None
    assert efficiency.value == 1.0


def test_levers_move_what_they_are_named_after() -> None:
    profile = board()

    links, _ = pulled(profile, "link_bandwidth_factor", 0.5)
    power, _ = pulled(profile, "base_power_factor", 0.5)
    memory, _ = pulled(profile, "memory_energy_factor", 2.0)
    compute, _ = pulled(profile, "compute_energy_factor", 2.0)

    assert links.links[0].bandwidth_bytes_per_s.value == 5e9
    assert links.memory_domains == profile.memory_domains
    assert [a.base_power_w.value for a in power.accelerators] == [10.0, 1.0, 1.0]
    assert [d.energy_j_per_byte.value for d in memory.memory_domains] == [1e-10, 1e-10]
    assert [a.energy_j_per_flop["fp16"].value for a in compute.accelerators] == [4e-12, 4e-11, 4e-13]


def test_npu_efficiency_moves_the_npu_alone() -> None:
    profile = board()

    moved, why = pulled(profile, "npu_efficiency_factor", 2.0)

    npu = moved.accelerator("npu")
    assert why is None
    assert npu.peak_flops_per_s["fp16"].value == 8e13
    assert npu.runtimes[0].bandwidth_efficiency is not None
    assert npu.runtimes[0].bandwidth_efficiency.value == 1.0  # twice the assumed 60 %, but not above all of it
    assert moved.accelerator("gpu") == profile.accelerator("gpu")


def test_the_link_of_an_npu_with_memory_of_its_own_counts_from_its_published_rate() -> None:
    content = data()
    content["accelerators"][2]["sram_bytes"] = quantity(1e7)

    moved, _ = pulled(DeviceProfile.model_validate(content), "npu_efficiency_factor", 0.5)

    efficiency = moved.accelerator("npu").runtimes[0].bandwidth_efficiency
    assert efficiency is not None
    assert efficiency.value == 0.5


def test_a_lever_without_a_hold_says_so() -> None:
    content = data()
    content["links"] = []
    content["accelerators"] = [a for a in content["accelerators"] if a["kind"] != "npu"]
    profile = DeviceProfile.model_validate(content)

    assert pulled(profile, "link_bandwidth_factor", 0.5) == (profile, "the profile has no links")
    assert pulled(profile, "npu_efficiency_factor", 0.5) == (profile, "the board has no NPU or TPU")
    assert pulled(profile, "temperature_c", 90.0) == (profile, "the profile has no leakage coefficients")
    assert pulled(profile, "generated_tokens_factor", 2.0) == (profile, None)


def test_leakage_gives_temperature_a_hold() -> None:
    content = data()
    content["accelerators"][0]["leakage"] = {"power_w": quantity(3.0), "activation_energy_ev": quantity(0.3)}

    assert pulled(DeviceProfile.model_validate(content), "temperature_c", 90.0)[1] is None
