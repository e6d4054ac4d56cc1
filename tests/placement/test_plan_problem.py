from __future__ import annotations

import json
import os
import signal
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from agent.cli import problem_file as module
from agent.cli.explain import read_policy
from agent.cli.plan_problem import plan_problem, tell_left_out
from agent.cli.problem_file import load_problem
from agent.errors import ConfigError, PlacementError
from agent.placement.pareto import normalised_hypervolume
from agent.schema.policy import Policy

HERE = Path(__file__).parent / "data" / "decode_L12_D2_loose_j0_s101.npz"
KNOWN = Path(__file__).parents[2] / "benchmarks" / "data" / "placement"
NAMES = (
    "decode_L12_D2_loose_j0_s101",
    "decode_L26_D4_loose_j0_s113",
    "mix_L12_D3_tight_j5_s104",
    "mix_L26_D3_tight_j5_s112",
)


def ratio(file: Path, plan: dict[str, object]) -> float:
    problem = load_problem(file)
    rows = np.array([point["assignment"] for point in plan["front"]])  # type: ignore[attr-defined]
    told = np.array([point["objectives"] for point in plan["front"]])  # type: ignore[attr-defined]
    assert problem.feasible(rows).all()
    assert np.array_equal(problem.objectives(rows), told)
    with np.load(file) as arrays:
        truth = arrays["front"]
    return normalised_hypervolume(told, truth) / normalised_hypervolume(truth, truth)


def test_the_shipped_problem_is_solved_exactly_and_proven() -> None:
    plan = plan_problem(HERE)

    assert plan["exact"]
    assert ratio(HERE, plan) == pytest.approx(1.0)


@pytest.mark.parametrize("name", NAMES)
def test_known_problems_reach_their_exact_hypervolume(name: str) -> None:
    file = KNOWN / f"{name}.npz"

    assert ratio(file, plan_problem(file, seed=1)) >= 0.998


def test_the_contract_is_plain_json() -> None:
    plan = plan_problem(HERE, seed=5, method="greedy")

    assert json.loads(json.dumps(plan)) == plan
    assert set(plan) == {"method", "seed", "elapsed_ms", "evaluations", "exact", "front"}
    assert (plan["method"], plan["seed"], plan["exact"]) == ("greedy", 5, False)
    assert set(plan["front"][0]) == {"objectives", "assignment"}
    assert len(plan["front"][0]["assignment"]) == 12


def test_a_time_budget_is_kept_in_milliseconds() -> None:
    assert len(plan_problem(HERE, budget_ms=5.0)["front"]) > 0
    with pytest.raises(ConfigError, match="budget is 0 ms"):
        plan_problem(HERE, budget_ms=0.0)


def test_an_interrupted_search_gives_the_best_found_until_then(capsys: pytest.CaptureFixture[str]) -> None:
    file = KNOWN / "mix_L26_D3_tight_j5_s112.npz"
    before = signal.getsignal(signal.SIGINT)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    plan = plan_problem(file, budget_ms=600_000.0)

    assert "interrupted, this is the best" in capsys.readouterr().err
    assert not plan["exact"]
    assert ratio(file, plan) > 0.0  # how good depends on what the machine managed until then
    assert signal.getsignal(signal.SIGINT) == before


def test_rules_about_models_are_said_not_to_count_for_tables(capsys: pytest.CaptureFixture[str]) -> None:
    rule = {"model": "*", "accelerator": "a0"}
    policy = read_policy("balanced", None, None)

    tell_left_out(policy)
    assert capsys.readouterr().err == ""
    tell_left_out(Policy.model_validate(policy.model_dump() | {"pinned": (rule,)}))
    assert "pinned say which models may run where" in capsys.readouterr().err


def test_unknown_methods_and_accelerators_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown method 'best'"):
        plan_problem(HERE, method="best")
    with pytest.raises(PlacementError, match="no accelerator 'gpu' among 0, 1"):
        plan_problem(HERE, method="single:gpu")


def save(path: Path, **changes: np.ndarray) -> Path:
    with np.load(HERE) as arrays:
        tables = {name: arrays[name] for name in arrays.files} | changes
    np.savez(path, **tables)
    return path


def test_a_wrong_table_is_named_with_file_array_and_index(tmp_path: Path) -> None:
    with np.load(HERE) as arrays:
        latency = arrays["latency"].copy()
    latency[3, 0] = np.nan
    file = save(tmp_path / "bad.npz", latency=latency)

    with pytest.raises(ConfigError, match=r"bad.npz: latency\[3, 0\] is nan"):
        load_problem(file)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    file = save(tmp_path / "evil.npz", energy=np.array([[object()]], dtype=object))

    with pytest.raises(ConfigError, match=r"evil.npz: energy: holds pickled objects"):
        load_problem(file)


def test_files_that_are_no_problem_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.npz"
    text.write_text("hello")
    empty = tmp_path / "empty.npz"
    with zipfile.ZipFile(empty, "w") as archive:
        archive.writestr("readme.txt", "no arrays")

    with pytest.raises(ConfigError, match=r"not an .npz file"):
        load_problem(text)
    with pytest.raises(ConfigError, match="array 'latency' is missing"):
        load_problem(empty)
    with pytest.raises(ConfigError, match="No such file"):
        load_problem(tmp_path / "none.npz")


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ARRAY_BYTES", 1000)
    with pytest.raises(ConfigError, match="all arrays together may take at most 1000"):
        load_problem(HERE)
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 500)
    with pytest.raises(ConfigError, match="bytes, at most 500 are read"):
        load_problem(HERE)


def test_arrays_that_are_no_tables_are_ignored(tmp_path: Path) -> None:
    file = save(tmp_path / "extra.npz", front=np.array([["not", "numbers"]]))

    assert load_problem(file).stage_count == 12
