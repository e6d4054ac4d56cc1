"""Figures that nothing known has are remarked on, with their key; every shipped board passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from agent.evaluation.plausibility import operation_range_j, remarks
from agent.schema.device import DeviceProfile
from agent.schema.workload import Precision
from agent.storage import yaml_files
from tests.placement.test_costing import board, unit
from tests.service.world import quantity

PROFILES = sorted((Path(__file__).parents[2] / "device_profiles").glob("*.yaml"))
DOUBLES_IN_8_C_EV, DOUBLES_IN_30_C_EV = 0.6294, 0.1409


def profile(memory: dict[str, Any] | None = None, **accelerator: Any) -> DeviceProfile:
    document = board(unit("a", **accelerator)).model_dump(mode="json")
    document["memory_domains"][0] |= memory or {}
    return DeviceProfile.model_validate(document)


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_a_shipped_board_has_nothing_to_remark_on(path):
    assert remarks(yaml_files.load_profile(path)) == ()


@pytest.mark.parametrize(
    ("made", "place", "told"),
    [
        (
            profile({"energy_j_per_byte": quantity(3.8e-8)}),
            ("memory_domains", 0, "energy_j_per_byte"),
            "1 pJ/bit is 8e-12",
        ),
        (profile({"energy_j_per_byte": quantity(3.5e-12)}), ("memory_domains", 0, "energy_j_per_byte"), "memory chips"),
        (
            profile({"backing_bytes_per_s": quantity(500.0)}),
            ("memory_domains", 0, "backing_bytes_per_s"),
            "cards and drives",
        ),
        (
            profile(energy_j_per_flop={"fp32": quantity(5.0)}),
            ("accelerators", 0, "energy_j_per_flop", "fp32"),
            "operations in fp32",
        ),
        (
            profile(energy_j_per_flop={"fp32": quantity(1e-14)}),
            ("accelerators", 0, "energy_j_per_flop", "fp32"),
            "1 pJ is 1e-12 J",
        ),
        (
            profile(leakage={
                "power_w": quantity(1.0), "activation_energy_ev": quantity(DOUBLES_IN_8_C_EV)
            }),
            ("accelerators", 0, "leakage", "activation_energy_ev"),
            "doubles leakage every 8 °C",
        ),
        (
            profile(power_cap_w=quantity(10.0), leakage={
                "power_w": quantity(5.0), "activation_energy_ev": quantity(DOUBLES_IN_30_C_EV)
            }),
            ("accelerators", 0, "leakage", "power_w"),
            "of the cap of 10 W",
        ),
        (
            profile(runtimes=[{"backend": "onnx", "provider": "P", "bandwidth_efficiency": quantity(0.01)}]),
            ("accelerators", 0, "runtimes", 0, "bandwidth_efficiency"),
            "reaches 1.0% of the bandwidth",
        ),
    ],
)  # fmt: skip
def test_a_figure_out_of_every_known_range_is_remarked_on_with_its_key(made, place, told):
    (found,) = remarks(made)

    assert found.place == place
    assert told in found.text


def test_a_general_core_may_spend_more_on_an_operation_than_an_accelerator():
    price = {"fp32": quantity(1e-10)}

    assert remarks(profile(energy_j_per_flop=price, kind="cpu")) == ()
    assert len(remarks(profile(energy_j_per_flop=price, kind="npu"))) == 1


def test_usual_leakage_is_not_remarked_on():
    usual = quantity(DOUBLES_IN_30_C_EV)

    assert remarks(profile(leakage={"power_w": quantity(1.0), "activation_energy_ev": usual})) == ()


@pytest.mark.parametrize("precision", get_args(Precision))
def test_every_precision_has_a_range(precision):
    low, high = operation_range_j(precision)

    assert 0.0 < low < high
