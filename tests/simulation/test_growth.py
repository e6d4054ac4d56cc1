"""How a pass grows with its weights: the law that made the figures, and the reason where there is none."""

from __future__ import annotations

import pytest

from agent.schema.scenario import ScenarioWorkload
from agent.schema.workload import Stage, Workload
from agent.simulation.cases import Case
from agent.simulation.comparison import BoardResult, CaseResult
from agent.simulation.growth import growth
from agent.simulation.request import Cost
from tests.simulation.board import board


def result(sizes: list[float], costs: list[tuple[float, float]]) -> BoardResult:
    cases = []
    for at, (size, (energy_j, latency_s)) in enumerate(zip(sizes, costs, strict=True)):
        stage = Stage(
            name="s", work=(), weight_bytes=size, activation_bytes=0.0, input_bytes=0.0, output_bytes=0.0, nodes=1
        )
        passes = (Workload(model=f"m{at}", format="catalogue", phase="decode", stages=(stage,)),)
        case = Case(f"m{at}", ScenarioWorkload(model=f"m{at}", phases=("forward",)), passes)
        cases.append(CaseResult(case, (), {("decode", "pgsam"): Cost(energy_j, latency_s)}, {}))
    return BoardResult(board(), tuple(cases))


SIZES = [1e8, 3e8, 1e9, 4e9, 1.6e10]


def test_the_exponents_that_made_the_figures_come_back():
    made = result(SIZES, [(2e-9 * w, 1e-6 * w**0.5) for w in SIZES])

    energy, latency = growth(made, ("pgsam", "greedy"))

    assert (energy.phase, energy.placement, energy.quantity, energy.models) == ("decode", "pgsam", "energy", 5)
    assert energy.exponent == pytest.approx(1.0)
    assert energy.at_reference == pytest.approx(2.0)
    assert energy.unsupported_because is None
    assert latency.exponent == pytest.approx(0.5)
    assert latency.r_squared == pytest.approx(1.0)
    assert latency.low is not None
    assert latency.high is not None
    assert latency.low <= 0.5 + 1e-9
    assert latency.high >= 0.5 - 1e-9


def test_figures_that_follow_no_law_say_why():
    energy, _ = growth(result(SIZES, [(1.0, 1.0), (9.0, 1.0), (0.5, 2.0), (7.0, 1.0), (1.0, 2.0)]), ("pgsam",))

    assert energy.unsupported_because is not None


def test_models_of_one_size_have_no_exponent():
    energy, _ = growth(result([1e9] * 4, [(1.0, 1.0)] * 4), ("pgsam",))

    assert energy.exponent is None
    assert energy.unsupported_because is not None


def test_a_figure_of_nothing_has_no_logarithm():
    energy, _ = growth(result([0.0, *SIZES[1:]], [(1.0, 1.0)] * 5), ("pgsam",))

    assert energy.unsupported_because == "a figure of 0"


def test_two_models_make_no_law():
    assert growth(result(SIZES[:2], [(1.0, 1.0)] * 2), ("pgsam",)) == ()
