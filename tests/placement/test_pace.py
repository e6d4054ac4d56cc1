"""Pipelined period: busiest unit of a placement, and pipelines that use every unit for one run of stages."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.placement.pace import MAX_UNITS, pace_of, pipelines
from agent.placement.problem import Problem
from agent.placement.state import State
from agent.placement.tables import make_tables
from tests.placement.problems import random_problem
from tests.placement.test_costing import board, load, quantity, stage, unit
from tests.service.world import POLICY


def plain(problem: Problem, silicon: tuple[str, ...] = ()):
    names = silicon or problem.accelerators
    domains = tuple(str(d) for d in problem.domain)
    return pace_of(problem.latency, problem.transfer_latency, names, domains, np.zeros(problem.latency.shape, bool))


def test_the_period_is_that_of_the_busiest_silicon_and_a_crossing_keeps_the_receiver():
    problem = random_problem(1, 3, 2)
    pace, t, x = plain(problem), problem.latency, problem.transfer_latency
    row = [0, 1, 1]
    expected = max(t[0, 0], x[0, 0, 1] + t[1, 1] + x[1, 1, 1] + t[2, 1])
    assert pace.period_s(row)[0] == pytest.approx(expected)
    assert pace.period_s([row, [0, 0, 0]]).shape == (2,)


def test_two_accelerators_of_one_silicon_take_turns():
    problem = random_problem(2, 4, 2)
    rows = [[0, 1, 0, 1], [0, 0, 1, 1]]
    assert plain(problem, ("chip", "chip")).period_s(rows) == pytest.approx(problem.objectives(rows)[:, 1])


def test_stages_bound_by_one_memory_take_turns_and_others_do_not():
    profile = board(unit("gpu"), unit("npu"))
    bound, free = stage("m", flops=1, weight=5e6), stage("c", flops=1e9, weight=0, activations=1)
    for stages, shared in ((bound, True), (free, False)):
        pair = [stages.model_copy(update={"name": name}) for name in "ab"]
        tables = make_tables(load(*pair), profile, POLICY)
        assert shared == any("take turns" in note for note in tables.notes)
        latency = tables.problem.latency
        period = tables.pace.period_s([0, 1])[0]
        assert period >= latency.max() if shared else period < latency[:, 0].sum()
        assert shared == (period >= latency[0, 0] + latency[1, 1] - 1e-12)


def test_waiting_work_delays_a_request_but_not_a_stream_of_them():
    profile = board(unit("gpu"), unit("npu"))
    workload = load(stage("a"), stage("b"))
    free, busy = (make_tables(workload, profile, POLICY, state=s) for s in (None, State(queue_s={"gpu": 1.0})))
    for row in ([0, 0], [1, 0], [0, 1]):
        assert busy.problem.objectives(row)[0, 1] > free.problem.objectives(row)[0, 1]
        assert busy.pace.period_s(row) == pytest.approx(free.pace.period_s(row))


def is_pipeline(row: list[int]) -> bool:
    runs = [at for at, before in zip(row, [None, *row], strict=False) if at != before]
    return len(runs) == len(set(runs))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(((1, 1), (4, 2), (4, 3), (5, 3))))
def test_pipelines_are_what_they_say_and_none_is_cheaper_at_its_period(seed, size):
    problem = random_problem(seed, *size, room=9.0)
    pace = plain(problem)
    rows = pipelines(problem, pace, problem.accelerators)
    every = np.array([r for r in product(range(size[1]), repeat=size[0]) if is_pipeline(list(r))])
    every = every[problem.feasible(every)]
    periods, joules = pace.period_s(every), problem.objectives(every)[:, 0]
    assert bool(len(rows)) == bool(len(every))
    for row in rows:
        assert is_pipeline(row.tolist())
        limit = pace.period_s(row)[0]
        assert problem.objectives(row)[0, 0] <= joules[periods <= limit].min() * (1 + 1e-12)


def test_nothing_is_sought_over_too_many_units_or_where_nothing_takes_time():
    many = random_problem(3, 2, MAX_UNITS + 1)
    assert len(pipelines(many, plain(many), many.accelerators)) == 0
    still = random_problem(3, 2, 2)
    idle = Problem(**{**{k: v for k, v in still.arrays().items() if k != "latency"}, "latency": np.zeros((2, 2))})
    assert len(pipelines(idle, plain(idle), idle.accelerators)) == 0


def test_a_pipeline_over_two_units_beats_either_alone():
    profile = board(unit("gpu"), unit("npu", base_power_w=quantity(2.0)))
    tables = make_tables(load(*(stage(str(i), flops=1e9, weight=0, activations=1) for i in range(6))), profile, POLICY)
    rows = pipelines(tables.problem, tables.pace, tables.silicon)
    alone = tables.pace.period_s([[0] * 6, [1] * 6]).min()
    assert tables.pace.period_s(rows).min() < 0.6 * alone


def test_pipelines_that_do_not_fit_in_memory_are_none():
    problem = random_problem(5, 3, 2, room=9.0)
    full = Problem(**{**problem.arrays(), "capacity": np.zeros(2)})
    assert pipelines(full, plain(full), full.accelerators).shape == (0, 3)
