"""EAC on a real run: samples by csvet, then the check with the most bits per joule next, on the verdicts recorded.

Rates of the checks and reliabilities are learnt from question to question: each one is decided with what the earlier
ones taught, then its truth is told. Beside it "every answer verified": the dear verifier is asked about all of them,
and of those that pass the one with the most votes is the answer.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from agent.evaluation.questions.checks import MAX_CANDIDATES, NAMES, CheckBook, Verdict
from agent.evaluation.questions.scoring import Answered, given_answer, wilson
from agent.records import record
from agent.sampling import cascade, ensemble
from agent.sampling.cascade import Cascade, Check
from agent.sampling.ensemble import Calibration
from agent.sampling.reliability import Reliabilities, Source, Vote
from agent.sampling.strategy import Progress, Strategy, replay

DECIDED = 0.95
BELIEVED = 0.5
"""Above it checks make an answer of one that no second sample gave, as in a live reply."""
PRIORS = {
    "plain": ((2.0, 1.0), (1.5, 1.5)), "logprob": ((2.0, 1.0), (1.0, 2.0)), "self_check": ((2.0, 1.0), (1.0, 2.0)),
    "verifier": ((3.0, 1.0), (1.0, 3.0)),
}  # fmt: skip
"""Counts of (passed, failed) for right and for wrong answers, before anything was learnt."""


@record(frozen=True)
class _One:
    answer: str | None
    right: bool
    samples_j: float
    state: Cascade
    names: tuple[str, ...]
    stop: str
    every_right: bool
    every_calls: int
    every_j: float


def measured(results: Sequence[Answered], book: CheckBook, strategy: Strategy, task: str) -> dict[str, Any] | None:
    """What the cascade and "every answer verified" make of the run, with the trace; None where joules are unknown or no
    verdicts were recorded."""
    checks = {name: Check(name, 0.0, *PRIORS[name]) for name in NAMES}
    known, calibration = Reliabilities(), Calibration()
    source = Source("evaluated", task, "as served", "as served")
    found: list[_One] = []
    unrecorded = 0
    for result in results:
        progress, decision = replay(strategy, result.pool)
        answers = _candidates(result, progress, book)
        verdicts = {(a, name): book.verdict(result.question.id, a, name) for a in answers for name in NAMES}
        unrecorded += not answers and progress.tally.samples > 0
        if progress.joules is None or any(v is None or v.joules is None for v in verdicts.values()):
            return None
        checks = _priced(checks, verdicts)
        votes = [Vote(source, sample.answer) for sample in progress.samples if sample.answer is not None]
        settled = decision.reason in {"certified", "majority"}
        weighed = ensemble.decide(votes, known, calibration)
        chances = {} if weighed is None else weighed.calibrated()
        state = cascade.start([chances.get(answer, 0.0) for answer in answers])
        worth_j = strategy.worth(progress.joules / len(progress.samples))
        state, stop = (state, decision.reason) if settled else _asked(state, checks, answers, verdicts, worth_j)
        given = given_answer(strategy, progress)
        found.append(_judged(result, progress, given, answers, verdicts, state, stop))
        truth = answers.index(result.question.truth) if result.question.truth in answers else None
        checks = cascade.learnt(checks, state, truth)
        if votes:
            known, calibration = ensemble.learn(votes, known, calibration, result.question.truth)
    return None if unrecorded and not any(one.names for one in found) else _document(results, found, book)


def _candidates(result: Answered, progress: Progress, book: CheckBook) -> list[str]:
    """The answers with the most votes of which there are verdicts; none where the leader has none: it then stands."""
    ranked = [str(answer) for answer in progress.tally.most(len(progress.tally.answers))]
    asked = [a for a in ranked if all(book.verdict(result.question.id, a, name) is not None for name in NAMES)]
    return asked[:MAX_CANDIDATES] if asked and asked[0] == ranked[0] else []


def _priced(checks: dict[str, Check], verdicts: dict[tuple[str, str], Verdict | None]) -> dict[str, Check]:
    """A check is expected to cost what it does on average on this question; booked is what it did cost."""
    priced = {}
    for name, check in checks.items():
        costs = [v.joules or 0.0 for (_, of), v in verdicts.items() if of == name and v is not None]
        priced[name] = replace(check, cost_j=sum(costs) / len(costs) if costs else check.cost_j)
    return priced


def _asked(
    state: Cascade,
    checks: dict[str, Check],
    answers: Sequence[str],
    verdicts: dict[tuple[str, str], Verdict | None],
    worth_j: float | None,
) -> tuple[Cascade, str]:
    while True:
        step = cascade.choose(state, list(checks.values()), DECIDED, worth_j=worth_j)
        if step.candidate is None or step.check is None:
            return state, step.stop or "nothing_to_gain"
        verdict = verdicts[answers[step.candidate], step.check]
        assert verdict is not None  # noqa: S101  (looked up for every pair)
        state = state.after(step.candidate, checks[step.check], verdict.outcome, verdict.joules or 0.0)


def _judged(
    result: Answered, progress: Progress, given: Hashable | None, answers: Sequence[str],
    verdicts: dict[tuple[str, str], Verdict | None], state: Cascade, stop: str,
) -> _One:  # fmt: skip
    leader = None if given is None else str(given)
    answer = leader
    if state.spoken and state.leader is not None:
        # Of answers no two of which agree only one that the checks speak for is given, of refuted ones none.
        shared = leader is not None or state.belief[state.leader] > BELIEVED
        answer = answers[state.leader] if shared and not state.refuted(DECIDED) else None
    dear = {a: verdicts[a, "verifier"] for a in answers}
    passed = [a for a, verdict in dear.items() if verdict is not None and verdict.outcome == "pass"]
    counts = dict(zip(map(str, progress.tally.answers), progress.tally.counts, strict=True))
    every = max(passed, key=lambda a: counts[a], default=leader)
    truth = result.question.truth
    return _One(
        answer, answer == truth, progress.joules or 0.0, state, tuple(answers), stop, every == truth, len(answers),
        sum(verdict.joules or 0.0 for verdict in dear.values() if verdict is not None),
    )  # fmt: skip


def _document(results: Sequence[Answered], found: Sequence[_One], book: CheckBook) -> dict[str, Any]:
    count = len(found)
    calls = sum(step.check == "verifier" for one in found for step in one.state.trace)
    every = sum(one.every_calls for one in found)
    right, every_right = sum(one.right for one in found), sum(one.every_right for one in found)
    samples_j = sum(one.samples_j for one in found) / count
    return {
        "accuracy": right / count, "accuracy_interval": list(wilson(right, count)),
        "verifier_calls": calls, "checks_j": sum(one.state.spent_j for one in found) / count, "samples_j": samples_j,
        "every": {
            "accuracy": every_right / count, "accuracy_interval": list(wilson(every_right, count)),
            "verifier_calls": every, "checks_j": sum(one.every_j for one in found) / count,
        },
        "avoided": 1.0 - calls / every if every else None, "verdicts": len(book),
        "trace": [
            {
                "question": result.question.id, "answer": one.answer, "right": one.right, "stop": one.stop,
                "checks": [
                    {
                        "answer": one.names[step.candidate], "check": step.check, "outcome": step.outcome,
                        "joules": step.cost_j, "belief": step.belief,
                    }
                    for step in one.state.trace
                ],
            }
            for result, one in zip(results, found, strict=True)
        ],
    }  # fmt: skip
