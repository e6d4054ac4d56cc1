"""Whatever number of the status nobody knows has a reason beside it."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from agent.cli.status import unknown
from agent.ports import Reading
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.schema.snapshot import (
    AcceleratorStatus,
    AgentInfo,
    AgentSnapshot,
    ModelStatus,
    PlacementStatus,
    StageStatus,
    ZoneStatus,
)
from agent.service import unknowns
from tests.service.world import POLICY, World, profile

INFO = AgentInfo("0.1", "ready", "2026-01-01T00:00:00Z", "test", "d1", 4, "b1", "generic")
CPU = AcceleratorStatus("cpu", "onnx", "CPU", "ready", True, None, None, 0, None)
MODEL = ModelStatus("m", "ready", "P", "P", None, "cpu", None, None, None, "unknown")
ZONE = {"name": "soc", "source": "thermal_zone", "type": "soc", "trips": []}
RAIL = {"name": "input", "source": "hwmon", "type": "ina3221/VDD_IN", "covers": ["cpu"], "scope": "module"}
NONE_IS_NO_UNKNOWN = {
    "last_fault", "fault", "reason", "samples", "pid", "quality", "loading_s", "expected_load_s", "timed_ms",
    "total_energy_j",
}  # fmt: skip
"""Null where there is none of it: no fault, no load under way, no variant, no trial."""


def nulls(row: dict) -> set[str]:
    return {key for key, value in row.items() if value is None} - NONE_IS_NO_UNKNOWN


def rows_of(snapshot: AgentSnapshot) -> list[dict]:
    document = asdict(snapshot)
    placements = [c for m in document["models"] for c in m["candidates"]]
    stages = [s for c in placements for s in c["stages"]]
    return [*document["accelerators"], *document["models"], *document["zones"], *placements, *stages]


def explained(snapshot: AgentSnapshot, board=None, readings=(), policy=POLICY) -> AgentSnapshot:
    return unknowns.explained(snapshot, board or profile("cpu"), policy, readings)


def model(**fields) -> dict[str, str]:
    row = ModelStatus(**{**asdict(MODEL), **fields})
    return dict(explained(AgentSnapshot(INFO, models=(row,))).models[0].unknown)


@pytest.mark.parametrize("zones", [(), ({"name": "soc", "source": "thermal_zone", "type": "soc", "trips": []},)])
@pytest.mark.parametrize("simulated", [(), ("gpu0",)])
def test_no_null_of_a_starting_board_is_without_a_reason(zones, simulated):
    world = World(models={"m": ["gpu0", "cpu"], "lost": []}, zones=zones, simulated=simulated)
    for _ in range(2):
        for row in rows_of(world.snapshot):
            assert nulls(row) == set(row["unknown"]), row
            assert all(row["unknown"].values())
        world.infer().result(0)


def test_every_null_of_every_kind_of_row_has_a_reason_and_no_known_figure_has():
    stage = StageStatus("cpu", "m.1", "ready", (), None, None, None, None, None)
    rejected = PlacementStatus("npu", "rejected", "", "", None, None, None, None, "no memory")
    split = PlacementStatus("cpu+gpu", "ready", "P", "P", None, None, None, None, stages=(stage, stage))
    rows = (ModelStatus(**{**asdict(MODEL), "candidates": (rejected, split)}),)
    zones = (ZoneStatus("soc", None, 80.0, fault="absent"), ZoneStatus("case", 40.0, 80.0))
    found = explained(AgentSnapshot(INFO, (CPU,), rows, zones=zones))
    for row in rows_of(found):
        assert nulls(row) == set(row["unknown"]), row
    assert set(found.models[0].candidates[0].unknown.values()) == {"no memory"}


def test_a_board_without_sensors_is_told_from_one_whose_sensors_are_silent():
    (bare,) = explained(AgentSnapshot(INFO, (CPU,))).accelerators
    assert bare.unknown["temperature_c"] == "no temperature sensor: the profile has no zone"
    assert bare.unknown["power_w"] == "no power sensor: no rail of the profile covers it"
    board = DeviceProfile.model_validate({**profile("cpu", zones=(ZONE,)).model_dump(), "rails": [RAIL]})
    readings = (
        Reading("soc", "temperature_c", None, "read_failed", 1.0, detail="Permission denied"),
        Reading("input", "power_w", None, "absent", 1.0),
    )
    (silent,) = explained(AgentSnapshot(INFO, (CPU,)), board, readings).accelerators
    assert silent.unknown == {"temperature_c": "soc: Permission denied", "power_w": "input: absent"}
    (unread,) = explained(AgentSnapshot(INFO, (CPU,)), board).accelerators
    assert unread.unknown["power_w"] == "input: not read yet"


def test_before_any_request_before_any_answer_and_after_one_are_told_apart():
    assert {model()[key] for key in ("p50_ms", "p99_ms", "energy_j")} == {unknowns.NO_REQUEST}
    assert model(requests=3, failed=3)["p50_ms"] == unknowns.NO_ANSWER
    answered = model(requests=3, p50_ms=1.0, p99_ms=2.0)
    assert answered == {"accelerated_fraction": unknowns.NOT_TOLD, "energy_j": unknowns.NO_RATING}
    assert model(placement=None, state="unavailable", reason="too large")["accelerated_fraction"] == "too large"
    assert model(unknown={"energy_j": "its watts are modelled"})["energy_j"] == "its watts are modelled"


def test_a_zone_says_whether_it_is_blind_not_forecast_or_not_learnt_yet():
    thermal = {"horizon_s": 60}
    wanted = Policy.model_validate(
        {**POLICY.model_dump(), "thermal": {**POLICY.thermal.model_dump(), "forecast": thermal}}
    )

    def zone(policy, **fields):
        row = ZoneStatus(**{"name": "soc", "temperature_c": 40.0, "limit_c": 80.0, **fields})
        return explained(AgentSnapshot(INFO, zones=(row,)), policy=policy).zones[0].unknown

    assert set(zone(POLICY).values()) == {unknowns.NO_FORECAST}
    assert set(zone(wanted).values()) == {unknowns.NOT_HEATED}
    assert zone(wanted, ambient_c=25.0, k_per_w=2.0, error_c=0.1) == {"forecast_c": unknowns.NOT_LEARNT}
    assert zone(POLICY, temperature_c=None, fault="stale")["forecast_c"] == "its sensor gives no value: stale"


def test_the_terminal_says_each_reason_once_for_a_row_and_repeats_none_that_stands_there_already():
    gone = ModelStatus(**{**asdict(MODEL), "name": "gone", "placement": None, "reason": "too large"})
    status = asdict(explained(AgentSnapshot(INFO, (CPU,), (MODEL, gone))))
    assert list(unknown(status)) == [
        "– cpu °C: no temperature sensor: the profile has no zone",
        "– cpu W: no power sensor: no rail of the profile covers it",
        f"– m on it: {unknowns.NOT_TOLD}",
        "– m p50, p99, J: no request yet",
        "– gone p50, p99, J: no request yet",
    ]
    assert list(unknown({"accelerators": [{"name": "cpu"}], "models": []})) == []
