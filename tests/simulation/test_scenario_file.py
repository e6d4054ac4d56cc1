"""A scenario file says what is wrong with it in one line, with the place and the word that was probably meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.cli.check import check_file
from agent.errors import ConfigError
from agent.simulation import references
from agent.storage import yaml_files
from tests.simulation import board

SHIPPED = Path(__file__).parents[2] / "scenarios"
COMPARISONS = [p for p in sorted(SHIPPED.glob("*.yaml")) if "kind: placement-comparison" in p.read_text()]
WORKLOAD = {"model": "gpt2-125m", "prompt_tokens": 32, "generated_tokens": 8}


def with_workload(**changes: Any) -> dict[str, Any]:
    return {"workloads": [{k: v for k, v in (WORKLOAD | changes).items() if v is not None}]}


def with_assumption(**changes: Any) -> dict[str, Any]:
    good = {"vary": "base_power_factor", "low": 0.5, "high": 2.0, "why": "a range"}
    return {"sensitivity": {"placement": "pgsam", "assumptions": [good | changes]}}


CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("unknown key", {"placement": ["pgsam"]}, "placement", "did you mean placements?"),
    ("unknown model", with_workload(model="gpt2-125n"), "workloads.0.model", "did you mean gpt2-125m?"),
    ("unknown profile", {"profiles": ["raspberry-pi-55"]}, "profiles.0", "did you mean raspberry-pi-5?"),
    ("missing profile file", {"profiles": ["./gone.yaml"]}, "profiles.0", "there is no such device profile file"),
    ("unknown policy", {"policy": "balansed"}, "policy", "did you mean balanced?"),
    (
        "unknown accelerator",
        {"placements": ["single:gpu", "single:nqu", "pgsam"]},
        "placements.1",
        "there is no accelerator 'nqu'; the board has gpu, cpu, npu (did you mean single:npu?)",
    ),
    ("unknown method", {"placements": ["single:gpu", "gredy"]}, "placements.1", "did you mean greedy?"),
    ("single without a name", {"placements": ["single:gpu", "single:"]}, "placements.1", "single:ACCELERATOR"),
    ("nothing alike", {"placements": ["single:gpu", "xyzzy"]}, "placements.1", "'xyzzy' is no placement; expected"),
    ("negative prompt", with_workload(prompt_tokens=-5), "workloads.0.prompt_tokens", "at least 1; found -5"),
    ("no tokens", with_workload(generated_tokens=0), "workloads.0.generated_tokens", "at least 1; found 0"),
    ("prompt left out", with_workload(prompt_tokens=None), "workloads.0", "need the key prompt_tokens"),
    ("answer left out", with_workload(generated_tokens=None), "workloads.0", "need the key generated_tokens"),
    ("phase twice", with_workload(phases=["decode", "decode"]), "workloads.0.phases", "'decode' is used twice"),
    ("phase not there", with_workload(model="resnet-50"), "workloads.0.model", "resnet-50 has no phase prefill"),
    ("no profiles", {"profiles": []}, "profiles", "must not be empty"),
    ("no workloads", {"workloads": []}, "workloads", "must not be empty"),
    ("no placements", {"placements": []}, "placements", "must not be empty"),
    ("no phases", with_workload(phases=[]), "workloads.0.phases", "must not be empty"),
    ("placement twice", {"placements": ["single:gpu", "pgsam", "pgsam"]}, "placements", "'pgsam' is used twice"),
    ("workload twice", {"workloads": [WORKLOAD, WORKLOAD]}, "workloads", "give one of them a name of its own"),
    ("baseline elsewhere", {"baseline": "single:cpu"}, "baseline", "is not among the placements"),
    ("baseline misspelt", {"baseline": "pgsan"}, "baseline", "did you mean pgsam?"),
    ("low above high", with_assumption(low=3.0), "sensitivity.assumptions.0.low", "must be below high"),
    ("factor of nothing", with_assumption(low=0.0), "sensitivity.assumptions.0.low", "factors above 0"),
    ("too hot", with_assumption(vary="temperature_c", high=500.0), "sensitivity.assumptions.0.low", "125 °C"),
    ("unknown lever", with_assumption(vary="base_power"), "sensitivity.assumptions.0.vary", "base_power_factor"),
    ("kind of the future", {"kind": "placement"}, "kind", "did you mean placement-comparison?"),
]


@pytest.mark.parametrize(("changes", "key", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_mistake_is_one_line_with_its_place(changes: dict[str, Any], key: str, words: str, tmp_path: Path) -> None:
    path = board.write(tmp_path, board.scenario_data(**changes))

    found = check_file(path)

    lines = path.read_text().splitlines()
    assert [p.key for p in found] == [key]
    assert words in found[0].text()
    assert "\n" not in found[0].text()
    assert found[0].text().startswith(f"{path}:{found[0].line}: {key}: ")
    assert 1 <= found[0].line <= len(lines)


def test_the_line_is_that_of_the_key(tmp_path: Path) -> None:
    path = board.write(tmp_path, board.scenario_data(policy="balansed"))

    (found,) = check_file(path)

    assert path.read_text().splitlines()[found.line - 1] == "policy: balansed"


def test_every_problem_is_said_at_once(tmp_path: Path) -> None:
    content = board.scenario_data(policy="balansed", **with_workload(model="gpt9"))

    found = check_file(board.write(tmp_path, content))

    assert [p.key for p in found] == ["policy", "workloads.0.model"]


def test_a_broken_board_is_reported_in_its_own_file(tmp_path: Path) -> None:
    broken = board.data()
    del broken["accelerators"][0]["base_power_w"]

    (found,) = check_file(board.write(tmp_path, profile=broken))

    assert found.file.endswith("bench.yaml")
    assert found.key == "accelerators.0.base_power_w"


def test_a_correct_scenario_has_no_problems(tmp_path: Path) -> None:
    assert check_file(board.write(tmp_path)) == []


def test_files_are_looked_for_beside_the_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = board.write(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    assert references.load(path).profiles[0].name == "bench"


def test_an_accelerator_of_one_of_several_boards_is_enough(tmp_path: Path) -> None:
    content = board.scenario_data(profiles=["raspberry-pi-4", "./bench.yaml"])

    assert len(references.load(board.write(tmp_path, content)).profiles) == 2


def test_a_file_that_is_not_there_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        references.load(tmp_path / "gone.yaml")


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda p: p.stem)
def test_shipped_scenarios_are_correct_and_point_editors_at_their_schema(path: Path) -> None:
    scenario = yaml_files.load_scenario(path)

    assert check_file(path) == []
    assert scenario.name == path.stem
    assert path.read_text().startswith("# yaml-language-server: $schema=../docs/schemas/scenario.json\n")
    assert yaml_files.detect_kind(yaml_files.read_document(path).data) == "scenario"


def test_the_scenario_of_the_paper_asks_for_its_seven_families() -> None:
    resolved = references.load(SHIPPED / "qeil-v2.yaml")

    assert [(c.asked.model, c.asked.precision) for c in resolved.cases] == [
        ("gpt2-125m", "fp16"), ("granite-350m", "fp16"), ("qwen2-0.5b", "fp16"), ("llama-3.2-1b", "fp16"),
        ("lfm2-2.6b", "fp16"), ("llama-3.1-8b", "fp16"), ("llama-3.1-8b", "int4"),
    ]  # fmt: skip
    assert {(c.quantity, c.change) for c in resolved.scenario.claims} == {("energy", -0.756), ("latency", -0.383)}
    assert all(c.relative_to == "single:gpu" for c in resolved.scenario.claims)
