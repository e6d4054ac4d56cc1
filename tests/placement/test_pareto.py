from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent.placement.cover import CoverIndex
from agent.placement.pareto import Archive, dominates, hypervolume, nondominated, normalised_hypervolume

# Few different values make ties, which is where dominance goes wrong.
clouds = st.integers(0, 2**32 - 1).flatmap(
    lambda seed: st.tuples(st.integers(1, 150), st.sampled_from((4, 12, 10_000))).map(
        lambda size: np.random.default_rng(seed).integers(0, size[1], (size[0], 3)) / size[1]
    )
)


def front_of(points: np.ndarray) -> set[tuple[float, ...]]:
    rows = np.unique(points, axis=0)
    below = (rows[:, None, :] <= rows[None, :, :]).all(axis=2) & ~np.eye(len(rows), dtype=bool)
    return {tuple(row) for row in rows[~below.any(axis=0)].tolist()}


def test_dominates_needs_one_strictly_better() -> None:
    assert dominates([1, 2, 3], [1, 2, 4])
    assert not dominates([1, 2, 3], [1, 2, 3])
    assert not dominates([1, 2, 3], [0, 9, 9])


@settings(deadline=None, max_examples=60)
@given(points=clouds)
def test_nondominated_keeps_one_of_each_front_point(points: np.ndarray) -> None:
    kept = points[nondominated(points)]

    assert len(kept) == len(front_of(points))
    assert {tuple(row) for row in kept.tolist()} == front_of(points)
    assert kept.tolist() == sorted(kept.tolist())


@settings(deadline=None, max_examples=60)
@given(points=clouds, extra=hnp.arrays(np.int64, st.tuples(st.integers(1, 150)), elements=st.integers(0, 3)))
def test_nondominated_handles_more_than_three_columns(points: np.ndarray, extra: np.ndarray) -> None:
    rows = np.column_stack([points, np.resize(extra, len(points)).astype(float)])

    assert {tuple(row) for row in rows[nondominated(rows)].tolist()} == front_of(rows)


@settings(deadline=None, max_examples=60)
@given(members=clouds, queries=clouds)
def test_cover_index_equals_comparing_all_pairs(members: np.ndarray, queries: np.ndarray) -> None:
    pairs = (members[:, None, :] <= queries[None, :, :]).all(axis=2)

    assert CoverIndex(members).covers(queries).tolist() == pairs.any(axis=0).tolist()


@settings(deadline=None, max_examples=60)
@given(points=clouds)
def test_hypervolume_equals_counting_cells(points: np.ndarray) -> None:
    cells = np.round(points[:40] * 4).clip(0, 4)
    grid = np.stack(np.meshgrid(*[np.arange(5)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    covered = (cells[:, None, :] <= grid[None, :, :]).all(axis=2).any(axis=0).sum()

    assert hypervolume(cells, [5.0, 5.0, 5.0]) == pytest.approx(float(covered))


def test_points_beyond_the_reference_add_nothing() -> None:
    assert hypervolume([[0.0, 0.0, 2.0], [1.0, 0.0, 0.0]], [1.0, 1.0, 1.0]) == 0.0
    assert hypervolume(np.zeros((0, 3)), [1.0, 1.0, 1.0]) == 0.0


def test_normalised_hypervolume_maps_ideal_and_nadir() -> None:
    front = [[1.0, 30.0, 0.5], [2.0, 10.0, 0.5]]

    assert normalised_hypervolume(front, front) == pytest.approx(1.1 * (0.1 * 1.1 + 1.1 * 0.1 - 0.1 * 0.1))


@settings(deadline=None, max_examples=60)
@given(parts=st.lists(clouds, min_size=1, max_size=4))
def test_archive_holds_the_front_of_all_it_was_offered(parts: list[np.ndarray]) -> None:
    archive = Archive(2, limit=10_000)
    for part in parts:
        rows = (part[:, :2] * 100).astype(np.int8)
        fresh = archive.may_enter(part[:, 0], part[:, 1], part[:, 2])
        archive.merge(part[fresh], rows[fresh])

    everything = np.concatenate(parts)
    assert {tuple(row) for row in archive.points.tolist()} == front_of(everything)
    assert archive.points.tolist() == sorted(archive.points.tolist())
    assert (archive.assignments == (archive.points[:, :2] * 100).astype(np.int8)).all()


def test_what_is_better_than_every_member_in_one_objective_passes_the_filter() -> None:
    archive = Archive(1, limit=10)
    archive.merge(np.array([[1.0, 1.0, 1.0], [2.0, 0.5, 0.9]]), np.zeros((2, 1), dtype=np.int8))
    beyond = np.array([[0.999999, 9.0, 9.0], [9.0, 0.499999, 9.0], [9.0, 9.0, 0.89], [2.5, 1.5, 1.5]])

    assert archive.may_enter(*beyond.T).tolist() == [True, True, True, False]


def test_a_full_archive_keeps_extremes_and_drops_crowded_members() -> None:
    archive = Archive(1, limit=20)
    crowd = np.linspace(0.5, 0.5001, 60)
    spread = np.linspace(0.0, 1.0, 10)
    first = np.concatenate([crowd, spread])
    points = np.stack([first, 1.0 - first, np.zeros_like(first)], axis=1)

    archive.merge(points, np.zeros((len(points), 1), dtype=np.int8))

    assert len(archive) == 20
    assert archive.dropped == 50
    assert {0.0, 0.111111, 0.888889, 1.0} <= set(archive.points[:, 0].round(6))


def test_visits_stay_with_their_member() -> None:
    archive = Archive(1, limit=10)
    archive.merge(np.array([[1.0, 1.0, 1.0]]), np.zeros((1, 1), dtype=np.int8))
    archive.visits[0] = 7

    archive.merge(np.array([[0.5, 2.0, 1.0]]), np.zeros((1, 1), dtype=np.int8))

    assert archive.visits.tolist() == [0, 7]


def test_offering_only_dominated_points_changes_nothing() -> None:
    archive = Archive(1, limit=10)
    archive.merge(np.array([[1.0, 1.0, 1.0]]), np.zeros((1, 1), dtype=np.int8))

    assert archive.merge(np.array([[1.0, 1.0, 1.0], [2.0, 1.0, 1.0]]), np.ones((2, 1), dtype=np.int8)) == 0
    assert archive.assignments.tolist() == [[0]]


@settings(deadline=None, max_examples=40)
@given(parts=st.lists(clouds, min_size=2, max_size=12))
def test_members_keep_their_assignments_while_the_pool_is_packed(parts: list[np.ndarray]) -> None:
    archive = Archive(2, limit=30)
    for part in parts:
        archive.merge(part, (part[:, :2] * 100).astype(np.int8))

        assert (archive.assignments == (archive.points[:, :2] * 100).astype(np.int8)).all()
        members = np.arange(len(archive))[::2]
        assert (archive.rows(members) == archive.assignments[members]).all()
