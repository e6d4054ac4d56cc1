"""Placement side by side: PGSAM against greedy, one accelerator, random search and NSGA-II, in one run.

    python benchmarks/placement.py [--quick] [--ablation] [--replan] [--references] [--markdown FILE]

Hypervolumes are relative to the exact front where the exact search finishes ("exact"), else to the union of long
searches (`placement_reference.py`) and of all that was found in this run ("best"). `--references` only makes those,
which takes a quarter of an hour; later runs reuse them. Times are wall-clock on the machine it runs on; a busy machine
makes them worse.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from agent.errors import PlacementError
from agent.placement.pareto import Archive, normalised_hypervolume
from agent.placement.pgsam import Search
from agent.placement.problem import Problem
from agent.placement.solve import solve
from agent.placement.warm import repair, replan, thin, without
from benchmarks.placement_ablation import ablation_table
from benchmarks.placement_problems import Spec, generate, specs
from benchmarks.placement_reference import SEARCH_S, reference

MARKS_S = (0.1, 0.3, 1.0)
EQUAL_EVALUATIONS = 100_000
"""What NSGA-II does in about 7 s, and PGSAM in about 0.1 s."""
REPLAN_PROBLEMS = (("decode", False, 0.0), ("mix", True, 0.05), ("prefill", False, 0.02))
QUICK_SEARCH_S = 1.0


@dataclass
class Row:
    """What the methods reached on one problem."""

    spec: Spec
    exact: bool = False
    size: int = 0
    found: dict[str, np.ndarray] = field(default_factory=dict)
    default_s: float = 0.0
    ratios: dict[str, float] = field(default_factory=dict)


def at_marks(problem: Problem, seed: int) -> dict[str, np.ndarray]:
    """Objectives PGSAM holds at each mark, without the certificate."""
    begun_s = time.perf_counter()
    search = Search(problem, seed)
    found: dict[str, np.ndarray] = {}
    for mark_s in MARKS_S:
        while (now_s := time.perf_counter() - begun_s) < mark_s:
            search.step(now_s / MARKS_S[-1])
        found[f"pgsam {mark_s:g} s"] = search.archive.points.copy()
    return found


def attempt(run: Callable[[], np.ndarray]) -> np.ndarray:
    """Objectives of a baseline; none where it finds no placement."""
    try:
        return run()
    except PlacementError:
        return np.zeros((0, 3))


def singles(problem: Problem) -> np.ndarray:
    """All single-accelerator placements that fit."""
    rows = [attempt(lambda n=name: solve(problem, f"single:{n}").points()) for name in problem.accelerators]
    return np.concatenate(rows)


def genetic(problem: Problem, seed: int) -> dict[str, np.ndarray]:
    """Objectives found by NSGA-II in a second and in an equal number of evaluations; nothing without pymoo."""
    if importlib.util.find_spec("pymoo") is None:
        return {}
    module = importlib.import_module("benchmarks.placement_nsga2")
    return {
        "nsga2 1 s": module.nsga2(problem, seed, "time", 1.0),
        "nsga2 100 k": module.nsga2(problem, seed, "n_eval", EQUAL_EVALUATIONS),
    }


def measure(spec: Spec, seed: int, search_s: float) -> Row:
    """Run every method on one problem."""
    problem, row = generate(spec), Row(spec)
    row.found |= at_marks(problem, seed)
    begun_s = time.perf_counter()
    row.found["default"] = solve(problem, seed=seed).points()
    row.default_s = time.perf_counter() - begun_s
    row.found["greedy"] = attempt(lambda: solve(problem, "greedy").points())
    row.found["single"] = singles(problem)
    clock = time.perf_counter
    row.found["random 1 s"] = solve(problem, "random", seed, 10**9, budget_s=1.0, clock=clock).points()
    row.found["pgsam 100 k"] = solve(problem, seed=seed, evaluations=EQUAL_EVALUATIONS, certify=False).points()
    row.found |= genetic(problem, seed)
    best = reference(problem, search_s)
    row.exact = best.exact
    points = best.points if best.exact else union([best.points, *row.found.values()])
    row.size = len(points)
    whole = normalised_hypervolume(points, points)
    row.ratios = {name: normalised_hypervolume(found, points) / whole for name, found in row.found.items()}
    return row


def union(parts: list[np.ndarray]) -> np.ndarray:
    """Non-dominated points of several sets."""
    points = np.concatenate(parts)
    archive = Archive(1, limit=1 << 30)
    archive.merge(points, np.zeros((len(points), 1), dtype=np.int8))
    return archive.points


def side_by_side(rows: list[Row]) -> list[str]:
    """The table, and its summary over exactly solved problems."""
    names = list(rows[0].ratios)
    lines = ["| problem | front | reference | " + " | ".join(names) + " | default takes |"]
    lines.append("|---" * (len(names) + 4) + "|")
    for row in rows:
        cells = " | ".join(f"{row.ratios[name]:.4f}" for name in names)
        kind = "exact" if row.exact else "best"
        lines.append(f"| {row.spec.name} | {row.size} | {kind} | {cells} | {row.default_s * 1000:.0f} ms |")
    for title, chosen in (("exactly solved", [r for r in rows if r.exact]), ("all", rows)):
        for what, reduce in (("median", statistics.median), ("minimum", min)):
            cells = " | ".join(f"{reduce(row.ratios[name] for row in chosen):.4f}" for name in names)
            timing = statistics.median(row.default_s for row in chosen) * 1000
            lines.append(f"| **{what}, {title} ({len(chosen)})** | | | {cells} | {timing:.0f} ms median |")
    return lines


def lost(quick: bool) -> Iterator[tuple[Spec, Problem, str]]:
    """Problems of 50 stages and 4 accelerators, and each accelerator that is lost in turn."""
    for phase, tight, jitter in REPLAN_PROBLEMS[: 1 if quick else 3]:
        spec = Spec(phase, 50, 4, tight, jitter, 301)
        problem = generate(spec)
        for name in problem.accelerators[1:]:
            yield spec, problem, name


def fault_replan(seed: int, quick: bool, search_s: float) -> list[str]:
    """An accelerator is lost at 50 stages and 4 accelerators: time to the first plan, and quality after 150 ms."""
    lines = [
        "| problem | lost | first plan | its hypervolume | after 150 ms | reference |",
        "|---|---|---|---|---|---|",
    ]
    old: dict[str, np.ndarray] = {}
    for spec, problem, name in lost(quick):
        if spec.name not in old:
            old[spec.name] = solve(problem, seed=seed).assignments()
        left = without(problem, [name])
        begun_s = time.perf_counter()
        first = repair(left, thin(old[spec.name])).points
        first_s = time.perf_counter() - begun_s
        after = replan(left, old[spec.name], seed, budget_s=0.15, clock=time.perf_counter).points()
        best = reference(left, search_s)
        points = best.points if best.exact else union([best.points, after])
        whole = normalised_hypervolume(points, points)
        ratios = [normalised_hypervolume(found, points) / whole for found in (first, after)]
        kind = "exact" if best.exact else "best"
        lines.append(f"| {spec.name} | {name} | {first_s * 1000:.1f} ms | {ratios[0]:.4f} | {ratios[1]:.4f} | {kind} |")
    return lines


def make_references(quick: bool, search_s: float) -> list[str]:
    """Find and keep the reference of every problem."""
    lines = []
    problems = [(spec.name, generate(spec)) for spec in specs(quick)]
    problems += [(f"{spec.name} without {name}", without(problem, [name])) for spec, problem, name in lost(quick)]
    for name, problem in problems:
        found = reference(problem, search_s)
        lines.append(f"{name}: {len(found.points)} points, {'exact' if found.exact else 'best known'}")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few small problems, under a minute")
    parser.add_argument("--ablation", action="store_true", help="what each ingredient is worth")
    parser.add_argument("--replan", action="store_true", help="loss of an accelerator")
    parser.add_argument("--references", action="store_true", help="only make the references")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    chosen = parser.parse_args()
    search_s = QUICK_SEARCH_S if chosen.quick else SEARCH_S
    if chosen.ablation:
        lines = ablation_table(quick=chosen.quick)
    elif chosen.replan:
        lines = fault_replan(chosen.seed, chosen.quick, search_s)
    elif chosen.references:
        lines = make_references(chosen.quick, search_s)
    else:
        rows = []
        for spec in specs(chosen.quick):
            rows.append(measure(spec, chosen.seed, search_s))
            print(spec.name, " ".join(f"{k}={v:.4f}" for k, v in rows[-1].ratios.items()), file=sys.stderr, flush=True)
        lines = side_by_side(rows)
        if "nsga2 1 s" not in rows[0].ratios:
            lines.append("\nNSGA-II skipped: pymoo is not installed (pip install pymoo).")
    print("\n".join(lines))
    if chosen.markdown is not None:
        chosen.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
