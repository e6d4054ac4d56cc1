"""Heat and faults of a scenario's requests, and boards that are set beside the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from agent.cli.check import check_file
from agent.cli.main import run
from agent.simulation import references
from agent.simulation.comparison import REQUEST, BoardResult, CaseResult, beside_effort, compare
from agent.simulation.document import simulate
from agent.simulation.endurance import loaded, mean_draw
from agent.simulation.recovery import recovery
from agent.simulation.request import request_cost
from tests.simulation import board
from tests.simulation.test_board_run import board_data

Document = dict[str, Any]


def truth(to_ambient_w_per_k: float = 0.2, **changes: Any) -> dict[str, Any]:
    """A simulated board with the accelerators of the bench, as hot as its heat path makes it."""
    units = [
        {"name": name, "node": "die", "requests_per_s": 10, "power_w": 1.0,
         "points": [{"name": "slow", "speed_share": 0.6, "power_share": 0.4}]}
        for name in ("gpu", "cpu", "npu")
    ]  # fmt: skip
    data = board_data(accelerators=units)
    data["nodes"][1] |= {"to_ambient_w_per_k": to_ambient_w_per_k}
    return data | changes


def operation(**changes: Any) -> dict[str, Any]:
    heat = {"placement": "pgsam", "hours": 0.1, "step_s": 5, "ambient_c": 30,
            "boards": [{"profile": "./bench.yaml", "board": "./hot.yaml"}]}  # fmt: skip
    return {
        "published": {"throttles": 0, "recovered_share": 1.0, "detection_s": 0.1, "source": "a paper"},
        "endurance": heat | changes.pop("endurance", {}),
        "measured": {"injected": 50, "recovered": 49, "detection_p99_s": [0.05, 0.2], "capacity_back_s": 2.0,
                     "source": "a bench"},
    } | changes  # fmt: skip


def written(folder: Path, simulated: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A scenario with a second, smaller board beside, and a simulated board for the first."""
    (folder / "hot.yaml").write_text(yaml.safe_dump(simulated or truth()))
    (folder / "little.yaml").write_text(yaml.safe_dump(board.data(dram_bytes=4e9, vram_bytes=1e8) | {"name": "little"}))
    beside = {"profiles": ["./little.yaml"], "search_evaluations": 300}
    content = {"beside": beside, "operation": operation(), "claims": board.CLAIMS,
               "sensitivity": board.SENSITIVITY} | changes  # fmt: skip
    return board.write(folder, board.scenario_data(**content))


