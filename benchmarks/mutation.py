"""Mutation run over deciders: flips each comparison and boolean operator, and asks the tests whether they notice.

    python benchmarks/mutation.py [--quick] [--modules thermal_governor,lane_health] [--limit N] [--part 1/4]

A mutant is the module with one operator changed, run against that module's tests in a process of its own from a copy of
the package. Score: mutants that a test notices over all mutants. Survivors are printed with their line.
"""

from __future__ import annotations

import argparse
import ast
import copy
import multiprocessing
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import hypothesis  # noqa: F401  (read once for all runs, as are the next two)
import numpy as np  # noqa: F401
import pydantic  # noqa: F401
import pytest

ROOT = Path(__file__).resolve().parent.parent
TESTS = {
    "thermal_governor": ["tests/control/test_thermal_governor.py"],
    "thermal_choice": ["tests/control/test_thermal_choice.py", "tests/control/test_predictive_governor.py"],
    "heat_allotment": ["tests/control/test_thermal_choice.py"],
    "linear_program": ["tests/control/test_thermal_choice.py"],
    "thermal_model": ["tests/control/test_thermal_model.py", "tests/control/test_predictive_governor.py"],
    "predictive_governor": ["tests/control/test_predictive_governor.py"],
    "lane_health": ["tests/control/test_lane_health.py", "tests/control/test_deciders.py"],
    "fault_detector": ["tests/control/test_deciders.py", "tests/control/test_lane_health.py"],
    "admission": ["tests/control/test_deciders.py"],
    "routing": ["tests/control/test_deciders.py"],
    "lifecycle": ["tests/control/test_deciders.py"],
    "fallback": ["tests/control/test_deciders.py"],
    "verdict": ["tests/control/test_deciders.py"],
    "canary": ["tests/control/test_canary.py"],
    "degradation": ["tests/control/test_degradation.py"],
    "safe_mode": ["tests/service/test_starts.py"],
    "lane_drift": ["tests/control/test_lane_drift.py"],
    "board_memory": ["tests/control/test_board_memory.py"],
    "load_estimate": ["tests/control/test_load_estimate.py"],
    "energy_share": ["tests/control/test_energy_share.py"],
    "input_guard": ["tests/control/test_guards.py", "tests/control/test_deciders.py"],
    "input_statistics": ["tests/control/test_guards.py"],
    "model_guard": ["tests/control/test_guards.py"],
    "squeeze": ["tests/control/test_squeeze.py"],
    "text_guard": ["tests/control/test_text_guard.py"],
    "worse": ["tests/control/test_worse.py"],
}
QUICK = ("thermal_governor", "lane_health")
FLIPS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
TIMEOUT_S = 240
FORK = multiprocessing.get_context("fork")
ORDERLY = (
    "-q", "-x", "-p", "no:cacheprovider", "-p", "no:randomly", "-W", "ignore::pytest.PytestAssertRewriteWarning",
)  # fmt: skip
"""In the order of `TESTS`, the quick ones first; what was read before needs no rewriting."""


@dataclass(frozen=True)
class Mutant:
    module: str
    line: int
    what: str
    source: str


def mutants(module: str) -> list[Mutant]:
    """Every comparison and every and/or of a module, each flipped alone."""
    tree = ast.parse((ROOT / f"agent/control/{module}.py").read_text())
    found = []
    nodes = list(ast.walk(tree))
    for index, node in enumerate(nodes):
        if isinstance(node, ast.Compare):
            for position, operator in enumerate(node.ops):
                changed = copy.deepcopy(tree)
                target = list(ast.walk(changed))[index]
                assert isinstance(target, ast.Compare)
                flipped = FLIPS[type(operator)]
                target.ops[position] = flipped()
                what = f"{type(operator).__name__} → {flipped.__name__}"
                found.append(Mutant(module, node.lineno, what, ast.unparse(changed)))
        elif isinstance(node, ast.BoolOp):
            changed = copy.deepcopy(tree)
            target = list(ast.walk(changed))[index]
            assert isinstance(target, ast.BoolOp)
            other: ast.boolop = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            target.op = other
            what = f"{type(node.op).__name__} → {type(other).__name__}"
            found.append(Mutant(module, node.lineno, what, ast.unparse(changed)))
    return found


def noticed(mutant: Mutant, copy_of: Path) -> bool:
    """Whether a test of its module fails; a hang counts as noticed."""
    path = copy_of / f"agent/control/{mutant.module}.py"
    original = path.read_text()
    path.write_text(mutant.source)
    run = FORK.Process(target=_tests, args=(copy_of, TESTS[mutant.module]))
    try:
        run.start()
        run.join(TIMEOUT_S)
        return run.exitcode != 0
    finally:
        run.kill()
        run.join()
        path.write_text(original)


def _tests(copy_of: Path, paths: list[str]) -> None:
    """In a fork of this process, which has read what tests import besides the agent: half of a run is that."""
    os.setsid()
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    os.chdir(copy_of)
    os.environ["PYTHONPATH"] = str(copy_of)
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(copy_of))
    os._exit(int(pytest.main([*ORDERLY, *paths])))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}, every third mutant")
    parser.add_argument("--modules", default=",".join(TESTS))
    parser.add_argument("--limit", type=int, default=10_000, help="mutants per module, evenly spread")
    parser.add_argument("--part", default="1/1", help="K/N: of each module every Nth mutant, beginning with the Kth")
    given = parser.parse_args()
    part, parts = (int(number) for number in given.part.split("/"))
    modules = list(QUICK) if given.quick else given.modules.split(",")
    killed = total = 0
    with tempfile.TemporaryDirectory() as folder:
        copy_of = Path(folder)
        for name in ("agent", "tests", "device_profiles", "policies", "pyproject.toml"):
            source = ROOT / name
            ignore = shutil.ignore_patterns("__pycache__")
            if source.is_dir():
                shutil.copytree(source, copy_of / name, ignore=ignore)
            else:
                shutil.copy(source, copy_of / name)
        for module in modules:
            if noticed(Mutant(module, 0, "nothing", (ROOT / f"agent/control/{module}.py").read_text()), copy_of):
                sys.exit(f"{module}: its tests fail without any change; mend that first")
            some = mutants(module)
            stride = 3 if given.quick else max(1, -(-len(some) // given.limit))
            chosen = some[::stride][part - 1 :: parts]
            survivors = [mutant for mutant in chosen if not noticed(mutant, copy_of)]
            killed += len(chosen) - len(survivors)
            total += len(chosen)
            print(f"{module:22} {len(chosen) - len(survivors):4} of {len(chosen):4} noticed", flush=True)
            for mutant in survivors:
                print(f"    survives: agent/control/{mutant.module}.py:{mutant.line} {mutant.what}", flush=True)
    print(f"score {killed / total:.1%} of {total} mutants (goal: at least 90 %)")
    return 0 if given.quick or killed >= 0.9 * total else 1


if __name__ == "__main__":
    sys.exit(main())
