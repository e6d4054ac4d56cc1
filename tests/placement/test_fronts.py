"""Fronts over all ways of setting up a board: merging, certificates, losses, and throughput as the goal."""

from __future__ import annotations

import numpy as np
import pytest

from agent.errors import PlacementError
from agent.placement.baselines import brute_force
from agent.placement.fronts import Effort, again, search
from agent.placement.pareto import nondominated
from agent.placement.phases import request_tables
from agent.placement.state import State
from agent.placement.tables import make_tables
from agent.placement.ways import Way, ways
from tests.placement.test_costing import board, load, quantity, stage, unit
from tests.service.world import POLICY

SLOW = {"name": "slow", "clock_share": 0.5}
ECO = {"name": "eco", "clock_share": 0.6}
BOARD = board(
    unit("gpu", voltage_floor_clock_share=0.4, operating_points=[SLOW], power_cap_w=quantity(6.0)),
    unit("npu", base_power_w=quantity(0.5), voltage_floor_clock_share=0.4, operating_points=[ECO],
         peak_flops_per_s={"fp32": quantity(3e9)}),
)  # fmt: skip
WORKLOAD = load(*(stage(str(i), flops=1e8 * (1 + i % 3), weight=1e6 * (1 + i % 2)) for i in range(5)))


def built(state: State | None = None):
    found, _ = ways(BOARD, ["gpu", "npu"])
    return found, [make_tables(WORKLOAD, BOARD, POLICY, state=state, points=w.points) for w in found]


@pytest.mark.parametrize("method", ["pgsam", "exact"])
def test_every_method_finds_the_best_of_every_combination_of_points(method):
    found, tables = built()
    front = search(found, tables, Effort(method))
    every = np.concatenate([brute_force(t.problem).points for t in tables])
    assert front.exact
    best = every[nondominated(every)]
    got = np.array([p.objectives for p in front.points])
    for point in best:  # but for ties that only the rounding of sums tells apart
        assert (got <= point + 1e-9).all(axis=1).any(), point
    for point in got:
        assert np.isclose(best, point, rtol=1e-9, atol=1e-9).all(axis=1).any(), point


def test_no_placement_mixes_points_of_one_silicon():
    found, tables = built()
    front = search(found, tables, Effort())
    assert len({p.way for p in front.points}) > 1
    for point in front.points:
        used = {front.choices[i] for i in point.assignment}
        assert not {"gpu", "gpu@slow"} <= used
        assert not {"npu", "npu@eco"} <= used
        assert used == {found[point.way].label(places[0]) for places in front.places(point)}


def test_without_operating_points_choices_are_the_accelerators():
    tables = make_tables(WORKLOAD, BOARD, POLICY)
    front = search([Way()], [tables], Effort("single:npu"))
    assert front.choices == ("gpu", "npu")
    assert [p.assignment for p in front.points] == [(1,) * 5]
    assert front.points[0].period_s == pytest.approx(tables.pace.period_s([1] * 5)[0])


def test_a_time_budget_is_shared_by_the_combinations():
    asked = []
    found, tables = built()

    def clock() -> float:
        asked.append(len(asked) * 0.01)
        return asked[-1]

    assert search(found, tables, Effort("pgsam", 1, 0.4, clock)).points
    assert len(asked) < 4000


def test_after_a_loss_the_front_is_that_of_the_rest():
    found, tables = built()
    rest = again(search(found, tables, Effort()), found, ["gpu"], Effort())
    lost = State(lost=frozenset({"gpu"}))
    alone = search(found, [make_tables(WORKLOAD, BOARD, POLICY, state=lost, points=w.points) for w in found], Effort())
    assert np.array([p.objectives for p in rest.points]) == pytest.approx(
        np.array([p.objectives for p in alone.points])
    )
    assert all("gpu" not in names for p in rest.points for names in rest.places(p))


def test_a_loss_of_everything_is_said():
    found, tables = built()
    with pytest.raises(PlacementError, match="may run only on gpu, npu"):
        again(search(found, tables, Effort()), found, ["gpu", "npu"], Effort())


def test_one_way_that_fits_is_enough_and_none_is_the_reason_of_the_first():
    found, tables = built()
    full = State(free_bytes={"ram": 0.0})
    none = make_tables(WORKLOAD, BOARD, POLICY, state=full)
    assert search(found[:2], [none, tables[1]], Effort()).points
    with pytest.raises(PlacementError, match="no placement fits"):
        search(found[:2], [none, none], Effort())


def test_an_exact_search_beyond_its_bound_is_no_way_without_a_placement(monkeypatch):
    found, tables = built()

    def beyond(*_args):
        raise PlacementError("too large", labels=9)

    monkeypatch.setattr("agent.placement.fronts.solve", beyond)
    with pytest.raises(PlacementError, match="too large"):
        search(found, tables, Effort("exact"))


def test_throughput_looks_at_periods_and_finds_a_pipeline():
    tables = make_tables(WORKLOAD, BOARD, POLICY)
    latency, throughput = (search([Way()], [tables], Effort(), goal) for goal in ("latency", "throughput"))
    assert throughput.rows("throughput")[:, 1].min() < 0.9 * latency.rows("throughput")[:, 1].max()
    alone = tables.pace.period_s([[0] * 5, [1] * 5]).min()
    assert throughput.rows("throughput")[:, 1].min() < alone
    assert not throughput.exact
    rows = throughput.rows("throughput")
    assert len(nondominated(rows)) == len(rows)
    assert latency.rows()[:, 1] == pytest.approx([p.objectives[1] for p in latency.points])


def test_a_request_of_two_phases_is_searched_like_any_other():
    pair = [load(*WORKLOAD.stages, phase=p, format="catalogue") for p in ("prefill", "decode")]
    made = [make_tables(w, BOARD, POLICY) for w in pair]
    tables = request_tables((pair[0], made[0]), (pair[1], made[1]), 4, BOARD, POLICY)
    for goal in ("latency", "throughput"):
        front = search([Way()], [tables], Effort(), goal)
        assert front.choices == ("gpu", "gpu>npu", "npu>gpu", "npu")
        assert all(len(names) == 2 for p in front.points for names in front.places(p))


def test_under_a_power_cap_a_slower_placement_off_the_front_may_be_the_only_one():
    tables = make_tables(WORKLOAD, BOARD, POLICY)
    free = search([Way()], [tables], Effort())
    assert free.beside == ()
    watts = [p.objectives[0] / p.objectives[1] for p in free.points]
    capped = search([Way()], [tables], Effort(cap_w=min(watts)))
    assert len(capped.pool) > len(capped.points)
    assert all(p.objectives[0] / p.objectives[1] <= min(watts) * (1 + 1e-9) for p in capped.beside)
    assert len(capped.rows()) == len(capped.pool)
