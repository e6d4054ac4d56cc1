"""Models are planned in turn: what one holds, the next one does not get."""

from __future__ import annotations

import dataclasses

import pytest

from agent.placement.state import State
from agent.schema.policy import Policy
from agent.schema.settings import ModelEntry
from agent.service.board import Board
from agent.service.planning.holdings import Holdings
from agent.service.planning.kept import workload_bytes
from agent.service.planning.plan import Candidate, ModelPlan, Plan, StageCandidate
from agent.service.planning.planner import Planner
from tests.fakes import load_spec
from tests.placement.test_costing import board, load, quantity, stage, unit
from tests.service.world import POLICY

APART = board(unit("gpu", memory_domain="vram"), unit("npu", base_power_w=quantity(3.0)), domains=("ram", "vram"))
SHARED = board(unit("gpu"), unit("npu", base_power_w=quantity(3.0)))
COLD = POLICY.model_copy(update={"standby": "cold"})
BYTES = 5e8
"""Of each model; a memory admits 9e8."""
ENTRIES = tuple(ModelEntry(name=name, path=f"{name}.onnx") for name in ("a", "b"))


@dataclasses.dataclass(frozen=True)
class Opened:
    path: object
    format: str = "onnx"
    digest: str = "d"
    stamp: object = None


def workload(size: float = BYTES):
    return load(stage("s", weight=size - 1e6, arena_bytes=1e6), digest="d")


@pytest.fixture(autouse=True)
def _models(monkeypatch):
    monkeypatch.setattr("agent.service.planning.planner.open_artifact", lambda path: Opened(path))
    monkeypatch.setattr("agent.service.planning.planner.check_guard", lambda *_: ())
    monkeypatch.setattr("agent.service.planning.planner.workload_of", lambda _artifact, name, _cache: workload())


def plan(
    profile, policy: Policy = COLD, state: State | None = None, running: Plan | None = None, entries=ENTRIES
) -> Plan:
    return Planner(Board(profile, frozenset(), 2), None).plan(policy, "d", entries, state, running)


def served(made: Plan) -> dict[str, list[str]]:
    return {m.name: [c.accelerator for c in m.candidates] for m in made.models}


def test_two_models_that_fit_alone_but_not_together_are_placed_apart():
    assert served(plan(APART, entries=ENTRIES[1:]))["b"][0] == "gpu"
    made = served(plan(APART))
    assert (made["a"][0], made["b"][0]) == ("gpu", "npu")


def test_where_there_is_no_second_memory_the_later_model_is_refused_with_who_is_in_its_way():
    made = plan(SHARED)
    assert served(made)["a"][0] == "gpu"
    assert served(made)["b"] == []
    assert made.models[1].reason.startswith("no room beside a: gpu: needs 100% of ram (memory.max_cpq allows 90%)")


@pytest.mark.parametrize(
    ("free_bytes", "placed", "awaiting"),
    [(1e9, ["a"], []), (0.7e9, ["a"], []), (0.3e9, [], ["a"]), (None, ["a"], [])],
)
def test_a_model_that_only_others_keep_out_now_awaits_room(free_bytes, placed, awaiting):
    state = State() if free_bytes is None else State(free_bytes={"ram": free_bytes})
    made = plan(SHARED, state=state)
    assert [m.name for m in made.models if m.candidates] == placed
    assert [m.name for m in made.models if m.awaits_room] == awaiting


def test_what_does_not_fit_alone_either_blames_nobody_else(monkeypatch):
    monkeypatch.setattr(
        "agent.service.planning.planner.workload_of", lambda _a, name, _c: workload(BYTES if name == "a" else 2e9)
    )
    assert plan(SHARED).models[1].reason.startswith("gpu: needs ")


def test_a_model_that_runs_keeps_its_memory_from_one_that_is_new_and_stands_before_it():
    running = plan(SHARED, entries=ENTRIES[1:])
    made = plan(SHARED, running=running)
    assert [m.name for m in made.models] == ["a", "b"]
    assert served(made)["b"][0] == "gpu"
    assert "no room beside b: " in (made.models[0].reason or "")


def test_a_standby_placement_that_does_not_fit_beside_all_that_serves_is_left_out_with_its_reason():
    warm = plan(APART, POLICY)
    assert served(warm) == {"a": ["gpu"], "b": ["npu"]}
    assert ("npu", "no room to keep it loaded as well, beside what serves a, b") in warm.models[0].rejected
    assert served(plan(APART, POLICY, entries=ENTRIES[:1])) == {"a": ["gpu", "npu"]}
    # What is not kept loaded holds nothing.
    assert served(plan(APART, COLD)) == {"a": ["gpu", "npu"], "b": ["npu"]}


def test_on_a_lost_accelerator_nothing_is_held():
    made = plan(APART, COLD, State(lost=frozenset({"gpu", "npu"})))
    assert [names[0] for names in served(made).values()] == ["gpu", "gpu"]


def test_a_split_holds_both_of_its_memories_and_what_the_settings_name_counts_as_loaded():
    work = workload(4e8)
    parts = tuple(StageCandidate(name, load_spec("m"), 0.1, 0.1, 1.0) for name in ("gpu", "npu"))
    split = Candidate("gpu+npu", load_spec("m"), 0.1, 0.1, 1.0, parts)
    whole = Candidate("npu", load_spec("m"), 0.1, 0.1, 1.0)
    holdings = Holdings(APART, COLD, State(free_bytes={"vram": 1e12}))
    model = ModelPlan("m", "1", "d", work, (whole, dataclasses.replace(split, kept=True), dataclasses.replace(whole)))
    holdings.take(model)
    assert holdings.left.free_bytes == {"vram": 1e12, "ram": 1e9 - workload_bytes(work)}
    (settled,) = holdings.settled([model])
    assert [c.accelerator for c in settled.candidates] == ["npu", "gpu+npu", "npu"]
    assert holdings.left.free_bytes == {"vram": 1e9 - 4e8, "ram": pytest.approx(2e8)}


def test_a_model_without_a_graph_holds_nothing_that_is_known():
    holdings = Holdings(APART, COLD, State())
    holdings.take(ModelPlan("m", "1", "d", None, (Candidate("gpu", load_spec("m"), None, None, None),)))
    holdings.take(ModelPlan("n", "1", "d", None, ()))
    assert (holdings.left, holdings.beside()) == (State(), "m")
