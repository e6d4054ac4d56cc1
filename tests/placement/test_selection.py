from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import PlacementError
from agent.placement.selection import Choice, Constraints, Incumbent, select
from agent.schema.policy import Objective, Weights

FRONT = np.array([[1.0, 10.0, 0.9], [2.0, 4.0, 0.8], [4.0, 2.0, 0.7], [10.0, 1.0, 0.1]])
KNEE = Objective(method="knee")


def weights(energy: float, latency: float, underutilisation: float) -> Objective:
    return Objective(
        method="weights", weights=Weights(energy=energy, latency=latency, underutilisation=underutilisation)
    )


def order(*names: str, tolerance: float = 0.0) -> Objective:
    return Objective(method="lexicographic", order=names, tolerance=tolerance)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("objective", "index"),
    [
        (weights(1, 0, 0), 0),
        (weights(0, 1, 0), 3),
        (weights(1, 1, 0), 1),
        (weights(1, 1, 9), 3),
        (KNEE, 2),
        (order("energy"), 0),
        (order("energy", "latency", tolerance=1.0), 1),
        (order("latency", "energy", tolerance=0.0), 3),
        (order("latency", "underutilisation", "energy", tolerance=1.0), 3),
    ],
)
def test_each_method_chooses_its_point(objective: Objective, index: int) -> None:
    assert select(FRONT, objective).index == index


def test_a_runner_up_is_named_unless_there_is_none() -> None:
    assert select(FRONT, weights(1, 0, 0)).runner_up == 1
    assert select(FRONT[:1], weights(1, 0, 0)).runner_up is None
    assert select(FRONT, order("energy", "latency", tolerance=1.0)).runner_up == 0
    assert select(FRONT[:1], order("energy")).runner_up is None


@pytest.mark.parametrize(
    ("constraints", "index"),
    [
        (Constraints(deadline_s=4.0), 1),
        (Constraints(deadline_s=3.0), 2),
        (Constraints(deadline_s=3.0, power_cap_w=2.0), 2),
        (Constraints(power_cap_w=0.2), 0),
        (Constraints(energy_cap_j=1.5), 0),
        (Constraints(temperature_cap_c=60.0), 2),
        (Constraints(quality_floor=0.75), 3),
    ],
)
def test_constraints_leave_the_best_admissible_point(constraints: Constraints, index: int) -> None:
    found = select(FRONT, weights(1, 0, 0), constraints, temperature_c=[80, 70, 60, 50], quality=[0.5, 0.6, 0.7, 0.8])

    assert found.index == index


def test_the_binding_constraint_and_its_smallest_relaxation_are_named() -> None:
    with pytest.raises(PlacementError, match=r"no placement keeps deadline_s 0.5 s; 1 s would admit one"):
        select(FRONT, KNEE, Constraints(deadline_s=0.5))
    with pytest.raises(PlacementError, match=r"deadline_s 1.5 s; 2 s would admit one") as raised:
        select(FRONT, KNEE, Constraints(deadline_s=1.5, power_cap_w=2.0))
    assert raised.value.context["relaxed"] == 2.0
    with pytest.raises(PlacementError, match=r"quality_floor 0.9; 0.8 would admit one"):
        select(FRONT, KNEE, Constraints(quality_floor=0.9), quality=[0.5, 0.6, 0.7, 0.8])
    with pytest.raises(
        PlacementError, match=r"deadline_s 0\.1 s and power_cap_w 0\.05 W together; 4 s and 0\.5 W would admit one"
    ) as raised:
        select(FRONT, KNEE, Constraints(deadline_s=0.1, power_cap_w=0.05))
    assert raised.value.context["relaxations"] == {"deadline_s": 4.0, "power_cap_w": 0.5}


def refused(points: np.ndarray, limits: Constraints, values: dict[str, list[float]]) -> PlacementError | None:
    try:
        select(points, KNEE, limits, **values)
    except PlacementError as error:
        return error
    return None


VALUES = st.floats(0.01, 1e4)