def quiet(what: str, step: int, steps: int) -> None:
    """Progress that nobody watches."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def full(path: Path) -> Document:
    return simulate(references.load(path), quiet)


def runs(document: Document, name: str) -> dict[tuple[str, str], dict[str, Any]]:
    heat = document["experiment"]["endurance"]
    return {(r["placement"], r["governor"]): r for r in heat if r["board"] == name}


def test_a_board_beside_is_compared_and_nothing_more(full: Document) -> None:
    own, other = full["boards"]

    assert (own["board"], own["beside"], other["board"], other["beside"]) == ("bench", False, "little", True)
    assert len(own["rows"]) == len(other["rows"])
    assert own["sensitivity"]
    assert own["explanation"]
    assert (other["sensitivity"], other["growth"], other["explanation"]) == ([], [], [])
    assert all(row.get("energy_rel_uncertainty") is None for row in other["rows"])


def test_a_search_beside_is_no_longer_than_asked(path: Path) -> None:
    resolved = references.load(path)
    budgets = []
    for asked in (None, 200, 5000):
        changed = resolved.scenario.model_copy(update={"search_evaluations": asked})
        budgets.append(beside_effort(changed))
    assert budgets == [300, 200, 300]
    alone = resolved.scenario.model_copy(update={"beside": None, "search_evaluations": None})
    assert beside_effort(alone) is None


def test_heat_without_a_simulated_board_is_unknown(full: Document) -> None:
    found = runs(full, "little")

    assert set(found) == {("single:gpu", "none"), ("pgsam", "none"), ("pgsam", "predictive")}
    assert {r["unknown"] for r in found.values()} == {"no thermal description"}
    assert {r["provenance"] for r in found.values()} == {"unknown"}
    assert not any("trips" in r for r in found.values())


def test_a_board_that_cannot_shed_the_heat_throttles_without_a_governor_and_not_with_one(tmp_path: Path) -> None:
    document = simulate(references.load(written(tmp_path, truth(0.05), sensitivity=None)), quiet)
    found = runs(document, "bench")

    wild, held = found["pgsam", "none"], found["pgsam", "predictive"]
    assert wild["trips"] > 0
    assert wild["throttled_s"] > 0
    assert held["trips"] == 0
    assert held["peak_c"] < 80 <= wild["peak_c"]
    assert 0 < held["speed_share"] < 1


def test_a_cool_board_runs_at_full_speed(tmp_path: Path) -> None:
    document = simulate(references.load(written(tmp_path, truth(50.0), sensitivity=None)), quiet)

    for run_ in (r for r in runs(document, "bench").values() if r["placement"] == "pgsam"):
        assert run_["trips"] == 0
        assert run_["speed_share"] == pytest.approx(1.0, abs=0.02)
        assert run_["provenance"] == "modelled"


def test_an_accelerator_that_the_simulated_board_lacks_is_said(tmp_path: Path) -> None:
    only = truth()
    only["accelerators"] = [only["accelerators"][1]]
    document = simulate(references.load(written(tmp_path, only, sensitivity=None)), quiet)

    assert runs(document, "bench")["single:gpu", "none"]["unknown"] == "toy describes no gpu"


def alternating(found: BoardResult, resolved: references.Resolved) -> CaseResult:
    """The first case with every other stage on the CPU: much of it is transfers."""
    case = found.cases[0]
    placed = []
    for p in case.placed:
        assert p.tables is not None
        names = p.tables.problem.accelerators
        ends = (names.index("gpu"), names.index("cpu"))
        row = np.array([ends[i % 2] for i in range(p.tables.problem.stage_count)], dtype=np.int8)
        placed.append(replace(p, rows={"mixed": row}))
    tables = [p.tables for p in placed if p.tables is not None]
    rows = [p.rows["mixed"] for p in placed]
    cost = request_cost(case.case, found.profile, resolved.policy, tables, rows)
    return replace(case, placed=tuple(placed), costs={(REQUEST, "mixed"): cost})


def test_the_watts_of_the_accelerators_add_up_to_those_of_the_requests(path: Path) -> None:
    resolved = references.load(path)
    first, _ = compare(resolved, quiet)
    for placement in resolved.scenario.placements:
        draw = mean_draw(first, placement)
        costs = [c.costs[REQUEST, placement] for c in first.cases]
        power_w = sum(c.energy_j for c in costs) / sum(c.latency_s for c in costs)
        assert sum(watts for watts, _ in draw.values()) == pytest.approx(power_w)
        assert sum(share for _, share in draw.values()) == pytest.approx(1.0)
        assert all(placement in (name, f"single:{name}") for name in draw) or not placement.startswith("single:")
    assert mean_draw(first, "single:none") == {}
    mixed = alternating(first, resolved)
    cost = mixed.costs[REQUEST, "mixed"]
    draw = mean_draw(replace(first, cases=(mixed,)), "mixed")
    assert draw.keys() == {"gpu", "cpu"}
    assert sum(watts for watts, _ in draw.values()) == pytest.approx(cost.energy_j / cost.latency_s)
    assert sum(share for _, share in draw.values()) == pytest.approx(1.0)
    hot = resolved.heated["bench"]
    assert [a.name for a in loaded(hot, {"npu": (3.0, 1.0)}).accelerators] == ["npu"]
    assert loaded(hot, {"npu": (3.0, 1.0)}).accelerators[0].power_w == 3.0


def test_models_that_do_not_fit_are_said_with_bytes(tmp_path: Path) -> None:
    workloads = [{"name": "big", "model": "llama-3.1-8b", "precision": "fp16", "prompt_tokens": 8,
                  "generated_tokens": 2}]  # fmt: skip
    document = simulate(references.load(written(tmp_path, workloads=workloads, sensitivity=None)), quiet)

    (row,) = (r for r in document["experiment"]["without"] if r["board"] == "little")
    assert row["model"] == "big"
    assert 15e9 < row["needed_bytes"] < 18e9
    assert row["room_bytes"] == pytest.approx(0.9 * (4e9 + 1e8 - 2e6))
    assert runs(document, "bench")["single:gpu", "none"]["unknown"] == "no model runs under single:gpu here"


def test_recovery_is_that_of_the_supervisors_own_machine() -> None:
    limits = board.POLICY.recovery.model_copy(
        update={"restart_backoff_s": 0.5, "ramp_s": 30.0, "ramp_start_share": 0.5}
    )
    found = recovery(limits)

    assert (found["restart_s"], found["service_s"], found["full_s"]) == (0.5, 2.5, 32.5)
    assert found["service_share"] == 0.5
    assert recovery(limits.model_copy(update={"ramp_s": 0.0}))["full_s"] == 2.5


def test_one_table_stands_beside_what_is_published(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", str(path)]) == 0

    out = capsys.readouterr().out
    table = out[: out.index("Joules / milliseconds")]
    for words in ("published", "bench", "little", "-99.9 %", "throttles, pgsam", "no thermal", "2.5 s", "49 of 50",
                  "100%", "100 ms"):  # fmt: skip
        assert words in table
    assert "What the mean change depends on" in out
    assert "--details" in out


def test_a_board_beside_is_drawn_without_a_tornado(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "both.svg"

    assert run(["simulate", str(path), "--plot", str(target)]) == 0

    assert "what the energy depends on, bench" in target.read_text()
    assert "assumptions are not varied for this board" in target.read_text()


@pytest.mark.parametrize(("changes", "key", "words"), [
    ({"beside": {"profiles": ["./bench.yaml"]}}, "profiles", "used twice"),
    ({"beside": {"profiles": ["raspberry-pi-55"]}}, "beside.profiles.0", "did you mean raspberry-pi-5?"),
    ({"operation": operation(endurance={"placement": "greedi"})}, "operation.endurance.placement", "greedy"),
    ({"operation": operation(endurance={"boards": [{"profile": "x", "board": "orin-nano"}]})},
     "operation.endurance.boards.0.profile", "none of the profiles"),
    ({"operation": operation(endurance={"boards": [{"profile": "./bench.yaml", "board": "orin-nana"}]})},
     "operation.endurance.boards.0.board", "orin-nano"),
])  # fmt: skip
def test_a_mistake_is_one_line_with_its_place(changes: dict[str, Any], key: str, words: str, tmp_path: Path) -> None:
    found = check_file(written(tmp_path, **changes))

    assert [p.key for p in found] == [key]
    assert words in found[0].text()


@pytest.mark.parametrize("measured", [{"recovered": 51}, {"detection_p99_s": [0.3, 0.2]}])
def test_measured_faults_that_cannot_be_are_refused(measured: dict[str, Any], tmp_path: Path) -> None:
    asked = operation()
    asked["measured"] |= measured
    assert len(check_file(written(tmp_path, operation=asked))) == 1
