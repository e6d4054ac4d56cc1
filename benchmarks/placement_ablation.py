"""What each ingredient of PGSAM is worth: gap to the reference front with one ingredient off, relative to all on.

Equal effort, not equal time, so that the figures do not depend on how busy the machine is. Problems are drawn again
and again (bootstrap over problems, seeds within them) for the confidence interval.
"""

from __future__ import annotations

import sys
from dataclasses import fields

import numpy as np

from agent.placement.exact import exact_front
from agent.placement.pareto import Archive, normalised_hypervolume
from agent.placement.pgsam import Search
from agent.placement.problem import Problem
from agent.placement.tuning import Ablation, Tuning
from benchmarks.placement_problems import Spec, generate

SEEDS = 6
EFFORTS = (20_000_000, 100_000_000)
_FLOOR = 1e-5
_DRAWS = 4000
PROBLEMS = (
    Spec("mix", 12, 4, True, 0.05, 401),
    Spec("prefill", 12, 4, True, 0.02, 402),
    Spec("mix", 26, 2, True, 0.05, 403),
    Spec("mix", 26, 3, True, 0.05, 404),
    Spec("decode", 26, 4, False, 0.0, 405),
    Spec("mix", 26, 4, True, 0.05, 406),
    Spec("prefill", 26, 3, False, 0.02, 407),
    Spec("mix", 26, 6, False, 0.02, 408),
    Spec("mix", 50, 2, True, 0.05, 409),
    Spec("decode", 50, 4, False, 0.0, 410),
    Spec("mix", 50, 3, True, 0.05, 411),
    Spec("decode", 100, 3, True, 0.02, 412),
)


def variants() -> dict[str, Ablation]:
    """All on, and each ingredient off."""
    named = {"all on": Ablation()}
    for item in fields(Ablation):
        named[f"without {item.name.replace('_', ' ')}"] = Ablation(**{item.name: False})
    named["without momentum and guidance"] = Ablation(momentum=False, guidance=False)
    return named


def run(problem: Problem, ablation: Ablation, seed: int, efforts: tuple[int, ...]) -> list[np.ndarray]:
    """Objectives held at each effort."""
    search = Search(problem, seed, ablation)
    held = []
    for effort in efforts:
        while search.effort < effort:
            search.step(min(search.effort / efforts[-1], 1.0))
        held.append(search.archive.points.copy())
    return held


def gaps(spec: Spec, seeds: int) -> np.ndarray:
    """1 − hypervolume ratio, [V, S, E]."""
    problem = generate(spec)
    numbers = range(1, seeds + 1)
    held = [[run(problem, ablation, seed, EFFORTS) for seed in numbers] for ablation in variants().values()]
    best = Archive(problem.stage_count, limit=1 << 30)
    long = Search(problem, 999, tuning=Tuning(archive_limit=40_000))
    while long.effort < 10 * EFFORTS[-1]:
        long.step(long.effort / (10 * EFFORTS[-1]))
    best.merge(long.archive.points, long.archive.assignments)
    proof = exact_front(problem, comparison_limit=500_000_000, known=(best.points, best.assignments), paced=True)
    points = proof.points
    if not proof.complete:
        for points in [found for rows in held for found_at in rows for found in found_at]:
            best.merge(points, np.zeros((len(points), problem.stage_count), dtype=np.int8))
        points = best.points
    whole = normalised_hypervolume(points, points)
    kind = "exact" if proof.complete else "best known"
    print(f"{spec.name}: {len(points)} points, {kind}", file=sys.stderr, flush=True)
    return np.array([[[1.0 - normalised_hypervolume(p, points) / whole for p in s] for s in rows] for rows in held])


def ablation_table(quick: bool = False) -> list[str]:
    """Markdown lines."""
    problems, seeds = (PROBLEMS[:3], 2) if quick else (PROBLEMS, SEEDS)
    measured = np.array([gaps(spec, seeds) for spec in problems])  # [problem, variant, seed, effort]
    logs = np.log(np.maximum(measured, 0.0) + _FLOOR)
    rng = np.random.default_rng(0)
    columns = " | ".join(f"gap × at {effort / 1e6:g} M [95 %] | worst gap" for effort in EFFORTS)
    lines = [f"| variant | {columns} |", "|---" * (1 + 2 * len(EFFORTS)) + "|"]
    for at, name in enumerate(variants()):
        cells = []
        for effort in range(len(EFFORTS)):
            # Seeds are shared between variants, so differences are taken pair by pair.
            relative = logs[:, at, :, effort] - logs[:, 0, :, effort]
            low, high = _interval(relative, rng)
            worst = measured[:, at, :, effort].max()
            cells.append(f"{np.exp(relative.mean()):.2f} [{low:.2f}, {high:.2f}] | {worst:.4f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append("")
    lines.append(
        f"{len(problems)} problems × {seeds} seeds; geometric mean of (gap + {_FLOOR:g}) relative to all on; above 1 "
        "is worse. Worst gap: over all problems and seeds."
    )
    return lines


def _interval(relative: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    problems, seeds = relative.shape
    chosen = rng.integers(0, problems, (_DRAWS, problems))
    within = rng.integers(0, seeds, (_DRAWS, problems, seeds))
    means = relative[chosen[:, :, None], within].mean(axis=(1, 2))
    low, high = np.exp(np.percentile(means, [2.5, 97.5]))
    return float(low), float(high)
