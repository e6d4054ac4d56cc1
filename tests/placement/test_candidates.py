"""Which accelerators may run a model, and what of the board's state counts: heat, memory, waiting work, losses."""

from __future__ import annotations

import dataclasses
import math

import pytest

from agent.errors import PlacementError
from agent.placement.candidates import admit, candidates, check_left, room_bytes, violates, whole_models
from agent.placement.state import State, meant
from agent.placement.tables import make_tables
from agent.schema.policy import Policy, Rule
from tests.placement.test_costing import board, cost, load, quantity, stage, unit
from tests.service.world import POLICY

BOARD = board(unit("gpu"), unit("npu", base_power_w=quantity(1.0)))


def pinned(*names: str) -> Policy:
    return POLICY.model_copy(update={"pinned": tuple(Rule(model="*", accelerator=n) for n in names)})


def test_a_lost_accelerator_is_no_candidate():
    found, why = candidates(load(), BOARD, POLICY, State(lost=frozenset({"gpu"})))
    assert [c.accelerator.name for c in found] == ["npu"]
    assert why == [("gpu", "it does not answer")]


def test_the_temperature_of_the_board_prices_leakage():
    leaky = board(unit("gpu", leakage={"power_w": quantity(1.0), "activation_energy_ev": quantity(0.3)}))
    energies = [
        make_tables(load(), leaky, POLICY, state=State(temperatures_c={"gpu": t})).problem.energy[0, 0]
        for t in (30, 90)
    ]
    assert energies[0] < energies[1]


def test_memory_that_others_hold_is_not_there_to_plan_with():
    room = room_bytes(BOARD, "ram", POLICY)
    assert room == pytest.approx(0.9e9)
    assert room_bytes(BOARD, "ram", POLICY, State(free_bytes={"ram": 4e8})) == pytest.approx(0.9e9 - 6e8)
    assert room_bytes(BOARD, "ram", POLICY, State(free_bytes={"ram": 0.0})) == 0.0
    assert room_bytes(BOARD, "ram", POLICY, State(free_bytes={"ram": 9e9})) == pytest.approx(room)


def test_a_model_that_no_longer_fits_is_refused_with_the_share_it_would_take():
    big = load(stage(weight=5e8))
    assert len(whole_models(big, BOARD, POLICY)[0]) == 2
    found, why = whole_models(big, BOARD, POLICY, State(free_bytes={"ram": 4e8}))
    assert not found
    assert "needs 110% of ram (memory.max_cpq allows 90%)" in dict(why)["gpu"]


def test_a_placement_above_the_power_cap_is_refused():
    thrifty = POLICY.model_copy(update={"power_cap_w": 1.5})
    found, why = whole_models(load(), BOARD, thrifty)
    assert [c.accelerator.name for c in found] == ["npu"]
    assert "W modelled, 2 W of it for being on (power_cap_w allows 1.5 W)" in dict(why)["gpu"]
    assert violates(found[0], thrifty, BOARD) is None


def test_a_pin_to_an_accelerator_that_is_not_there_names_the_one_meant():
    with pytest.raises(PlacementError, match=r"pins the model to gpx; b has only gpu, npu \(did you mean gpu\?\)"):
        candidates(load(), BOARD, pinned("gpx"))
    assert [c.accelerator.name for c in candidates(load(), BOARD, pinned("gpx", "npu"))[0]] == ["npu"]


def test_waiting_work_delays_the_entry_to_its_accelerator_less_what_ran_before():
    workload = load(stage("one"), stage("two"))
    free = make_tables(workload, BOARD, POLICY).problem
    busy = make_tables(workload, BOARD, POLICY, state=State(queue_s={"gpu": 1.0}))
    latency = {row: busy.problem.objectives(row)[0, 1] - free.objectives(row)[0, 1] for row in ((0, 0), (1, 0), (1, 1))}
    assert latency[0, 0] == pytest.approx(1.0)
    assert 0.9 < latency[1, 0] < 1.0
    assert latency[1, 1] == pytest.approx(0.0)
    assert any("upper bounds" in note for note in busy.notes)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (State(lost=frozenset({"gpuu"})), r"lost: there is no 'gpuu' among gpu, npu \(did you mean gpu\?\)"),
        (State(temperatures_c={"tpu": 40.0}), "temperatures_c: there is no 'tpu'"),
        (State(temperatures_c={"gpu": math.nan}), r"temperatures_c\['gpu'\] is nan"),
        (State(free_bytes={"zzz": 1.0}), "free_bytes: there is no 'zzz' among ram$"),
        (State(queue_s={"gpu": -1.0}), r"queue_s\['gpu'\] is -1"),
        (State(free_bytes={"ram": math.inf}), r"free_bytes\['ram'\] is inf"),
    ],
)
def test_a_state_that_makes_no_sense_is_refused_by_name(state, words):
    with pytest.raises(ValueError, match=words):
        make_tables(load(), BOARD, POLICY, state=state)


