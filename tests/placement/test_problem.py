from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.placement.baselines import random_rows
from agent.placement.problem import Problem
from tests.placement.problems import problems, random_problem


def tables(stages: int = 3, accelerators: int = 2) -> dict[str, Any]:
    shape, links = (stages, accelerators), (stages - 1, accelerators, accelerators)
    return {
        "latency": np.full(shape, 2.0),
        "energy": np.full(shape, 3.0),
        "busy_util_num": np.full(shape, 0.5),
        "busy_den": np.full(shape, 2.0),
        "transfer_latency": np.full(links, 0.25),
        "transfer_energy": np.full(links, 0.125),
        "memory": np.full(shape, 10.0),
        "capacity": np.full(accelerators, 25.0),
        "allowed": np.ones(shape, dtype=bool),
    }


def test_objectives_add_stages_and_transfers_and_leave_transfers_out_of_utilisation() -> None:
    problem = Problem.from_arrays(tables())

    assert problem.objectives([0, 1, 1]).tolist() == [[9.25, 6.5, 0.75]]
    assert problem.memory_used([0, 1, 1]).tolist() == [[10.0, 20.0]]
    assert problem.feasible([[0, 1, 1], [0, 0, 0]]).tolist() == [True, False]


def test_accelerators_that_share_a_domain_share_its_capacity() -> None:
    shared = tables() | {"memory_domain": np.array([0, 0]), "capacity": np.array([29.0])}

    assert not Problem.from_arrays(shared).feasible([0, 1, 1])[0]
    assert Problem.from_arrays(shared | {"capacity": np.array([30.0])}).feasible([0, 1, 1])[0]


def test_a_forbidden_pair_is_infeasible_and_its_cells_are_never_read() -> None:
    arrays = tables()
    arrays["allowed"][1, 0] = False
    arrays["latency"][1, 0] = np.nan
    arrays["transfer_energy"][0, 0, 0] = np.inf

    problem = Problem.from_arrays(arrays)

    assert problem.feasible([[1, 0, 1], [0, 1, 1]]).tolist() == [False, True]


@settings(deadline=None, max_examples=60)
@given(problem=problems(), seed=st.integers(0, 2**32 - 1))
def test_sums_are_exact(problem: Problem, seed: int) -> None:
    row = random_rows(problem.allowed, np.random.default_rng(seed), 1)
    stages = range(problem.stage_count)
    exact = [
        sum((Fraction(float(table[s, row[0, s]])) for s in stages), Fraction(0))
        for table in (problem.energy, problem.latency, problem.busy_util_num, problem.busy_den)
    ]
    for at, link in enumerate((problem.transfer_energy, problem.transfer_latency)):
        exact[at] += sum((Fraction(float(link[s, row[0, s], row[0, s + 1]])) for s in list(stages)[:-1]), Fraction(0))

    assert [Fraction(float(value)) for value in problem.sums(row)[:, 0]] == exact


def test_tables_on_the_fine_grid_are_unchanged_and_small_values_survive() -> None:
    arrays = tables()
    arrays["latency"] = np.array([[2.0**-36, 1.0], [1e-9, 2.0], [1e-6, 3.0]])
    problem = Problem.from_arrays(arrays)

    assert problem.latency[0, 0] == 2.0**-36
    assert problem.latency[1, 0] == pytest.approx(1e-9, rel=1e-5)
    assert Problem.from_arrays(problem.arrays()).latency.tobytes() == problem.latency.tobytes()


def test_a_tiny_busy_time_does_not_vanish() -> None:
    arrays = tables(1, 2)
    arrays["busy_den"] = np.array([[1e-30, 1e6]])
    arrays["busy_util_num"] = np.array([[0.0, 0.0]])

    assert Problem.from_arrays(arrays).objectives([0]).tolist() == [[3.0, 2.0, 1.0]]


def test_memory_that_fits_on_the_grid_fits_in_truth() -> None:
    arrays = tables(2, 1) | {"memory": np.array([[0.1], [1e6]]), "capacity": np.array([np.inf])}
    problem = Problem.from_arrays(arrays)
    tight = Problem.from_arrays(arrays | {"capacity": np.array([1e6 + 0.1 - 1e-9])})

    assert problem.memory[0, 0] > 0.1
    assert problem.feasible([0, 0])[0]
    assert not tight.feasible([0, 0])[0]


@pytest.mark.parametrize("far", [1e18, 1e24, 1e30])
def test_a_cell_that_fits_nowhere_leaves_the_others_as_they_are(far: float) -> None:
    arrays = tables(3, 2) | {"memory": np.array([[3.0, far], [2.0, 2.0], [5.0, 1.0]]), "capacity": np.array([8.0, 3.0])}
    problem = Problem.from_arrays(arrays)

    assert problem.feasible([0, 1, 0])[0]
    assert not problem.feasible([1, 0, 0])[0]
    assert not problem.feasible([0, 0, 0])[0]


