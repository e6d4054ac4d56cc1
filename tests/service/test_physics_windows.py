"""What a window of the board tells a trial: what was planned, never what stood in for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.schema.snapshot import AcceleratorStatus, AgentInfo, AgentSnapshot, ModelStatus, PlacementStatus, StageStatus
from agent.service.remote.physics_windows import PhysicsWindow, observation
from agent.service.serving.meter import Meter

INFO = AgentInfo("1", "ready", "now", "balanced", "d", 1, "edge-01", "p")
NPU = AcceleratorStatus("npu0", "onnx", "p", "ready", True, 50.0, None, 0, None)
CPU = replace(NPU, name="cpu")
PLACED = PlacementStatus("npu0", "ready", "p", "p", 1.0, None, None, None)
SPLIT = replace(
    PLACED, accelerator="cpu+npu0",
    stages=tuple(StageStatus(a, a, "ready", (), None, None, None, None, None) for a in ("cpu", "npu0")),
)  # fmt: skip


def board(state, placed=PLACED, temperature_c=50.0):
    model = ModelStatus("m", "ready", "p", "p", 1.0, "cpu", None, None, None, "unknown", candidates=(placed, PLACED))
    return AgentSnapshot(INFO, (CPU, replace(NPU, state=state, temperature_c=temperature_c)), (model,))


def seen(*snapshots, requests=9, measured_only=False, least=5):
    meter = Meter()
    meter.answered("npu0", 7.0, 7.0, 7.0, "modelled", 0)
    window = PhysicsWindow(lambda: {"m": meter}, measured_only)
    for snapshot in snapshots:
        window.look(snapshot)
    for _ in range(requests):
        meter.answered("npu0", 0.25, 0.2, 3.0, "modelled", 0)
    return window.close(least)


def test_a_window_counts_what_happened_in_it():
    found = seen(board("ready"), board("ready", temperature_c=60.0))
    assert (found.models["m"].requests, found.models["m"].failure_share) == (9, 0.0)
    assert (found.models["m"].energy_j, found.models["m"].latency_s) == pytest.approx((3.0, 0.25))
    assert found.temperatures_c["npu0"] == 55.0
    assert observation(found.as_json()) == found


def test_too_few_requests_say_nothing():
    assert seen(board("ready"), requests=4).models == {}


def test_modelled_joules_count_as_unknown_where_only_measured_ones_compare():
    assert seen(board("ready"), measured_only=True).models["m"].energy_j is None


@pytest.mark.parametrize("placed", [PLACED, SPLIT])
@pytest.mark.parametrize("state", ["starting", "restarting"])
def test_a_model_whose_planned_lane_was_down_for_a_moment_is_not_in_the_window(placed, state):
    assert seen(board("ready", placed), board(state, placed), board("ready", placed)).models == {}


def test_a_lane_that_is_down_and_not_the_planned_one_changes_nothing():
    elsewhere = replace(PLACED, accelerator="cpu")
    assert set(seen(board("restarting", elsewhere)).models) == {"m"}