def test_only_a_near_name_is_suggested():
    assert meant("npuu", ["gpu", "npu"]) == " (did you mean npu?)"
    assert meant("zzzz", ["gpu", "npu"]) == ""


def test_a_candidate_whose_cap_cannot_be_kept_any_more_is_not_admitted():
    profile = board(unit("gpu", power_cap_w=quantity(9.0)))
    (found,), _ = candidates(load(), profile, POLICY)
    hot = dataclasses.replace(found, cost=dataclasses.replace(found.cost, over_cap="its power cap is too low"))
    assert admit([hot], profile, POLICY) == ([], [("gpu", "its power cap is too low")])


def test_that_all_who_might_run_it_are_lost_is_said_once():
    profile = board(unit("gpu"), unit("npu"), unit("tpu", runtimes=[]))
    check_left(load(), profile, POLICY, State())
    check_left(load(), profile, POLICY, State(lost=frozenset({"gpu"})))
    with pytest.raises(PlacementError, match="to run m on: gpu and npu of b are lost; tpu: no runtime"):
        check_left(load(), profile, POLICY, State(lost=frozenset({"gpu", "npu"})))
    with pytest.raises(PlacementError, match="on: gpu of b is lost"):
        check_left(load(), board(unit("gpu")), POLICY, State(lost=frozenset({"gpu"})))
    check_left(load(), board(unit("gpu", runtimes=[])), POLICY, State(lost=frozenset({"gpu"})))


# ------------------------------------------------------------------------------------------- memory


def test_stages_share_one_arena_so_a_model_fits_that_a_sum_of_arenas_would_refuse():
    stages = [stage(str(i), weight=1e7, arena_bytes=3e8) for i in range(8)]
    workload = load(*stages)
    problem = make_tables(workload, BOARD, POLICY).problem
    assert problem.feasible([0] * 8)[0]
    assert cost(workload, BOARD, "gpu").held_bytes == pytest.approx(8e7 + 3e8)
    assert len(whole_models(workload, BOARD, POLICY)[0]) == 2


@pytest.mark.parametrize("arena", [0.0, 1e8, 7e8])
def test_tables_and_whole_models_agree_on_what_one_domain_holds(arena):
    room = 0.9e9
    for held in (room * 0.999, room * 1.001):
        workload = load(stage("a", weight=held - arena, arena_bytes=arena / 2), stage("b", weight=0, arena_bytes=arena))
        fits = bool(make_tables(workload, BOARD, POLICY).problem.feasible([1, 1])[0])
        assert fits == bool(whole_models(workload, BOARD, POLICY)[0]) == (held < room)


def test_nothing_is_admitted_that_does_not_fit_its_largest_arena():
    two = board(unit("gpu"), unit("npu", memory_domain="sram"), domains=("ram", "sram"))
    workload = load(stage("a", weight=5e8, arena_bytes=1e6), stage("b", weight=5e8, arena_bytes=3e8))
    problem = make_tables(workload, two, POLICY).problem
    feasible = [row for row in ((0, 0), (0, 1), (1, 0), (1, 1)) if problem.feasible(row)[0]]
    assert feasible == [(0, 1), (1, 0)]


def test_a_stage_too_large_for_a_domain_stays_out_of_it_and_sets_nothing_aside_there():
    two = board(unit("gpu"), unit("npu", memory_domain="sram"), domains=("ram", "sram"))
    state = State(free_bytes={"sram": 3e8})
    workload = load(stage("small", weight=1e8, arena_bytes=1e6), stage("large", weight=1e8, arena_bytes=5e8))
    tables = make_tables(workload, two, POLICY, state=state)
    assert tables.problem.allowed.tolist() == [[True, True], [True, False]]
    assert tables.problem.feasible([1, 0])[0]


def test_a_stage_that_fits_nowhere_is_left_to_the_diagnosis():
    problem = make_tables(load(stage("huge", weight=5e9, arena_bytes=1e9)), BOARD, POLICY).problem
    assert problem.allowed.all()
    assert not problem.feasible([0])[0]


def test_a_board_on_which_nobody_may_run_it_says_why_for_each():
    lost = State(lost=frozenset({"gpu", "npu"}))
    with pytest.raises(PlacementError, match="gpu: it does not answer; npu: it does not answer"):
        make_tables(load(), BOARD, POLICY, state=lost)
