"""What a board must give before a model fits: the printed figure does, a byte less does not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import PlacementError
from agent.placement.fronts import Effort, search
from agent.placement.infeasible import feasible_assignment
from agent.placement.phases import request_tables
from agent.placement.state import State
from agent.placement.tables import Tables, make_tables
from agent.placement.ways import Way
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy, Rule
from agent.schema.workload import Workload
from tests.placement.test_costing import board, load, quantity, stage, unit
from tests.service.world import POLICY

DOMAINS = ("ram", "vram")
TOTAL = 1e9


def machine(total: dict[str, float] | None = None) -> DeviceProfile:
    made = board(unit("gpu", memory_domain="vram"), unit("npu"), domains=DOMAINS)
    sizes = {d: quantity((total or {}).get(d, TOTAL) + 1e9) for d in DOMAINS}
    domains = [d.model_dump() | {"capacity_bytes": sizes[d.name]} for d in made.memory_domains]
    return DeviceProfile.model_validate(made.model_dump() | {"memory_domains": domains})


def model(kept: list[float], arena: list[float], phase: str | None = None) -> Workload:
    stages = (stage(f"s{i}", weight=k, arena_bytes=a) for i, (k, a) in enumerate(zip(kept, arena, strict=True)))
    return load(*stages, format="catalogue", phase=phase or "forward")


def tables(workload: Workload, profile: DeviceProfile, policy: Policy, state: State, both: bool) -> Tables:
    if not both:
        return make_tables(workload, profile, policy, state=state)
    pair = [workload.model_copy(update={"phase": phase}) for phase in ("prefill", "decode")]
    made = [make_tables(w, profile, policy, state=state) for w in pair]
    return request_tables((pair[0], made[0]), (pair[1], made[1]), 4, profile, policy, state)


def refusal(
    workload: Workload, profile: DeviceProfile, policy: Policy, state: State, both: bool
) -> PlacementError | None:
    """What a user is told, or None where something fits."""
    try:
        made = tables(workload, profile, policy, state, both)
        if feasible_assignment(made.problem) is not None:
            return None
        search((Way(),), [made], Effort())
    except PlacementError as error:
        return error
    raise AssertionError("the search found what does not fit")


def granted(
    error: PlacementError, profile: DeviceProfile, policy: Policy, state: State, less: float
) -> tuple[DeviceProfile, Policy, State]:
    """The board with what was asked for, less so many bytes (or so many millionths of a share)."""
    values, kind = error.context["relaxation"], error.context["kind"]
    if kind == "free":
        return profile, policy, State(free_bytes={**state.free_bytes, **{d: v - less for d, v in values.items()}})
    if kind == "max_cpq":
        memory = policy.memory.model_copy(update={"max_cpq": values["max_cpq"] - less * 1e-6})
        return profile, policy.model_copy(update={"memory": memory}), state
    free = {d: b for d, b in state.free_bytes.items() if d not in values}
    return machine({d: v - less for d, v in values.items()}), policy, State(free_bytes=free)


SIZE = st.integers(0, 12).map(lambda n: n * 5e7 + n * n * 13)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Workload, Policy, State, bool]:
    count = draw(st.integers(1, 4))
    kept = draw(st.lists(SIZE, min_size=count, max_size=count))
    arena = draw(st.lists(SIZE, min_size=count, max_size=count))
    free = {
        d: draw(st.sampled_from((0.0, 1.0, 1e7, 1.5e8, 4.3e8, 1e9, 1e12)))
        for d in draw(st.sets(st.sampled_from(DOMAINS)))
    }
    barred = draw(st.sampled_from(((), (Rule(model="*", accelerator="gpu"),), (Rule(model="*", accelerator="npu"),))))
    cpq = draw(st.sampled_from((0.1, 0.5, 0.9)))
    policy = POLICY.model_copy(
        update={"forbidden": barred, "memory": POLICY.memory.model_copy(update={"max_cpq": cpq})}
    )
    return model(kept, arena), policy, State(free_bytes=free), draw(st.booleans())


@settings(deadline=None, max_examples=150)
@given(case=cases())
def test_what_is_asked_for_is_enough_and_a_little_less_is_not(case: tuple[Workload, Policy, State, bool]) -> None:
    workload, policy, state, both = case
    profile = machine()
    error = refusal(workload, profile, policy, state, both)
    if error is None:
        return

    assert "would do" in error.message
    assert refusal(workload, *granted(error, profile, policy, state, 0.0), both) is None
    enlarged = error.context["kind"] == "capacity"
    # A larger memory is asked for in whole bytes, of which the policy admits a share.
    assert refusal(
        workload, *granted(error, profile, policy, state, 2.0 / policy.memory.max_cpq if enlarged else 1.0), both
    )


def test_where_nothing_is_free_the_arena_is_part_of_what_is_asked_for() -> None:
    workload = model([1e8, 1e8], [3e8, 1e6])
    only = POLICY.model_copy(update={"forbidden": (Rule(model="*", accelerator="gpu"),)})

    error = refusal(workload, machine(), only, State(free_bytes={"ram": 0.0}), both=False)

    assert error is not None
    # Weights, the largest arena, and the tenth that max_cpq keeps free.
    assert error.context["relaxation"] == {"ram": 2e8 + 3e8 + 1e8}
    assert error.message == (
        "no placement fits: memory ram binds; 600000000 bytes more left free by others (--free ram=600000000) would do"
    )


def test_a_model_larger_than_the_policys_share_asks_for_the_share() -> None:
    workload = model([6e8], [0.0])
    half = POLICY.model_copy(update={"memory": POLICY.memory.model_copy(update={"max_cpq": 0.5})})

    error = refusal(workload, machine(), half, State(), both=False)

    assert error is not None
    assert "memory ram and vram bind; memory.max_cpq 0.6 in the policy (now 0.5) would do" in error.message


def test_a_model_larger_than_the_board_asks_for_a_larger_memory() -> None:
    error = refusal(model([5e9], [1e9]), machine(), POLICY, State(), both=False)

    assert error is not None
    assert error.context["kind"] == "capacity"
    [(_, total)] = error.context["relaxation"].items()
    assert total == pytest.approx(6e9 / 0.9)


def test_stages_bound_to_different_memories_ask_for_both() -> None:
    workload = load(*(stage(f"s{i}", weight=3e9, operators=(name,)) for i, name in enumerate(("A", "B"))))
    profile = machine()
    made = make_tables(workload, profile, POLICY)
    assert made.memory is not None

    error = made.memory.error(np.eye(2, dtype=bool))

    assert set(error.context["relaxation"]) == set(DOMAINS)
    assert "2333333334 bytes more in each" in error.message  # one figure serves both, which have the same size
    assert "memory ram and vram bind" in error.message


def test_no_memory_helps_where_no_accelerator_is_left() -> None:
    made = make_tables(model([1e8], [0.0]), machine(), POLICY)
    assert made.memory is not None

    error = made.memory.error(np.zeros((1, 2), dtype=bool))

    assert error.message == "no placement fits: no amount of memory in ram and vram would do; allow more accelerators"


def test_a_stage_without_weights_is_kept_out_by_its_arena() -> None:
    workload = model([0.0], [5e9])
    assert refusal(workload, machine(), POLICY, State(), both=False) is not None


def test_tables_of_unknown_origin_leave_the_message_as_it_is() -> None:
    made = replace(make_tables(model([5e9], [1e9]), machine(), POLICY), memory=None)
    assert made.short() is None
    with pytest.raises(PlacementError, match="bytes more there would do"):
        search((Way(),), [made], Effort())
