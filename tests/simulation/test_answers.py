"""Published answers at a power: pass@k as published, watts as modelled, and forms that make no sense."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from agent.schema.scenario import PublishedAnswers, Scenario
from agent.simulation.answers import answers
from agent.simulation.comparison import REQUEST

FIGURE = {"pass_at_k": 0.5, "power_w": 60.0, "ipw": 1.0, "placement": "greedy", "source": "a paper"}
SCENARIO = {
    "version": 1, "name": "s", "title": "t", "kind": "placement-comparison", "profiles": ["p"], "policy": "balanced",
    "workloads": [{"model": "m", "prompt_tokens": 8, "generated_tokens": 8}], "baseline": "single:gpu", "seed": 1,
    "placements": ["single:gpu", "greedy"],
}  # fmt: skip


def case(label: str, **joules: float) -> SimpleNamespace:
    costs = {
        (REQUEST, name.replace("_", ":")): SimpleNamespace(energy_j=j, latency_s=2.0) for name, j in joules.items()
    }
    return SimpleNamespace(costs=costs, case=SimpleNamespace(label=label))


def board(*cases: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(profile=SimpleNamespace(name="b"), cases=cases)


def scenario(*figures: dict) -> SimpleNamespace:
    made = tuple(PublishedAnswers.model_validate(figure) for figure in figures)
    return SimpleNamespace(answers=made, placements=("single:gpu", "greedy"), baseline="single:gpu")


def test_power_is_that_of_all_requests_and_answers_are_those_published():
    rows = answers(
        scenario(FIGURE), board(case("a", single_gpu=80.0, greedy=20.0), case("b", single_gpu=120.0, greedy=80.0))
    )
    assert [(r["placement"], r["power_w"], r["models"]) for r in rows] == [("single:gpu", 50.0, 2), ("greedy", 25.0, 2)]
    assert [r["ipw"] for r in rows] == pytest.approx([1.0, 2.0])
    assert [r["times_baseline"] for r in rows] == pytest.approx([1.0, 2.0])


def test_one_workload_is_taken_alone_and_an_unknown_pass_at_k_has_no_ipw():
    figure = {**FIGURE, "pass_at_k": None, "workload": "b"}
    rows = answers(scenario(figure), board(case("a", single_gpu=80.0), case("b", single_gpu=120.0)))
    assert [(r["power_w"], r["models"], r["ipw"], r["times_baseline"]) for r in rows] == [
        (60.0, 1, None, 1.0), (None, 0, None, None),
    ]  # fmt: skip


@pytest.mark.parametrize(("change", "why"), [
    ({"placement": "pgsam"}, "answers.0.placement"), ({"workload": "x"}, "none of the workloads' names"),
    ({"pass_at_k": 1.5}, "less than or equal to 1"),
])  # fmt: skip
def test_figures_of_nothing_that_is_compared_are_refused(change, why):
    with pytest.raises(ValidationError, match=why):
        Scenario.model_validate({**SCENARIO, "answers": [{**FIGURE, **change}]})
