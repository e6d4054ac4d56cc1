"""What an hour back to back does: closed forms, runaway, the published drift of an Orin, and silence without data."""

from __future__ import annotations

import pytest

from agent.placement import costing
from agent.placement.warming import AIR_C, Settled, settled
from agent.schema.device import DeviceProfile
from agent.schema.workload import Workload
from agent.storage import share, yaml_files
from tests.placement.test_costing import board, load, stage, unit
from tests.service.world import quantity

WORK = load(stage(flops=1e8, weight=0, activations=1))
LEAK = {"power_w": quantity(1.0), "reference_c": 25.0, "activation_energy_ev": quantity(0.2)}


def cooled(leakage: dict | None = None, **thermal) -> DeviceProfile:
    document = board(unit("a")).model_dump(mode="json")
    document["accelerators"] = [unit("a", thermal_node="die", leakage=leakage, base_power_w=quantity(4.0))]
    node = {"name": "die", "heat_capacity_j_per_k": quantity(10.0), "to_ambient_w_per_k": quantity(0.5)}
    document["thermal"] = {"nodes": [node], **thermal}
    return DeviceProfile.model_validate(document)


def found(profile: DeviceProfile, workload: Workload = WORK) -> Settled | None:
    accelerator = profile.accelerators[0]
    cost = costing.model_cost(workload, profile, accelerator, accelerator.runtimes[0])
    return settled(profile, accelerator, cost)


def power_w(profile: DeviceProfile) -> float:
    accelerator = profile.accelerators[0]
    cost = costing.model_cost(WORK, profile, accelerator, accelerator.runtimes[0])
    assert cost.switching_j is not None
    return cost.switching_j / cost.time_s + 4.0


def test_a_junction_settles_at_its_power_over_the_way_to_the_air():
    profile = cooled()

    result = found(profile)

    assert result == Settled(pytest.approx(AIR_C + power_w(profile) / 0.5), None, None, None)


def test_a_spreader_between_die_and_air_adds_its_resistance():
    sink = {"name": "sink", "heat_capacity_j_per_k": quantity(100.0), "to_ambient_w_per_k": quantity(0.5)}
    die = {"name": "die", "heat_capacity_j_per_k": quantity(10.0)}
    profile = cooled(nodes=[die, sink], conductances=[{"between": ["die", "sink"], "w_per_k": quantity(2.0)}])

    result = found(profile)

    assert result is not None
    assert result.temperature_c == pytest.approx(AIR_C + power_w(profile) * (1 / 0.5 + 1 / 2.0))


def test_leakage_settles_higher_and_its_power_rises_over_the_hour():
    dry, leaking = found(cooled()), found(cooled(LEAK))

    assert dry is not None
    assert dry.temperature_c is not None
    assert leaking is not None
    assert leaking.temperature_c is not None
    assert leaking.leakage_w is not None
    assert leaking.temperature_c == pytest.approx(dry.temperature_c + leaking.leakage_w / 0.5, rel=1e-6)
    assert leaking.drift_in_an_hour is not None
    assert 0.0 < leaking.drift_in_an_hour < leaking.leakage_w / power_w(cooled())
    assert leaking.loop_gain is not None
    assert 0.0 < leaking.loop_gain < 1.0


def test_a_board_that_draws_more_beside_it_drifts_by_a_smaller_share():
    alone = cooled(LEAK)
    document = alone.model_dump(mode="json") | {"idle_power_w": quantity(20.0)}
    beside = found(DeviceProfile.model_validate(document))

    own = found(alone)
    assert own is not None
    assert own.drift_in_an_hour is not None
    assert beside is not None
    assert beside.drift_in_an_hour is not None
    assert beside.drift_in_an_hour < own.drift_in_an_hour / 3


def test_more_leakage_than_the_cooling_can_take_runs_away():
    assert found(cooled(LEAK | {"power_w": quantity(30.0)})) == Settled(None, None, None, None)


@pytest.mark.parametrize(
    "thermal",
    [
        {"nodes": [{"name": "die", "heat_capacity_j_per_k": quantity(10.0)}]},
        None,
    ],
)
def test_without_a_way_to_the_air_nothing_is_said(thermal):
    document = cooled().model_dump(mode="json")
    if thermal is None:
        document["accelerators"][0]["thermal_node"] = None
    document["thermal"] = thermal
    assert found(DeviceProfile.model_validate(document)) is None


def test_without_joules_nothing_is_said():
    document = cooled().model_dump(mode="json")
    document["accelerators"][0]["energy_j_per_flop"] = {}

    assert found(DeviceProfile.model_validate(document)) is None


@pytest.mark.parametrize("name", ["jetson-agx-orin", "jetson-orin-nano-super"])
def test_an_hour_of_a_fan_cooled_orin_at_fixed_clocks_drifts_less_than_three_percent(name):
    """MLPerf Inference v3.0 logs of the AGX Orin: 0 to 1.7 % over an hour and more."""
    profile = yaml_files.load_profile(share.find_profile(name))
    heavy = load(stage(flops=2e11, weight=4e7, activations=1e8, family="conv", precision="int8"))

    result = found(profile, heavy)

    assert result is not None
    assert result.drift_in_an_hour is not None
    assert 0.0 < result.drift_in_an_hour < 0.03
