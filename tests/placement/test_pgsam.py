from __future__ import annotations

import numpy as np
import pytest

from agent.placement.pgsam import KINDS, Search
from agent.placement.solve import solve
from agent.placement.tuning import Ablation, Tuning
from tests.placement.clocks import Countdown
from tests.placement.problems import random_problem


@pytest.mark.parametrize("name", Ablation.__dataclass_fields__)
@pytest.mark.parametrize("stages", [2, 12])
def test_each_ingredient_can_be_left_out(name: str, stages: int) -> None:
    problem = random_problem(8, stages, 3, room=0.9)

    found = solve(problem, evaluations=4000 * stages, ablation=Ablation(**{name: False}), certify=False)

    assert problem.feasible(found.assignments()).all()


def test_bases_of_every_turn_come_from_the_archive_when_nothing_anneals_and_from_chains_without_guidance() -> None:
    problem = random_problem(8, 12, 3)
    guided = Search(problem, 1, Ablation(annealing=False))
    blind = Search(problem, 1, Ablation(guidance=False))

    for search in (guided, blind):
        for turn in range(5):
            search.step(turn / 5)

    assert guided.archive.visits.sum() > 0
    assert blind.archive.visits.sum() == 0


def test_a_small_survivor_bound_still_fills_the_archive() -> None:
    problem = random_problem(8, 20, 3)

    assert len(Search(problem, 1, tuning=Tuning(survivors=5)).archive) > 0
    assert len(solve(problem, evaluations=100_000, tuning=Tuning(survivors=5), certify=False).front) > 10


def test_a_turn_without_any_move_does_nothing() -> None:
    search = Search(random_problem(8, 12, 3, room=9.0), 1, Ablation(annealing=False, macro=False), Tuning(exchanged=1))

    for _ in range(20):
        search.step(0.5)

    assert search.evaluations > 0


def test_survivors_beyond_the_bound_are_thinned_not_lost() -> None:
    problem = random_problem(8, 40, 4, room=9.0)
    search = Search(problem, 1, tuning=Tuning(survivors=5, seed_weights=10))
    before = len(search.archive)

    for turn in range(10):
        search.step(turn / 10)

    assert before < len(search.archive) <= before + 50


def test_a_search_without_anything_feasible_keeps_walking_with_an_empty_archive() -> None:
    search = Search(random_problem(8, 12, 3, room=0.01), 1)

    for turn in range(10):
        search.step(turn / 10)

    assert len(search.archive) == 0
    assert search.evaluations > 10_000


def test_the_extremes_are_explored_every_time_however_often_they_were() -> None:
    search = Search(random_problem(8, 40, 4, room=9.0), 1)
    for turn in range(5):
        search.step(turn / 5)
    extremes = set(search.archive.points.argmin(axis=0).tolist())
    search.archive.visits[list(extremes)] = 1_000

    assert extremes <= set(search._members(40).tolist())
    assert len(search._members(1)) == 1


def test_aim_explores_what_is_best_for_some_weights_and_moves_on_from_what_was_explored() -> None:
    search = Search(random_problem(8, 40, 4, room=9.0), 1)
    for turn in range(5):
        search.step(turn / 5)
    archive = search.archive
    archive.visits[:] = 0

    first = search._members(200)
    archive.visits[first] += 1
    second = search._members(200)

    scaled = (archive.points - archive.low) / archive.span
    assert scaled[first].min(axis=0).max() < 0.05
    assert scaled[first].max(axis=1).min() <= np.quantile(scaled.max(axis=1), 0.01)
    assert len(set(first) & set(second)) < 0.1 * len(first)


def test_the_first_bases_are_shortest_paths_that_overfill_memory_a_little() -> None:
    problem = random_problem(9, 30, 3, room=0.6)
    search = Search(problem, 1)
    queue = search._queue

    bases, guided = search._bases()

    assert 0 < len(queue) <= search.tuning.guided
    assert not problem.feasible(queue).any()
    assert guided == len(queue)
    assert (bases[:guided] == queue).all()
    assert len(search._queue) == 0
    assert len(Search(problem, 1, Ablation(relaxed=False))._queue) == 0


def test_hot_chains_walk_elsewhere_than_cold_ones() -> None:
    problem = random_problem(8, 20, 3, room=9.0)
    hot, cold = (Search(problem, 1, tuning=Tuning(hottest=heat, coldest=heat)) for heat in (1e6, 1e-9))

    for search in (hot, cold):
        search.step(0.0)

    assert not np.array_equal(hot._chains, cold._chains)


def test_starting_points_stop_when_told_and_keep_what_they_met() -> None:
    problem = random_problem(5, 40, 4, room=9.0)
    none, some, every = (Search(problem, 1, stop=Countdown(looks)) for looks in (0, 2, 10**9))

    assert 0 < none.evaluations < some.evaluations < every.evaluations
    assert len(none.archive) > 0


def test_large_problems_get_small_turns() -> None:
    problem = random_problem(5, 60, 8, room=0.9)
    tuning = Tuning(turn_cells=60 * 4 * 3, archive_cells=60, seed_effort=1)
    search = Search(problem, 1, tuning=tuning)
    plain = Search(problem, 1)
    before = search.evaluations
    for _ in range(30):
        search.step(0.5)
        plain.step(0.5)

    assert before < search.evaluations < plain.evaluations / 4
    assert search.effort > 0
    assert search.archive.limit == 500
    assert problem.feasible(search.archive.assignments).all()


def test_a_trade_keeps_how_many_stages_each_accelerator_has_where_lengths_agree() -> None:
    problem = random_problem(8, 12, 3, room=0.6)
    search = Search(problem, 1)
    bases, _ = search._bases()

    scored = search._score(KINDS.index("trade"), bases)
    children = scored.build(np.arange(scored.children.size))

    assert problem.allowed[np.arange(12), children.astype(int)].all()
    changed = (children[:, None, :] != bases[np.arange(len(children)) % len(bases)][:, None, :]).sum(axis=2).max(axis=1)
    kept = [
        np.array_equal(np.bincount(child, minlength=3), np.bincount(bases[at % len(bases)], minlength=3))
        for at, child in enumerate(children)
    ]
    assert changed.max() >= 2
    assert any(kept[at] and changed[at] >= 2 for at in range(len(children)))


def test_only_where_memory_binds_is_there_anything_to_trade() -> None:
    assert Search(random_problem(8, 12, 3, room=0.6), 1)._may_trade
    assert not Search(random_problem(8, 12, 3, room=9.0), 1)._may_trade
    assert not Search(random_problem(8, 12, 3, room=0.6), 1, Ablation(trade=False))._may_trade
