"""How often the intervals of scaling fits hold the truth that their data were made of: 95 % are stated.

    python benchmarks/sampling_scaling.py [--quick] [--repeats 1000] [--json FILE]

Laws of coverage C = 1 - exp(-alpha N^bN S^bS) over model size and samples, measured with Gaussian noise or as shares
of 200 right answers; laws of joules a N^bN S^bS of each of three placements with 5 % noise; and the coverage law of one
evaluation, whose points all come from the same 200 questions. For the last, questions differ as they must for the law
to hold exactly: the rate of right samples is a positive stable variable (Kanter 1975, doi:10.1214/aop/1176996309),
whose Laplace transform is exp(-alpha S^beta).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from agent.evaluation.questions import scoring
from agent.evaluation.questions.question import Question
from agent.physics import scaling
from agent.sampling.strategy import Sample

SIZES = np.array([0.124, 0.35, 0.5, 1.2, 2.6])
"""Billions of parameters, as the papers' families have."""
COUNTS = np.array([1.0, 2, 4, 8, 16, 32])
SIZE, COUNT = (grid.ravel() for grid in np.meshgrid(SIZES, COUNTS))
PLACEMENTS = {"cpu": 1.0, "gpu": 0.6, "npu": 0.25}
POOL = 16
ASKED = Question("q", "number", "?", "1")
RIGHT, WRONG = Sample("1", 1, 1.0), Sample("2", 1, 1.0)

Trial = Callable[[np.random.Generator], list[bool] | None]
"""Which of the true values lie in their intervals; None where no law was fitted."""


def coverage(alpha: float, of_size: float, of_samples: float, shares: bool) -> Trial:
    truth = -np.expm1(-alpha * SIZE**of_size * COUNT**of_samples)

    def trial(rng: np.random.Generator) -> list[bool] | None:
        noisy = rng.binomial(200, truth) / 200 if shares else np.clip(truth + rng.normal(0, 0.01, truth.size), 0, 1)
        law = scaling.fit_coverage({"size": SIZE, "samples": COUNT}, noisy).law
        return None if law is None else held(law, alpha, [of_size, of_samples])

    return trial


def joules(factor: float, of_size: float, of_samples: float) -> Trial:
    truth = 3.0 * factor * SIZE**of_size * COUNT**of_samples

    def trial(rng: np.random.Generator) -> list[bool] | None:
        noisy = truth * np.exp(rng.normal(0, 0.05, truth.size))
        law = scaling.fit_power_law({"size": SIZE, "samples": COUNT}, noisy).law
        return None if law is None else held(law, 3.0 * factor, [of_size, of_samples])

    return trial


def evaluation(alpha: float, beta: float, questions: int) -> Trial:
    def trial(rng: np.random.Generator) -> list[bool] | None:
        rates = alpha ** (1 / beta) * stable(rng, beta, questions)
        right = rng.binomial(POOL, -np.expm1(-rates))
        asked = [scoring.Answered(ASKED, RIGHT, (RIGHT,) * c + (WRONG,) * (POOL - c)) for c in right.tolist()]
        fit = scoring.coverage_fit(asked, POOL)
        if "alpha" not in fit:
            return None
        pairs = ((alpha, fit["alpha_interval"]), (beta, fit["beta_interval"]))
        return [low <= value <= high for value, (low, high) in pairs]

    return trial


def stable(rng: np.random.Generator, beta: float, count: int) -> np.ndarray:
    """Positive stable variables with E[exp(-s X)] = exp(-s^beta)."""
    angle, size = rng.uniform(0, np.pi, count), rng.exponential(1.0, count)
    shape = np.sin(beta * angle) / np.sin(angle) ** (1 / beta)
    return shape * (np.sin((1 - beta) * angle) / size) ** ((1 - beta) / beta)


def held(law: scaling.ScalingLaw, scale: float, exponents: list[float]) -> list[bool]:
    intervals = [law.scale_interval, *law.exponent_intervals]
    return [low <= value <= high for value, (low, high) in zip([scale, *exponents], intervals, strict=True)]


def settings() -> dict[str, tuple[Trial, list[str]]]:
    both = ["alpha", "beta of size", "beta of samples"]
    made: dict[str, tuple[Trial, list[str]]] = {
        "coverage, noise of 1 point": (coverage(0.3, 0.4, 0.6, False), both),
        "coverage, shares of 200": (coverage(0.3, 0.4, 0.6, True), both),
        "coverage, shares of 200, rare": (coverage(0.05, 0.3, 0.5, True), both),
    }
    made |= {f"joules on the {name}": (joules(factor, 0.9, 0.8), both) for name, factor in PLACEMENTS.items()}
    return made | {
        "one evaluation of 200 questions": (evaluation(0.4, 0.4, 200), ["alpha", "beta of samples"]),
        "one evaluation of 200, easier": (evaluation(0.7, 0.6, 200), ["alpha", "beta of samples"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="50 repeats")
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    repeats = 50 if given.quick else given.repeats
    rows = []
    for name, (trial, names) in settings().items():
        started_s = time.monotonic()
        rng = np.random.default_rng(0)
        found = [found for found in (trial(rng) for _ in range(repeats)) if found is not None]
        shares = np.mean(found, axis=0) if found else np.zeros(len(names))
        held_shares = dict(zip(names, shares.tolist(), strict=True))
        rows.append({"setting": name, "repeats": repeats, "fitted": len(found)} | held_shares)
        told = ", ".join(f"{key} {share:.1%}" for key, share in zip(names, shares, strict=True))
        print(f"{name:32} {len(found)} of {repeats} fitted: {told}  ({time.monotonic() - started_s:.0f} s)", flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
