"""Sampling strategies side by side on answer distributions whose truth is known: right answers, joules, samples.

    python benchmarks/sampling_strategies.py [--quick] [--questions 2000] [--recorded RUN/samples.jsonl] [--json FILE]

The questions are simulated: on each the model has its own distribution over answers (a difficulty from Beta(2.2, 1.6),
wrong answers with a tail of exponent 1.2; on a sixth of the questions a wrong answer leads). A sample costs 1 J, drawn
in batches as the decoder does (the first of a batch 1 J, the others 0.35 J, as measured for eight at once; Beta draws
one by one), a self-check 0.15 J, deriving again 1 J. The mean log-probability of a right sample is higher by half a
standard deviation. None of this is a measurement of a language model; `qeil evaluate` gives that, and `--recorded`
replays the pool of such a run, without the cascade, whose checks no run records.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from agent.sampling import cascade, ensemble, strategy
from agent.sampling.cascade import Check
from agent.sampling.ensemble import Calibration
from agent.sampling.reliability import Reliabilities, Source, Vote
from agent.sampling.strategy import Sample, Strategy

POOL, SIDE_BY_SIDE = 16, 0.35
ANSWERS = 8
RATES = {"self-check": (0.75, 0.45), "derive-again": (0.8, 0.3)}
"""Chance that a right and a wrong candidate pass; the cascade begins with priors and learns them on the way."""
COSTS = {"self-check": 0.15, "derive-again": 1.0}
WARM_UP = 100
"""Questions at the start whose truth the cascade and the ensemble are told."""
DECIDED = 0.9
SOURCE = Source("simulated", "number", "as served", "cpu")


@dataclass(frozen=True)
class Question:
    truth: int
    pool: tuple[Sample, ...]
    greedy: Sample
    luck: tuple[float, ...]
    """Uniform numbers for the outcomes of checks, the same for every strategy."""


@dataclass(frozen=True)
class Outcome:
    right: bool
    joules: float
    samples: int


def questions(count: int, seed: int) -> list[Question]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        share = rng.beta(2.2, 1.6)
        wrong = 1.0 / np.arange(1, ANSWERS) ** 1.2
        chances = np.array([share, *(1 - share) * wrong / wrong.sum()])
        if rng.random() < 1 / 6:
            chances[[0, 1]] = sorted(chances[[0, 1]])  # a wrong answer leads
        truth = int(rng.integers(1000))
        answers = rng.choice(ANSWERS, size=POOL, p=chances)
        scores = rng.normal(0, 1, POOL) + 0.5 * (answers == 0)
        pool = tuple(_sample(truth, int(a), float(s)) for a, s in zip(answers, scores, strict=True))
        leader = int(np.argmax(chances)) if rng.random() < 0.8 else int(rng.choice(ANSWERS, p=chances))
        found.append(Question(truth, pool, _sample(truth, leader, 0.0), tuple(rng.random(64))))
    return found


def _sample(truth: int, answer: int, score: float) -> Sample:
    return Sample(truth + 7 * answer, 50, 1.0, None, score)


def energy_j(samples: int, batches: list[int]) -> float:
    """Joules of samples drawn in these batches."""
    assert sum(batches) == samples
    return sum(1.0 + SIDE_BY_SIDE * (size - 1) for size in batches)


def replayed(rule: Strategy, question: Question) -> Outcome:
    progress, batches = strategy.Progress(), []
    while size := strategy.decide(rule, progress).next_samples:
        drawn = question.pool[len(progress.samples) : len(progress.samples) + size]
        progress = progress.add(*drawn)
        batches.append(size)
    answer = strategy.answer(rule, progress)
    return Outcome(answer == question.truth, energy_j(len(progress.samples), batches), len(progress.samples))


class Eac:
    """Certified stopping as csvet does, and the cascade of checks where a question is open after 8 samples."""

    def __init__(self) -> None:
        self.known, self.calibration = Reliabilities(), Calibration()
        self.checks = {name: Check(name, COSTS[name], (3.0, 1.0), (1.5, 2.0)) for name in COSTS}
        self.asked = 0

    def __call__(self, question: Question) -> Outcome:
        rule = Strategy("csvet", 8, 0.05)
        progress, batches = strategy.Progress(), []
        while size := strategy.decide(rule, progress).next_samples:
            progress = progress.add(*question.pool[len(progress.samples) : len(progress.samples) + size])
            batches.append(size)
        drawn_j = energy_j(len(progress.samples), batches)
        votes = [Vote(SOURCE, sample.answer) for sample in progress.samples]
        verdict = ensemble.decide(votes, self.known, self.calibration)
        assert verdict is not None
        certified = strategy.decide(rule, progress).reason == "certified"
        candidates = list(verdict.calibrated())[:4]
        state = cascade.start([verdict.calibrated()[c] for c in candidates])
        luck = iter(question.luck)
        while not certified or self.asked < WARM_UP:
            step = cascade.choose(state, list(self.checks.values()), DECIDED)
            if step.stop or step.candidate is None or step.check is None:
                break
            rates = RATES[step.check]
            passes = next(luck) < rates[candidates[step.candidate] != question.truth]
            check = self.checks[step.check]
            state = state.after(step.candidate, check, "pass" if passes else "fail", check.cost_j)
        answer = candidates[state.leader or 0] if state.trace else verdict.answer
        if self.asked < WARM_UP:
            truth = candidates.index(question.truth) if question.truth in candidates else None
            self.checks = cascade.learnt(self.checks, state, truth)
            self.known, self.calibration = ensemble.learn(votes, self.known, self.calibration, question.truth)
        self.asked += 1
        return Outcome(answer == question.truth, drawn_j + state.spent_j, len(progress.samples))


def contenders() -> dict[str, Callable[[Question], Outcome]]:
    rules = {
        f"majority of {POOL}": Strategy("majority", POOL), f"best of {POOL}": Strategy("best-of-n", POOL),
        "adaptive consistency": Strategy("beta", POOL), "doubling": Strategy("doubling", 8),
        "csvet 0.05": Strategy("csvet", POOL, 0.05),
    }  # fmt: skip
    made: dict[str, Callable[[Question], Outcome]] = {"greedy": lambda q: Outcome(q.greedy.answer == q.truth, 1.0, 1)}
    made |= {name: lambda q, rule=rule: replayed(rule, q) for name, rule in rules.items()}  # type: ignore[misc]
    return made | {"eac (csvet, then checks)": Eac()}


def recorded(file: Path) -> list[Question]:
    """The pools of a run of `qeil evaluate` over generated numbers or choices, whose truth its questions carry."""
    from agent.evaluation.questions import generated, reading  # noqa: PLC0415
    from agent.evaluation.questions.extraction import extract  # noqa: PLC0415

    header, *rows = [json.loads(line) for line in file.read_text().splitlines()]
    task = header["header"]["dataset"]
    asked = {q.id: q for q in reading.parsed(task, generated.lines(task, 10_000, header["header"]["seed"])).questions}
    pools: dict[str, list[Sample]] = {}
    greedy: dict[str, Sample] = {}
    for row in rows:
        question = asked[row["question"]]
        made = [
            Sample(extract(question, s["text"]), s["tokens"], s["seconds"], None, s["mean_logprob"])
            for s in row["samples"]
        ]
        if row["greedy"]:
            greedy[question.id] = made[0]
        else:
            pools.setdefault(question.id, []).extend(made)
    luck = tuple(np.random.default_rng(0).random(64))
    return [
        Question(asked[name].truth, tuple(pool[:POOL]), greedy[name], luck)  # type: ignore[arg-type]
        for name, pool in pools.items() if len(pool) >= POOL and name in greedy
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="200 questions")
    parser.add_argument("--questions", type=int, default=2000)
    parser.add_argument("--recorded", type=Path, help="samples.jsonl of a run of qeil evaluate")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    count = 200 if given.quick else given.questions
    asked = recorded(given.recorded) if given.recorded else questions(count + WARM_UP, seed=0)
    warm_up = 0 if given.recorded else WARM_UP
    kind = "recorded" if given.recorded else "simulated"
    print(f"{len(asked) - warm_up} questions, {kind}; joules as a model of batches has them")
    rows = []
    for name, run in contenders().items():
        if given.recorded and isinstance(run, Eac):
            continue
        outcomes = [run(question) for question in asked][warm_up:]
        right = statistics.fmean(o.right for o in outcomes)
        error = (right * (1 - right) / len(outcomes)) ** 0.5
        joules, samples = (statistics.fmean(getattr(o, key) for o in outcomes) for key in ("joules", "samples"))
        rows.append({"strategy": name, "right": right, "error": error, "joules": joules, "samples": samples,
                     "joules_per_right": joules / right if right else None})  # fmt: skip
        print(f"{name:26} right {right:6.1%} ± {1.96 * error:.1%}, {joules:5.2f} J, {samples:5.2f} samples, "
              f"{joules / max(right, 1e-9):5.2f} J per right answer", flush=True)  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