def test_what_fills_a_capacity_to_the_last_digit_fits() -> None:
    arrays = tables(3, 1) | {"memory": np.array([[0.1], [0.2], [0.3]]), "capacity": np.array([0.6])}

    assert Problem.from_arrays(arrays).feasible([0, 0, 0])[0]
    assert not Problem.from_arrays(arrays | {"capacity": np.array([0.6 - 1e-9])}).feasible([0, 0, 0])[0]


def test_zero_cost_tables_are_accepted() -> None:
    arrays = tables() | {"transfer_latency": np.zeros((2, 2, 2)), "memory": np.zeros((3, 2)), "capacity": np.zeros(2)}

    assert Problem.from_arrays(arrays).feasible([0, 1, 0])[0]


def test_tables_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        random_problem(1, 3, 2).latency[0, 0] = 1.0


def broken(name: str, value: Any) -> dict[str, Any]:
    return tables() | {name: value}


def with_cell(name: str, index: tuple[int, ...], value: float) -> dict[str, Any]:
    arrays = tables()
    arrays[name][index] = value
    return arrays


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (with_cell("latency", (1, 0), np.nan), r"latency\[1, 0\] is nan, expected a finite number >= 0"),
        (with_cell("energy", (2, 1), -1.0), r"energy\[2, 1\] is -1,"),
        (with_cell("transfer_energy", (1, 0, 1), np.inf), r"transfer_energy\[1, 0, 1\] is inf"),
        (with_cell("capacity", (1,), np.nan), r"capacity\[1\] is nan"),
        (with_cell("capacity", (1,), -1.0), r"capacity\[1\] is -1"),
        (with_cell("busy_util_num", (0, 1), 2.5), r"busy_util_num\[0, 1\] is 2.5, above busy_den 2"),
        (broken("memory", np.ones((2, 2))), r"memory: shape \(2, 2\), expected \(3, 2\)"),
        (broken("transfer_latency", np.ones((3, 2, 2))), r"transfer_latency: shape \(3, 2, 2\), expected \(2, 2, 2\)"),
        (broken("latency", np.ones((3, 3))), r"latency: shape \(3, 3\), expected \(3, 2\) like energy, busy_util_num"),
        (broken("latency", np.ones(3)), r"latency: shape \(3,\), expected \(stages, accelerators\)"),
        (broken("latency", np.ones((5000, 2))), r"exceeds 4096 stages"),
        (broken("energy", np.full((3, 2), "x")), r"energy: type <U1, expected numbers"),
        (broken("capacity", np.ones(3)), r"capacity: shape \(3,\), expected \(2,\)"),
        (broken("allowed", np.ones((3, 1), dtype=bool)), r"allowed: shape \(3, 1\), expected \(3, 2\)"),
        (broken("allowed", np.full((3, 2), 2)), r"allowed\[0, 0\] is 2, expected true or false"),
        (with_cell("allowed", (1,), False), r"allowed\[1, :\] is false everywhere"),
        (broken("busy_den", np.zeros((3, 2))) | {"busy_util_num": np.zeros((3, 2))}, r"busy_den\[0, :\] is 0"),
        (broken("memory_domain", np.array([0.0, 1.0])), r"memory_domain: shape \(2,\) of float64"),
        (broken("memory_domain", np.array([0, 2])), r"memory_domain\[1\] is 2, expected 0..1"),
    ],
)
def test_a_wrong_table_is_named_with_its_index(arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Problem.from_arrays(arrays)


def test_a_missing_array_is_named() -> None:
    arrays = tables()
    del arrays["memory"]

    with pytest.raises(ValueError, match="array 'memory' is missing"):
        Problem.from_arrays(arrays)


def test_numbers_0_and_1_serve_as_permissions() -> None:
    assert Problem.from_arrays(tables() | {"allowed": np.array([[1, 0]] * 3)}).allowed.tolist() == [[True, False]] * 3


def test_names_must_be_as_many_and_different() -> None:
    assert Problem.from_arrays(tables(), accelerators=("cpu", "npu")).accelerators == ("cpu", "npu")
    with pytest.raises(ValueError, match="accelerators: 2 names"):
        Problem.from_arrays(tables(), accelerators=("cpu", "cpu"))
    with pytest.raises(ValueError, match="stages: 1 names, expected 3"):
        Problem.from_arrays(tables(), stages=("a",))
