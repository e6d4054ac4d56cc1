"""Placement side by side: PGSAM against greedy, one accelerator, random search and NSGA-II, in one run.

    python benchmarks/placement.py [--quick] [--ablation] [--replan] [--markdown FILE]

Hypervolumes are relative to the exact front where the exact search finishes ("exact"), else to the union of all that
was found in this run ("best"). Times are wall-clock on the machine it runs on; a busy machine makes them worse.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from agent.errors import PlacementError
from agent.placement.exact import exact_front
from agent.placement.pareto import Archive, normalised_hypervolume
from agent.placement.pgsam import Search
from agent.placement.problem import Problem
from agent.placement.solve import solve
from agent.placement.warm import repair, replan, thin, without
from benchmarks.placement_ablation import ablation_table
from benchmarks.placement_problems import Spec, generate, specs

MARKS_S = (0.1, 0.3, 1.0)
REFERENCE_COMPARISONS = 1_500_000_000


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


def nsga2(problem: Problem, seed: int, budget_s: float) -> np.ndarray | None:
    """Objectives found by NSGA-II; None without pymoo."""
    try:
        genetic = importlib.import_module("benchmarks.placement_nsga2")
    except ModuleNotFoundError:
        return None
    found: np.ndarray = genetic.nsga2(problem, seed, budget_s)
    return found


def measure(spec: Spec, seed: int) -> Row:
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
    genetic = nsga2(problem, seed, 1.0)
    if genetic is not None:
        row.found["nsga2 1 s"] = genetic
    longest = Search(problem, seed + 1000)
    while longest.effort < 60_000_000:
        longest.step(longest.effort / 60_000_000)
    proof = exact_front(
        problem,
        comparison_limit=REFERENCE_COMPARISONS,
        known=(longest.archive.points, longest.archive.assignments),
        paced=True,
    )
    row.exact = proof.complete
    reference = proof.points if proof.complete else union([longest.archive.points, *row.found.values()])
    row.size = len(reference)
    whole = normalised_hypervolume(reference, reference)
    row.ratios = {name: normalised_hypervolume(points, reference) / whole for name, points in row.found.items()}
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


def fault_replan(seed: int, quick: bool) -> list[str]:
    """An accelerator is lost at 50 stages and 4 accelerators: time to the first plan, and quality after 150 ms."""
    lines = [
        "| problem | lost | first plan | its hypervolume | after 150 ms | reference |",
        "|---|---|---|---|---|---|",
    ]
    for phase, tight, jitter in (("decode", False, 0.0), ("mix", True, 0.05), ("prefill", False, 0.02))[
        : 1 if quick else 3
    ]:
        spec = Spec(phase, 50, 4, tight, jitter, 301)
        problem = generate(spec)
        old = solve(problem, seed=seed).assignments()
        for lost in problem.accelerators[1:]:
            left = without(problem, [lost])
            begun_s = time.perf_counter()
            first = repair(left, thin(old)).points
            first_s = time.perf_counter() - begun_s
            after = replan(left, old, seed, budget_s=0.14, clock=time.perf_counter).points()
            known = solve(left, seed=seed + 1)
            reference = known.points() if known.exact else union([known.points(), after])
            whole = normalised_hypervolume(reference, reference)
            ratios = [normalised_hypervolume(points, reference) / whole for points in (first, after)]
            kind = "exact" if known.exact else "best"
            lines.append(
                f"| {spec.name} | {lost} | {first_s * 1000:.1f} ms | {ratios[0]:.4f} | {ratios[1]:.4f} | {kind} |"
            )
    return lines


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few small problems, under a minute")
    parser.add_argument("--ablation", action="store_true", help="what each ingredient is worth")
    parser.add_argument("--replan", action="store_true", help="loss of an accelerator")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    chosen = parser.parse_args()
    if chosen.ablation:
        lines = ablation_table(quick=chosen.quick)
    elif chosen.replan:
        lines = fault_replan(chosen.seed, chosen.quick)
    else:
        rows = []
        for spec in specs(chosen.quick):
            rows.append(measure(spec, chosen.seed))
            print(spec.name, " ".join(f"{k}={v:.4f}" for k, v in rows[-1].ratios.items()), file=sys.stderr, flush=True)
        lines = side_by_side(rows)
        if "nsga2 1 s" not in rows[0].ratios:
            lines.append("\nNSGA-II skipped: pymoo is not installed (pip install pymoo).")
    print("\n".join(lines))
    if chosen.markdown is not None:
        chosen.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