@settings(deadline=None, max_examples=200)
@given(data=st.data(), count=st.integers(1, 8))
def test_the_values_that_would_admit_a_point_do_and_a_hair_less_does_not(data: st.DataObject, count: int) -> None:
    points = np.array([data.draw(st.tuples(VALUES, VALUES, st.floats(0.0, 1.0))) for _ in range(count)])
    given_ = {
        name: data.draw(st.lists(VALUES, min_size=count, max_size=count)) for name in ("temperature_c", "quality")
    }
    names = ("deadline_s", "power_cap_w", "energy_cap_j", "temperature_cap_c", "quality_floor")
    limits = Constraints(**{name: data.draw(st.none() | VALUES) for name in names})
    error = refused(points, limits, given_)
    if error is None:
        return
    relaxed = error.context["relaxations"]
    assert all(f"{value:.6g}" in error.message for value in relaxed.values())
    assert select(points, KNEE, replace(limits, **relaxed), **given_).index is not None
    for name, value in relaxed.items():
        hair = value * (1.0 + 2e-5 if name == "quality_floor" else 1.0 - 2e-5)
        with pytest.raises(PlacementError):
            select(points, KNEE, replace(limits, **{**relaxed, name: hair}), **given_)


def incumbent(objectives: tuple[float, float, float], **changes: float) -> Incumbent:
    return Incumbent(objectives, **changes)


@pytest.mark.parametrize("objective", [weights(1, 1, 1), KNEE, order("energy", "latency")])
def test_the_incumbent_stays_against_a_near_equal(objective: Objective) -> None:
    best = select(FRONT, objective).index
    assert best is not None
    near = tuple(FRONT[best] * 1.005)

    assert select(FRONT, objective, incumbent=incumbent(near)).index is None  # type: ignore[arg-type]
    assert select(FRONT, objective, incumbent=incumbent(near)).runner_up == best  # type: ignore[arg-type]


@pytest.mark.parametrize("objective", [weights(1, 1, 1), KNEE, order("energy", "latency")])
def test_the_incumbent_goes_when_something_is_clearly_better(objective: Objective) -> None:
    assert select(FRONT, objective, incumbent=incumbent((20.0, 20.0, 0.95))).index is not None


def test_no_flapping_when_costs_wobble() -> None:
    rng = np.random.default_rng(1)
    now = select(FRONT, KNEE).index
    changes = 0
    for _ in range(200):
        front = FRONT * rng.uniform(0.995, 1.005, FRONT.shape)
        choice = select(front, KNEE, incumbent=incumbent(tuple(front[now])))
        if choice.index is not None:
            changes, now = changes + 1, choice.index
    assert changes == 0


def test_a_switch_cost_keeps_what_hysteresis_alone_would_not() -> None:
    here = (2.5, 4.0, 0.8)
    objective = weights(1, 0, 0)

    assert select(FRONT, objective, incumbent=incumbent(here)).index == 0
    assert select(FRONT, objective, incumbent=incumbent(here, switch_energy_j=1.5)).index is None


def test_an_incumbent_that_breaks_a_constraint_goes_even_for_a_worse_score() -> None:
    found = select(FRONT, weights(1, 0, 0), Constraints(deadline_s=1.0), incumbent((0.1, 5.0, 0.1)))

    assert found.index == 3


def test_an_incumbent_that_alone_keeps_the_constraints_stays() -> None:
    kept = incumbent((5.0, 0.5, 0.5))

    assert select(FRONT, KNEE, Constraints(deadline_s=0.6), kept).index is None
    assert select(FRONT, order("energy"), Constraints(deadline_s=0.6), kept) == Choice(
        None, None, None, "stays: no other keeps the constraints"
    )


def test_an_incumbent_of_unknown_heat_or_quality_does_not_keep_their_limits() -> None:
    good = (0.1, 0.1, 0.1)
    hot, dull = Constraints(temperature_cap_c=90.0), Constraints(quality_floor=0.1)

    assert select(FRONT, KNEE, hot, incumbent(good), temperature_c=[50.0] * 4).index is not None
    assert select(FRONT, KNEE, hot, incumbent(good, temperature_c=50.0), temperature_c=[50.0] * 4).index is None
    assert select(FRONT, KNEE, dull, incumbent(good), quality=[0.5] * 4).index is not None
    assert select(FRONT, KNEE, dull, incumbent(good, quality=0.5), quality=[0.5] * 4).index is None


def test_lexicographic_incumbent_that_is_better_where_it_counts_stays() -> None:
    found = select(FRONT, order("energy", "latency"), incumbent=incumbent((0.5, 99.0, 0.9)))

    assert found.why == "stays: better in the objective that decides"


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ValueError, match="the front is empty"):
        select(np.zeros((0, 3)), KNEE)
    with pytest.raises(ValueError, match="temperature_cap_c needs temperature_c: one number for each of the 4 points"):
        select(FRONT, KNEE, Constraints(temperature_cap_c=60.0))
    with pytest.raises(ValueError, match="quality_floor needs quality"):
        select(FRONT, KNEE, Constraints(quality_floor=0.5), quality=[0.1])
