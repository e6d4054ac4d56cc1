"""Mutation run over deciders: flips each comparison and boolean operator, and asks the tests whether they notice.

    python benchmarks/mutation.py [--quick] [--modules thermal_governor,lane_health] [--limit N] [--part 1/4]
        [--store FILE] [--for-s SECONDS]

A mutant is the module with one operator changed, run against that module's tests in a process of its own from a copy of
the package. Score: mutants that a test notices over all mutants. Survivors are printed with their line. With --store
what is known of a mutant is kept, by the text of module and tests, and is not run again; --for-s begins none later.

Ends with 0 where the goal is met, 1 where it is not, 3 where mutants are left to run (again, with the same --store).
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np  # noqa: F401
import pydantic  # noqa: F401

from benchmarks.needed import needed

with needed():
    import hypothesis  # noqa: F401  (read once for all runs, as are the next two)
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
    "batch": ["tests/control/test_batch.py"],
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
    "memory_words": ["tests/control/test_memory_words.py"],
    "worse": ["tests/control/test_worse.py"],
}
QUICK = ("thermal_governor", "lane_health")
FLIPS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
TIMEOUT_S = 240
UNFINISHED = 3
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


@dataclass
class Known:
    """What was found of mutants before, in a file if one is given."""

    path: Path | None
    found: dict[str, bool]

    @classmethod
    def of(cls, path: Path | None) -> Known:
        return cls(path, json.loads(path.read_text()) if path is not None and path.is_file() else {})

    def keep(self, key: str, was_noticed: bool) -> None:
        self.found[key] = was_noticed
        if self.path is not None:
            self.path.write_text(json.dumps(self.found, indent=0))


def key_of(mutant: Mutant) -> str:
    """Of what decides whether it is noticed: the changed module and the tests that are run for it."""
    texts = [mutant.source, *((ROOT / path).read_text() for path in TESTS[mutant.module])]
    return f"{mutant.module}:{mutant.line}:{hashlib.sha256(chr(0).join(texts).encode()).hexdigest()[:24]}"


def copied(folder: Path) -> Path:
    """A copy of all that the tests need."""
    for name in ("agent", "tests", "device_profiles", "policies", "pyproject.toml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def run_module(module: str, chosen: list[Mutant], known: Known, copy_of: Path, until_s: float) -> list[Mutant]:
    """The mutants that are known after it; no run is begun after `until_s` of the monotonic clock."""
    waiting = [m for m in chosen if key_of(m) not in known.found]
    if waiting and time.monotonic() < until_s:
        untouched = Mutant(module, 0, "nothing", (ROOT / f"agent/control/{module}.py").read_text())
        if noticed(untouched, copy_of):
            sys.exit(f"{module}: its tests fail without any change; mend that first")
    for mutant in waiting:
        if time.monotonic() >= until_s:
            break
        known.keep(key_of(mutant), noticed(mutant, copy_of))
    return [m for m in chosen if key_of(m) in known.found]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}, every third mutant")
    parser.add_argument("--modules", default=",".join(TESTS))
    parser.add_argument("--limit", type=int, default=10_000, help="mutants per module, evenly spread")
    parser.add_argument("--part", default="1/1", help="K/N: of each module every Nth mutant, beginning with the Kth")
    parser.add_argument("--store", type=Path, help="file that keeps what was found; what is there is not run again")
    parser.add_argument("--for-s", type=float, default=float("inf"), help="begin no run after so many seconds")
    given = parser.parse_args()
    until_s = time.monotonic() + given.for_s
    part, parts = (int(number) for number in given.part.split("/"))
    modules = list(QUICK) if given.quick else given.modules.split(",")
    missing = {path.stem for path in (ROOT / "agent/control").glob("*.py")} - {"__init__", *TESTS}
    if missing:
        sys.exit(f"no tests are named here for {', '.join(sorted(missing))}")
    if unknown := [name for name in modules if name not in TESTS]:
        parser.error(f"no module of agent/control is called {', '.join(unknown)}; known: {', '.join(TESTS)}")
    known = Known.of(given.store)
    killed = total = left = 0
    with tempfile.TemporaryDirectory() as folder:
        copy_of = copied(Path(folder))
        for module in modules:
            some = mutants(module)
            stride = 3 if given.quick else max(1, -(-len(some) // given.limit))
            chosen = some[::stride][part - 1 :: parts]
            done = run_module(module, chosen, known, copy_of, until_s)
            survivors = [mutant for mutant in done if not known.found[key_of(mutant)]]
            killed += len(done) - len(survivors)
            total += len(done)
            left += len(chosen) - len(done)
            waits = f", {len(chosen) - len(done)} not run yet" if len(done) < len(chosen) else ""
            print(f"{module:22} {len(done) - len(survivors):4} of {len(done):4} noticed{waits}", flush=True)
            for mutant in survivors:
                print(f"    survives: agent/control/{mutant.module}.py:{mutant.line} {mutant.what}", flush=True)
    if not total:
        print(f"{left} mutants are left; run it again with the same --store")
        return UNFINISHED
    print(f"score {killed / total:.1%} of {total} mutants (goal: at least 90 %)")
    if left:
        print(f"{left} mutants are left; run it again with the same --store")
        return UNFINISHED
    return 0 if given.quick or killed >= 0.9 * total else 1


if __name__ == "__main__":
    sys.exit(main())
