"""Selecting among samples: verifier calls that the cascade (EAC) saves, and what weighted votes (ARDE) know better.

    python benchmarks/sampling_selection.py [--quick] [--questions 2000] [--json FILE]

Questions are simulated. A question has a difficulty; three accelerators give four samples each, whose errors of one
question are partly common and half of the time fall on the same wrong answer. Checks of an answer cost 0 J (format),
0.01 J (log-probability), 1 J (asking the model itself) and 20 J (a verifier that errs in 3 %). "All verified" asks the
verifier about every distinct answer, the cascade decides from bits per joule what to ask. In the second half one
accelerator answers noise. The simulation is a model of errors, not a measurement of a language model.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from agent.sampling import cascade, ensemble
from agent.sampling.cascade import Check
from agent.sampling.reliability import Reliabilities, Source, Vote

SOURCES = [Source("simulated", "arithmetic", "int8", name) for name in ("cpu", "gpu", "npu")]
SICK = SOURCES[2]
SAMPLES = 4
RATES = {"format": (0.98, 0.8), "logprob": (0.7, 0.4), "self-check": (0.8, 0.4), "verifier": (0.97, 0.03)}
"""Chance that a right and a wrong answer pass; the cascade starts without knowing them."""
CHECKS = {
    "format": Check("format", 0.0, (2.0, 1.0), (1.5, 1.5)),
    "logprob": Check("logprob", 0.01, (2.0, 1.0), (1.0, 2.0)),
    "self-check": Check("self-check", 1.0, (2.0, 1.0), (1.0, 2.0)),
    "verifier": Check("verifier", 20.0, (18.0, 2.0), (2.0, 18.0)),
}
DECIDED = 0.99
"""Belief at which the cascade asks no more."""
WARM_UP = 100
"""Questions with a known truth at the start, for the checks' rates and the calibration; they are not counted."""


@dataclass(frozen=True)
class Asked:
    truth: int
    votes: list[Vote]


def questions(count: int, seed: int) -> Iterator[Asked]:
    rng = np.random.default_rng(seed)
    for number in range(count):
        truth, decoy = (int(v) for v in rng.choice(20, size=2, replace=False))
        votes = []
        ease = rng.beta(2.2, 1.2)
        for source in SOURCES:
            skill = 0.05 if source == SICK and number >= count // 2 else np.clip(ease + rng.normal(0, 0.08), 0.02, 0.98)
            for _ in range(SAMPLES):
                wrong = decoy if rng.random() < 0.5 and source != SICK else int(rng.integers(20))
                votes.append(Vote(source, truth if rng.random() < skill else wrong))
        yield Asked(truth, votes)


def asked(rng: np.random.Generator, check: str, right: bool) -> cascade.Outcome:
    return "pass" if rng.random() < RATES[check][0 if right else 1] else "fail"


def verify_all(question: Asked, rng: np.random.Generator) -> tuple[bool, int]:
    """(right, verifier calls): every distinct answer is verified, the most frequent that passes wins."""
    counts = Counter(vote.answer for vote in question.votes)
    passed = [a for a in counts if asked(rng, "verifier", a == question.truth) == "pass"]
    given = max(passed or list(counts), key=lambda a: counts[a])
    return given == question.truth, len(counts)


def run(count: int, seed: int) -> dict[str, Any]:
    reliabilities, calibration, checks = Reliabilities(), ensemble.Calibration(), dict(CHECKS)
    rng, other = np.random.default_rng(seed + 1), np.random.default_rng(seed + 2)
    rows = []
    lost_say: int | None = None
    for number, question in enumerate(questions(count, seed)):
        verdict = ensemble.decide(question.votes, reliabilities, calibration)
        assert verdict is not None
        chances = verdict.calibrated()
        answers = list(chances)
        state = cascade.start(list(chances.values()))
        while (step := cascade.choose(state, list(checks.values()), decided=DECIDED)).stop is None:
            outcome = asked(rng, step.check, answers[step.candidate] == question.truth)
            state = state.after(step.candidate, checks[step.check], outcome, checks[step.check].cost_j)
        all_right, all_calls = verify_all(question, other)
        counts = Counter(vote.answer for vote in question.votes)
        mode, votes = counts.most_common(1)[0]
        if number >= WARM_UP:
            rows.append({
                "right": answers[state.leader] == question.truth, "joules": state.spent_j,
                "calls": sum(s.check == "verifier" for s in state.trace), "all_right": all_right,
                "all_calls": all_calls, "confidence": verdict.confidence, "share": votes / len(question.votes),
                "weighted_right": verdict.answer == question.truth, "mode_right": mode == question.truth,
            })  # fmt: skip
        truth = question.truth if number < WARM_UP else None
        known = answers.index(question.truth) if question.truth in answers else None
        if number < WARM_UP:
            checks = cascade.learnt(checks, state, known)
        reliabilities, calibration = ensemble.learn(question.votes, reliabilities, calibration, truth)
        if number >= count // 2 and lost_say is None:
            means = {s: reliabilities.of(s).mean for s in SOURCES}
            lost_say = number - count // 2 + 1 if means[SICK] < min(means[s] for s in SOURCES[:2]) - 0.1 else None
    return summary(rows, lost_say)


def summary(rows: list[dict[str, Any]], lost_say: int | None) -> dict[str, Any]:
    def mean(key: str) -> float:
        return float(np.mean([row[key] for row in rows]))

    return {
        "questions": len(rows), "accuracy_cascade": mean("right"), "accuracy_all_verified": mean("all_right"),
        "accuracy_majority": mean("mode_right"), "accuracy_weighted": mean("weighted_right"),
        "verifier_calls_cascade": mean("calls"), "verifier_calls_all": mean("all_calls"),
        "calls_avoided": 1.0 - mean("calls") / mean("all_calls"), "joules_cascade": mean("joules"),
        "joules_all": 20.0 * mean("all_calls"),
        "brier_weighted": ensemble.brier([r["confidence"] for r in rows], [r["weighted_right"] for r in rows]),
        "brier_share": ensemble.brier([r["share"] for r in rows], [r["mode_right"] for r in rows]),
        "sick_accelerator_lost_weight_after": lost_say,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="400 questions, 2 seeds")
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    count, seeds = (400, 2) if arguments.quick else (arguments.questions, arguments.seeds)
    runs = [run(count, seed) for seed in range(seeds)]
    print(f"{'median of ' + str(seeds) + ' seeds, ' + str(count) + ' questions each':<44} {'value':>10}   range")
    for key in runs[0]:
        values = [r[key] if r[key] is not None else float("inf") for r in runs]
        print(f"{key.replace('_', ' '):<44} {np.median(values):>10.4g}   {min(values):.4g} – {max(values):.4g}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"runs": runs}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
