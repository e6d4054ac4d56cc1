from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

from agent.cli.main import run
from agent.errors import ConfigError
from agent.evaluation import catalogue as shipped
from agent.evaluation import crossvalidation, fit, parity
from agent.evaluation.coefficients_file import document, load_coefficients, render
from agent.evaluation.fitting import cases
from agent.evaluation.fitting import fit as fit_cases
from agent.evaluation.scores import by_quantity, score
from agent.evaluation.targets import Comparison
from agent.evaluation.validation import validate
from tests.evaluation.worlds import HEADER, NOTHING, catalogue, row

SHIPPED = (
    HEADER
    + """
1,A,Jetson AGX Orin,gpu,MAXN,resnet50,int8,image-classification,1,,,0.64,p90,0.63,,,,,,,TensorRT,
2,A,Jetson Orin NX 16GB,gpu,MAXN,bert-99,int8,question-answering,1,,,12.0,p90,,,,15,AC wall,0.2,J per query,TensorRT,
3,B,Raspberry Pi 5 16GB,cpu,,llama3.2:3b,Q4_K_M,decode,1,,,,,,4.6,,11,"AC wall, peak",,,ollama,
4,C,Nobody,cpu,,resnet50,int8,vision,1,,,5,,,,,,,,,,
"""
)


def world_rows():
    rows = []
    for number in range(12):
        board, slow = ("big", 1.0) if number % 2 else ("small", 2.7)
        rows.append(row(row_id=f"a{number}", board=board, latency_ms=2 * slow, mean_latency_ms=1.8 * slow,
                        latency_stat="p90", energy_j=0.04, tier="A"))  # fmt: skip
        rows.append(row(row_id=f"b{number}", board=board, latency_ms="", throughput_ips=900 / slow, power_w=30 / slow,
                        tier="C"))  # fmt: skip
        rows.append(row(row_id=f"c{number}", board=board, model="llama", task="decode", precision="int8",
                        latency_ms="", tokens_per_s=60 / slow, energy_j=0.3))  # fmt: skip
        rows.append(row(row_id=f"d{number}", board=board, latency_ms=2 * slow, latency_stat="p90", energy_j=0.04))
    return rows


@pytest.fixture(scope="module")
def fitted():
    return fit_cases(cases(world_rows(), catalogue()))


def test_a_fit_repeats_what_it_has_seen_and_its_file_repeats_the_fit(fitted, tmp_path):
    result = validate(world_rows(), catalogue(), fitted)
    medians = {q: s.median_ape for q, s in by_quantity(result.comparisons).items()}
    assert all(error is not None and error < 0.1 for error in medians.values()), medians
    table, path = tmp_path / "t.csv", tmp_path / "f.json"
    table.write_text("x")
    path.write_text(render(document(fitted, 48, table)))
    again = validate(world_rows(), catalogue(), load_coefficients(path))
    assert [c.predicted for c in again.comparisons] == pytest.approx(
        [c.predicted for c in result.comparisons], rel=0.01
    )


def test_a_row_of_the_fit_is_told_from_one_it_has_not_seen_whatever_its_number(fitted, tmp_path):
    table, path = tmp_path / "t.csv", tmp_path / "f.json"
    table.write_text("x")
    path.write_text(render(document(fitted, 48, table)))
    seen, other = replace(world_rows()[0], row_id="other-number"), row(row_id="new", latency_ms=2.5)
    found = validate([seen, other], catalogue(), load_coefficients(path)).document()
    assert found["fitted_on"]["rows_of_this_table"] == ["other-number"]
    assert {item["row_id"]: item["fitted"] for item in found["rows_detail"]} == {"other-number": True, "new": False}
    assert set(found["by_fit"]) == {"rows of the fit", "rows the fit has not seen"}


def test_no_coefficient_below_the_top_belongs_to_a_single_row(fitted):
    from agent.evaluation import priors

    needed = priors.minimum_rows(priors.TIME)
    for key, rows in fitted.time.counts.items():
        assert rows >= needed.get(key.partition(":")[0], 1)


def test_every_row_is_either_predicted_or_says_why():
    result = validate([row(), row(row_id="2", model="none"), row(row_id="3", tier="C")], catalogue(), NOTHING)
    found = result.document()
    assert (found["rows"], found["mapped"]) == (3, 2)
    assert found["unmapped"] == [{"row_id": "2", "why": "model 'none' is in no catalogue"}]
    assert set(found["by_tier"]) == {"A", "C"}
    detail = found["rows_detail"][0]
    assert detail["ape"] == pytest.approx(abs(detail["predicted"] - detail["measured"]) / detail["measured"])
    assert validate([row(), row(row_id="3", tier="C")], catalogue(), NOTHING, frozenset({"C"})).rows == 1


