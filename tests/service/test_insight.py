"""Why a placement, what a policy changed, and when heat would stop work."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.schema.policy import Objective
from agent.schema.snapshot import AcceleratorStatus, AgentInfo, AgentSnapshot, ModelStatus, PlacementStatus
from agent.service.history import History
from agent.service.insight import Insight, changes, choice, flat, placements, why, wish
from agent.service.serving.serving_state import InForce
from tests.service.world import POLICY, plan_of, profile, quantity

NPU = PlacementStatus("npu0", "ready", "NPU", "NPU", 1.0, 2.0, 0.01, 2.2)
CPU = PlacementStatus("cpu", "ready", "CPU", "CPU", 1.0, 3.0, 0.05, None)
MODEL = ModelStatus("m", "ready", "NPU", "NPU", 1.0, "npu0", 2.0, 3.0, 0.01, "modelled", candidates=(NPU, CPU))
INFO = AgentInfo("0.1", "ready", "2026-01-01T00:00:00Z", "test", "d1", 4, "b1", "generic")
LANE = AcceleratorStatus("npu0", "onnx", "NPU", "ready", True, 40.0, 2.0, 0, None)
TRIP = {"kind": "critical", "temperature_c": quantity(80)}
ZONE = {"name": "soc", "source": "thermal_zone", "type": "soc", "trips": [TRIP]}


def insight(history, zones=(), temperature_c=40.0, before=None, policies=(POLICY,)):
    """`policies` are in force one after the other, the last one of the list for good; take from it to go on."""
    snapshot = AgentSnapshot(INFO, (replace(LANE, temperature_c=temperature_c),), (MODEL,))
    plan = plan_of({"m": ["npu0"]})
    return Insight(
        history, profile("npu0", zones=zones), lambda: snapshot, lambda: InForce(policies[0], "d1", plan), before
    )


def warmed(slope_k_per_s):
    history = History(period_s=1.0)
    for second in range(14):
        lane = replace(LANE, temperature_c=40.0 + slope_k_per_s * (second - 13))
        history.tick(AgentSnapshot(INFO, (lane,)), float(second), 1000.0 + second)
    return history


def heat(*arguments, **options):
    return insight(*arguments, **options).overview(0, 0)["accelerators"]["npu0"]


def test_time_to_trip_is_where_the_last_minutes_line_meets_the_limit_and_is_called_modelled():
    now = heat(warmed(0.5))
    assert (now["stop_c"], now["trend"], now["time_to_trip_is"]) == (85, "rising", "modelled")
    assert now["time_to_trip_s"] == pytest.approx(90.0, rel=0.05)


def test_the_boards_own_trip_counts_where_it_is_lower():
    assert heat(warmed(0.5), zones=(ZONE,))["stop_c"] == 75


@pytest.mark.parametrize(("slope", "trend"), [(0.0, "steady"), (-0.5, "falling"), (0.012, "rising")])
def test_without_a_trip_in_sight_there_is_no_time(slope, trend):
    now = heat(warmed(slope))
    assert (now["trend"], now["time_to_trip_s"], now["time_to_trip_is"]) == (trend, None, "unknown")


def test_without_a_sensor_the_trend_is_unknown():
    now = heat(History(), temperature_c=None)
    assert (now["trend"], now["time_to_trip_s"], now["busy_share"]) == ("unknown", None, None)


def test_a_policy_is_shown_with_what_it_changed():
    cooler = POLICY.model_copy(update={"thermal": POLICY.thermal.model_copy(update={"soft_c": 60.0})})
    policies = [POLICY, cooler]
    shown = insight(History(), before=cooler, policies=policies)
    policy = shown.overview(0, 0)["policy"]
    assert policy["changes"] == [{"key": "thermal.soft_c", "before": 60.0, "now": 70.0}]
    assert policy["document"]["thermal"]["soft_c"] == 70.0
    shown.policy_in_force(POLICY)
    assert len(shown.overview(0, 0)["policy"]["changes"]) == 1
    policies.pop(0)
    shown.policy_in_force(cooler)
    assert shown.overview(0, 0)["policy"]["changes"][0]["before"] == 70.0


def test_a_first_policy_and_one_that_stayed_have_no_changes():
    assert insight(History()).overview(0, 0)["policy"]["changes"] == []
    assert insight(History(), before=POLICY).overview(0, 0)["policy"]["before"] is None


def test_keys_that_come_and_go_are_changes_too():
    assert flat({"a": {"b": 1}, "c": [1], "d": {}}) == {"a.b": 1, "c": [1], "d": {}}
    knee = POLICY.model_copy(update={"objective": Objective(method="knee")})
    gone = {c["key"]: (c["before"], c["now"]) for c in changes(POLICY, knee)}
    assert gone["objective.weights.energy"] == (1.0, None)
    assert gone["objective.method"] == ("weights", "knee")


def test_the_front_is_who_nobody_beats():
    slow_and_frugal = replace(CPU, accelerator="dsp", predicted_ms=9.0, predicted_energy_j=0.001)
    unknown = replace(CPU, accelerator="gpu", predicted_energy_j=None)
    rows = placements(replace(MODEL, candidates=(NPU, CPU, slow_and_frugal, unknown)), POLICY)["candidates"]
    assert {r["accelerator"]: r["on_front"] for r in rows} == {"npu0": True, "cpu": False, "dsp": True, "gpu": False}
    assert [r["accelerator"] for r in rows if r["chosen"]] == ["npu0"]


def test_the_reason_names_the_next_one_and_the_wish():
    text = why(MODEL, POLICY)
    assert "npu0 serves m: predicted 2 ms and 10 mJ per answer" in text
    assert "Next would be cpu: 1.50 × the time and 5.00 × the energy" in text
    assert "Policy test weighs energy 1, latency 1" in text


def test_the_reason_says_that_times_of_its_own_decided_against_the_predictions():
    timed = replace(MODEL, placement="cpu", candidates=(replace(CPU, timed_ms=30.9), replace(NPU, timed_ms=42.8)))
    text = why(timed, POLICY)
    assert "1.39 × the time as timed on the idle board (42.8 ms beside 30.9 ms), which decides" in text
    assert "from what was predicted: 0.67 × the time and 0.20 × the energy" in text
    assert [row["timed_ms"] for row in placements(timed, POLICY)["candidates"]] == [30.9, 42.8]


def test_the_reason_says_when_the_first_choice_is_not_to_be_had():
    down = replace(NPU, state="refused", reason="ran on the CPU")
    text = why(replace(MODEL, candidates=(down, CPU), placement="cpu"), POLICY)
    assert "first choice, npu0, is refused: ran on the CPU" in text


def test_the_reason_of_a_lone_or_missing_placement():
    alone = replace(MODEL, candidates=(replace(NPU, predicted_ms=None, predicted_energy_j=None),))
    assert "time unknown and energy unknown" in why(alone, POLICY)
    assert "only placement" in why(alone, POLICY)
    unknown = replace(MODEL, candidates=(NPU, replace(CPU, predicted_ms=None)))
    assert "unknown for the time" in why(unknown, POLICY)
    nobody = replace(MODEL, placement=None, reason="no runtime", state="unavailable")
    assert why(nobody, POLICY) == "Nothing serves m: no runtime."


def test_the_point_of_the_front_that_was_chosen_says_why_in_one_line():
    assert choice(MODEL, POLICY).startswith(f"npu0, because policy {POLICY.name} ")
    down = replace(NPU, state="quarantined", reason="died thrice")
    stands_in = choice(replace(MODEL, candidates=(down, CPU), placement="cpu"), POLICY)
    assert stands_in == "cpu stands in: the policy's first choice, npu0, is quarantined: died thrice"
    assert "only placement" in choice(replace(MODEL, candidates=(NPU,)), POLICY)
    assert choice(replace(MODEL, placement=None, reason="no runtime"), POLICY) == "nothing serves: no runtime"


def test_every_kind_of_objective_is_put_into_words():
    assert "latency, then energy" in wish(Objective(method="lexicographic", order=("latency", "energy")))
    assert "diminishing returns" in wish(Objective(method="knee"))


@pytest.mark.parametrize("placement", ["cpu", "cpu-eco+cpu"])
def test_a_language_model_says_why_it_is_served_where_it_is(placement):
    way = PlacementStatus("cpu>cpu-eco", "chosen", "CPU", "", None, 9.0, 1.0, None, "prompts cost less there")
    alone = PlacementStatus("cpu", "considered", "CPU", "", None, 12.0, 2.0, None)
    model = replace(MODEL, placement=placement, candidates=(way, alone))
    told = placements(model, POLICY)
    shared = placement != "cpu"
    assert [row["chosen"] for row in told["candidates"]] == [shared, not shared]
    assert ("cpu>cpu-eco serves m: prompts cost less there." in told["why"]) is shared
    nothing = replace(MODEL, placement="cpu", candidates=(replace(alone, state="chosen", reason="cpu alone: so said"),))
    assert why(nothing, POLICY).startswith("cpu serves m: cpu alone: so said.")
    assert why(replace(model, placement=None), POLICY).startswith("Nothing serves m")
