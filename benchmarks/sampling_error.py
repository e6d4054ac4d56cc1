"""Error control of early stopping: how often a wrong answer is certified when one looks after every sample.

    python benchmarks/sampling_error.py [--quick] [--streams 10000] [--json FILE]

Streams of answers are drawn from distributions of known mode; each rule stops where it wants. "Wrong" is the share of
streams that ended in certifying an answer that is not the mode, "samples" the mean number it took. CSVET must keep α;
Beta(0.95), looked at after every sample, stands beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from agent.sampling import baselines
from agent.sampling.csvet import certified_alpha
from agent.sampling.tally import Tally

LOOKS = 64
ALPHAS = (0.05, 0.01)


def settings() -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for margin in (0.02, 0.1, 0.3):
        for categories in (2, 5, 20):
            others = [0.3 / max(1, categories - 2)] * (categories - 2)
            top = (1.0 - sum(others)) / 2
            weights = np.array([top + margin / 2, top - margin / 2, *others])
            found[f"margin {margin}, {categories} answers"] = weights / weights.sum()
    for exponent in (1.0, 1.5):
        weights = 1.0 / np.arange(1, 201) ** exponent
        found[f"heavy tail, exponent {exponent}"] = weights / weights.sum()
    return found


def run(chances: np.ndarray, streams: int, stops: Callable[[Tally], bool], seed: int) -> tuple[float, float, float]:
    """(share of streams that certify a wrong answer, share that certify at all, mean samples)."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(chances), size=(streams, LOOKS), p=chances)
    wrong = certified = used = 0
    for stream in drawn:
        tally = Tally()
        for answer in stream:
            tally = tally.add(int(answer))
            if stops(tally):
                certified += 1
                wrong += tally.answers[tally.leader()] != 0
                break
        used += tally.samples
    return wrong / streams, certified / streams, used / streams


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="200 streams a setting")
    parser.add_argument("--streams", type=int, default=10_000)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    streams = 200 if arguments.quick else arguments.streams
    rules: dict[str, tuple[float, Callable[[Tally], bool]]] = {
        f"CSVET {alpha}": (alpha, lambda tally, alpha=alpha: certified_alpha(tally) <= alpha) for alpha in ALPHAS
    }
    rules["Beta(0.95)"] = (0.05, baselines.adaptive_consistency)
    rows, broken = [], 0
    print(f"{'setting':<28} {'rule':<12} {'wrong':>8} {'promised':>9} {'certified':>10} {'samples':>8}")
    for name, chances in settings().items():
        for rule, (alpha, stops) in rules.items():
            wrong, certified, used = run(chances, streams, stops, seed=1)
            allowed = alpha + 3 * math.sqrt(alpha * (1 - alpha) / streams)
            broken += rule.startswith("CSVET") and wrong > allowed
            rows.append({"setting": name, "rule": rule, "wrong": wrong, "certified": certified, "samples": used})
            print(f"{name:<28} {rule:<12} {wrong:>8.2%} {alpha:>9.0%} {certified:>10.1%} {used:>8.1f}", flush=True)
    print(f"{'√' if not broken else '×'} CSVET within its promise (plus three standard errors of {streams} streams)")
    if arguments.json:
        arguments.json.write_text(json.dumps({"streams": streams, "looks": LOOKS, "rows": rows}, indent=1))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
