"""The one table over all boards: what is beside what, ratios to the best of the others, and why there is a dash."""

from __future__ import annotations

from typing import Any

import pytest

from agent.cli import simulate
from agent.cli.simulate_table import comparison, print_comparison, print_reasons


def row(placement: str, joules: float | None, seconds: float = 1.0, **changes: Any) -> dict[str, Any]:
    common = {"model": "M", "phase": "prefill", "placement": placement, "feasible": joules is not None}
    if joules is None:
        return {**common, "why_not": "does not fit", **changes}
    return {**common, "energy_j": joules, "latency_s": seconds, "accelerators": [placement[:3]], **changes}


def document(*rows: dict[str, Any]) -> dict[str, Any]:
    made = {"boards": [{"board": "bench", "rows": list(rows)}]}
    return made | {"comparison": comparison(made)}


def test_ratios_are_to_the_best_of_the_others_in_each_quantity():
    (line,) = comparison(document(row("pgsam", 2.0, 3.0), row("greedy", 1.0, 12.0), row("single:gpu", 8.0, 2.0)))
    assert (line["board"], line["model"], line["phase"]) == ("bench", "M", "prefill")
    assert (line["energy_ratio"], line["latency_ratio"], line["product_ratio"]) == (2.0, 1.5, 0.5)
    assert line["placements"]["greedy"] == {"energy_j": 1.0, "latency_s": 12.0, "accelerators": ["gre"]}


@pytest.mark.parametrize("rows", [[row("pgsam", None), row("greedy", 1.0)], [row("pgsam", 1.0), row("greedy", None)]])
def test_there_is_no_ratio_without_both_sides(rows):
    (line,) = comparison(document(*rows))
    assert (line["energy_ratio"], line["latency_ratio"], line["product_ratio"]) == (None, None, None)


def test_the_table_has_every_placement_and_leaves_requests_out(capsys):
    made = document(row("pgsam", 2.0, 0.5), row("single:gpu", 123.4, 1.0), row("pgsam", 9.0, phase="request"))
    print_comparison(made)
    text = capsys.readouterr().out
    assert "pgsam J/ms" in text
    assert "gpu J/ms" in text
    assert "2/500" in text
    assert "123/1000" in text
    assert "×0.02" in text
    assert "request" not in text


def test_a_reason_is_said_once_for_all_it_stands_for(capsys):
    made = document(row("pgsam", 1.0), row("single:npu", None), row("single:npu", None, model="N"),
                    row("single:npu", None, phase="request"))  # fmt: skip
    print_reasons(made)
    text = capsys.readouterr().out
    assert text.count("does not fit") == 1
    assert "M, N" in text
    print_reasons(document(row("pgsam", 1.0)))
    assert capsys.readouterr().out == ""


def test_a_reason_that_differs_by_phase_names_the_phase(capsys):
    rows = [
        row("pgsam", None, phase=phase, why_not=f"{short} short") for phase, short in (("prefill", 2), ("decode", 1))
    ]
    print_reasons(document(*rows, row("pgsam", None, model="N", why_not="2 short")))
    text = capsys.readouterr().out
    assert "M prefill, N" in text
    assert "M decode" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (simulate._share(None), ""), (simulate._share(0.31), " ± 31 %"),
        (simulate._share(1.3), " (to a factor of 2.3)"),
        (simulate._change(None, 2.0), ""), (simulate._change(-0.0001, None), "+0.0 %"),
        (simulate._change(0.5, 0.2), "+50.0 ± 20.0 %"),
        (simulate._change(6.0, 2.5), "+600.0 % (known to 2.5 × the baseline only)"),
    ],
)  # fmt: skip
def test_an_uncertainty_of_more_than_everything_is_no_plus_or_minus(value, text):
    assert value == text


def test_nothing_to_compare_is_an_empty_table(capsys):
    print_comparison(document())
    assert "Joules" in capsys.readouterr().out
