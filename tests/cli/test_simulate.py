"""`qeil simulate` as a user meets it: the shipped scenarios, JSON, figures, and what a mistake looks like."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.cli.main import run
from agent.storage import share
from tests.simulation import board

EFFORT = ["--evaluations", "300"]
FAMILIES = (
    "GPT-2 125M", "Granite-350M", "Qwen2-0.5B", "Llama-3.2-1B", "LFM2-2.6B", "Llama-3.1-8B", "Llama-3.1-8B 4-bit",
)  # fmt: skip
SCENARIOS = Path(__file__).parents[2] / "scenarios"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    content = board.scenario_data(claims=board.CLAIMS, sensitivity=board.SENSITIVITY)
    return board.write(tmp_path_factory.mktemp("small"), content)


@pytest.mark.slow
def test_the_papers_platform_stands_beside_the_papers_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", str(SCENARIOS / "qeil-v2.yaml"), *EFFORT, "--details"]) == 0

    out = capsys.readouterr().out
    assert all(family in out for family in FAMILIES)
    for placement in ("single:gpu", "single:cpu", "single:npu", "greedy", "pgsam"):
        assert out.count(f" {placement} ") >= 3 * len(FAMILIES)
    for name in ("core-ultra-258v", "jetson-orin-nano-super", "raspberry-pi-5"):
        assert name in out
    assert "does not fit: 16.2 GB of" in out
    assert "unknown: no thermal" in out
    assert "every number is modelled" in out
    assert "-75.6 %" in out
    assert "-38.3 %" in out
    assert "percentage points short of it" in out
    assert "What may also differ from the published figures" in out


@pytest.mark.slow
def test_three_platforms_are_compared_in_both_phases(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "platforms", "--json", *EFFORT]) == 0

    document = json.loads(capsys.readouterr().out)
    boards = ["core-ultra-285hx-npu-rtx-pro-5000", "core-ultra-258v", "jetson-orin-nano-super"]
    assert [b["board"] for b in document["boards"]] == boards
    for found in document["boards"]:
        rows = {(r["model"], r["phase"], r["placement"]): r for r in found["rows"]}
        assert {key[0] for key in rows} == set(FAMILIES)
        assert {key[1] for key in rows} == {"prefill", "decode", "request"}
        assert {key[2] for key in rows} == {"pgsam", "greedy", "single:gpu", "single:cpu", "single:npu"}
        assert all(r["feasible"] or r["why_not"] for r in rows.values())
        assert found["sensitivity"]
    jetson = {(r["model"], r["placement"]): r for r in document["boards"][2]["rows"] if r["phase"] == "decode"}
    assert jetson["GPT-2 125M", "single:npu"]["why_not"] == "this board has no npu"
    assert jetson["Llama-3.1-8B", "pgsam"]["why_not"].endswith("GB of memory short")


def test_two_runs_print_the_same_bytes(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(["simulate", str(small)]), capsys.readouterr().out
    second = run(["simulate", str(small)]), capsys.readouterr().out

    assert first == second
    assert first[0] == 0


def test_options_replace_the_scenarios_seed_and_effort(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", str(small), "--json", "--seed", "7", "--evaluations", "400"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert (document["seed"], document["search_evaluations"]) == (7, 400)


def test_a_figure_is_the_same_each_time(small: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    first, second = tmp_path / "a.svg", tmp_path / "b.svg"

    assert run(["simulate", str(small), "--plot", str(first)]) == 0
    assert run(["simulate", str(small), "--plot", str(second)]) == 0

    assert first.read_bytes() == second.read_bytes()
    assert b"<svg" in first.read_bytes()
    assert b"pgsam" in first.read_bytes() or first.stat().st_size > 5000


def test_a_figure_shows_what_the_energy_depends_on(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "a.svg"
    assert run(["simulate", str(small), "--plot", str(target)]) == 0
    capsys.readouterr()
    assert run(["simulate", str(small), "--json"]) == 0
    swings = json.loads(capsys.readouterr().out)["boards"][0]["sensitivity"]

    drawn = target.read_text()
    assert "what the energy depends on" in drawn
    assert all((s["vary"] in drawn) == (s["unaffected"] is None) for s in swings)


def test_a_board_without_changes_can_be_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    workload = {"model": "llama-3.1-8b", "prompt_tokens": 32, "generated_tokens": 8}
    path = board.write(tmp_path, board.scenario_data(workloads=[workload]))

    assert run(["simulate", str(path), "--plot", str(tmp_path / "empty.png")]) == 0


@pytest.mark.parametrize(("name", "words"), [("front.gif", "ends in"), ("gone/front.svg", "there is no folder")])
def test_a_figure_that_cannot_be_is_refused_before_the_work(
    name: str, words: str, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["simulate", str(small), "--plot", str(tmp_path / name)]) == 1

    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_a_mistake_is_one_line_and_78(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = board.write(tmp_path, board.scenario_data(workloads=[{"model": "gpt2-125n", "prompt_tokens": 1,
                                                                 "generated_tokens": 1}]))  # fmt: skip

    assert run(["simulate", str(path)]) == 78

    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "small.yaml:9: workloads.0.model: there is no model 'gpt2-125n' in the catalogue (did you mean" in err


def test_a_scenario_that_is_not_shipped_is_refused_with_the_closest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "platform"]) == 78
    assert "there is no scenario 'platform' (did you mean platforms?)" in capsys.readouterr().err


def test_check_and_schema_know_scenarios(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(SCENARIOS)]) == 0
    assert run(["schema", "scenario"]) == 0
    assert '"placement-comparison"' in capsys.readouterr().out


def test_scenarios_are_shipped_with_the_wheel() -> None:
    pyproject = (SCENARIOS.parent / "pyproject.toml").read_text()

    assert '"scenarios" = "agent/share/scenarios"' in pyproject
    assert {"qeil-v2", "platforms"} <= set(share.list_files("scenarios"))


def test_a_file_of_another_kind_is_told_as_that_and_not_by_the_keys_that_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("version: 1\nstate_dir: /tmp/x\nmodels: []\n")
    assert run(["simulate", str(path)]) == 78
    assert capsys.readouterr().err.strip() == (
        f"qeil: {path} is no scenario, by its keys it is a file of kind settings; qeil check looks at it"
    )