def test_scores_are_medians_of_absolute_errors():
    items = [Comparison("1", "power", 10.0, 10.0 * (1 + e), 0.15) for e in (-0.3, 0.1, 0.2)]
    found = score(items)
    assert (found.n, found.median_ape, found.within) == (3, pytest.approx(0.2), pytest.approx(1 / 3))
    assert score([]).median_ape is None


def test_held_out_rows_are_predicted_once_and_scale_the_uncertainty():
    known = cases(world_rows(), catalogue())
    held = crossvalidation.held_out(known, crossvalidation.at_random, 3, seed=1)
    assert len(held) == len(validate(world_rows(), catalogue(), NOTHING).comparisons)
    assert crossvalidation.uncertainty_factor(held) > 0
    assert crossvalidation.uncertainty_factor([]) == 1.0
    groups = {crossvalidation.by_board(c) for c in known}, {crossvalidation.by_cell(c) for c in known}
    assert [len(g) for g in groups] == [2, 4]


def test_the_commands_fit_and_doubt_a_file(tmp_path, capsys):
    table, out = tmp_path / "t.csv", tmp_path / "f.json"
    table.write_text(SHIPPED)
    assert fit.main([str(table), "--out", str(out), "--folds", "1"]) == 0
    assert load_coefficients(out).time.values
    assert crossvalidation.main([str(table), "--folds", "2"]) == 0
    assert "boards, all tiers" in capsys.readouterr().out
    assert fit.main([str(tmp_path / "none.csv"), "--out", str(out)]) == 1
    assert crossvalidation.main([str(tmp_path / "none.csv")]) == 1
    table.write_text(HEADER + "\n4,C,Nobody,cpu,,resnet50,int8,vision,1,,,5,,,,,,,,,,\n")
    assert fit.main([str(table), "--out", str(out)]) == 1
    assert "none of the rows can be mapped" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{}", '{"version": 9}', '{"version": 1, "time": 3, "power": 4}'])
def test_a_file_of_coefficients_that_is_none_is_one_sentence(tmp_path, text):
    path = tmp_path / "f.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"f\.json"):
        load_coefficients(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_coefficients(tmp_path / "none.json")


def test_shipped_data_that_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigError, match="is not installed"):
        shipped.find_coefficients([tmp_path])


def test_validate_prints_scores_reasons_and_json(tmp_path, capsys):
    table = tmp_path / "own.csv"
    table.write_text(SHIPPED)
    assert run(["validate", str(table), "--rows"]) == 0
    shown = capsys.readouterr().out
    assert "3 of 4 rows mapped" in shown
    assert "board 'Nobody' is not known" in shown
    assert run(["validate", str(table), "--json", "--tier", "A"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == found["mapped"] == 2
    assert {d["quantity"] for d in found["rows_detail"]} == {"latency", "power", "energy"}
    assert all(d["rel_uncertainty"] > 0 for d in found["rows_detail"])


def test_validate_refuses_a_broken_table_with_its_line(tmp_path, capsys):
    table = tmp_path / "own.csv"
    table.write_text(SHIPPED + "5,A,x\n")
    assert run(["validate", str(table)]) == 78
    assert "own.csv:6: 3 cells" in capsys.readouterr().err


def test_the_parity_plot_is_a_file_and_a_missing_matplotlib_or_folder_a_sentence(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    items = validate([row(), row(row_id="2", tier="")], catalogue(), NOTHING).comparisons
    parity.plot(items, {"1": "A", "2": ""}, tmp_path / "p.svg")
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")
    with pytest.raises(ConfigError, match="cannot be written"):
        parity.plot(items, {"1": "A", "2": ""}, tmp_path / "none" / "p.svg")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match="plots need matplotlib"):
        parity.plot(items, {"1": "A", "2": ""}, tmp_path / "p.svg")


def test_no_fold_is_fitted_on_what_it_predicts(monkeypatch):
    known = cases(world_rows(), catalogue())
    fits = []
    monkeypatch.setattr(crossvalidation, "fit", lambda seen: fits.append({c.row.row_id for c in seen}) or NOTHING)
    monkeypatch.setattr(crossvalidation, "compare", lambda case, _: [case.row.row_id])
    held = crossvalidation.held_out(known, crossvalidation.by_board, 2, seed=0)
    assert sorted(held) == sorted(case.row.row_id for case in known)
    assert fits[0].isdisjoint(fits[1])
    assert fits[0] | fits[1] == set(held)
