"""Verification: asks about candidate answers, the check with the most bits per joule next, until one is believed.

Two checks of the model itself: whether it calls the answer right, which is cheap, and whether it derives it once more,
which costs a sample. Their rates are those that the answer book has learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from agent.errors import QeilError
from agent.ports import TextHandle
from agent.sampling import cascade
from agent.sampling.cascade import Cascade, Check, Outcome
from agent.schema.text import SamplingPlan, TextDone, TextEvent, TextPiece, TextRequest
from agent.service.decoding.answer_text import answer_in

SELF_CHECK = "self_check"
DERIVE_AGAIN = "derive_again"
QUESTION = "Is the answer above right? Say only yes or no."
SELF_CHECK_TOKENS = 4
SELF_CHECK_SHARE = 0.15
"""Joules of a self-check over those of a sample, before one was paid for: it reads as much, writes less."""
DERIVING_TEMPERATURE = 0.3
DECIDED = 0.95
MAX_CHECKS = 8

Steps = tuple[tuple[str, str, str, float, float], ...]
"""(answer, check, outcome, joules, belief in the answer afterwards)."""


@dataclass(frozen=True)
class Candidate:
    """An answer, the text that it stands in, and its chance before any check."""

    answer: str
    text: str
    chance: float


@dataclass(frozen=True)
class Checked:
    """The end: the answer believed most, how much, why no more was asked."""

    answer: str
    belief: float
    stop: str
    steps: Steps
    spent_j: float
    compute_s: float
    tokens: int


class Verification:
    """Driven by events; `done` is told once, `Checked` or the error that ended it. Owned by one sampling run."""

    def __init__(
        self,
        request: TextRequest,
        plan: SamplingPlan,
        candidates: Sequence[Candidate],
        sample_j: float,
        budget_j: float | None,
        write: Callable[[TextRequest, Callable[[TextEvent], None]], TextHandle],
        done: Callable[[Checked | QeilError], None],
        check: Callable[[str, float], Check],
        worth_j: float | None = None,
    ) -> None:
        """`check(name, joules)` gives a check with its rates; `worth_j` as in `cascade.choose`.

        `request.first_sample` is the number of the next sample that nobody has drawn.
        """
        self._request, self._plan, self._candidates, self._budget_j = request, plan, candidates, budget_j
        self._write, self._done, self._worth_j = write, done, worth_j
        self._state: Cascade = cascade.start([candidate.chance for candidate in candidates])
        self._checks = {
            SELF_CHECK: check(SELF_CHECK, SELF_CHECK_SHARE * sample_j),
            DERIVE_AGAIN: check(DERIVE_AGAIN, sample_j),
        }
        self._asked: tuple[int, Check] | None = None
        self._text = ""
        self._compute_s, self._tokens = 0.0, 0

    def next(self) -> TextHandle | None:
        """Ask the next check; None where it is over, which `done` has been told."""
        chosen = cascade.choose(self._state, list(self._checks.values()), DECIDED, self._budget_j, self._worth_j)
        stop = chosen.stop or ("checks" if len(self._state.trace) >= MAX_CHECKS else None)
        if stop is not None or chosen.candidate is None or chosen.check is None:
            self._end(stop or "nothing_to_gain")
            return None
        self._asked, self._text = (chosen.candidate, self._checks[chosen.check]), ""
        return self._write(self._question(self._candidates[chosen.candidate], chosen.check), self._heard)

    def _question(self, candidate: Candidate, check: str) -> TextRequest:
        asked = replace(self._request, samples=1, logprobs=None)
        if check == DERIVE_AGAIN:
            number = asked.first_sample + len(self._state.trace)
            return replace(asked, first_sample=number, temperature=DERIVING_TEMPERATURE)
        short = replace(asked, first_sample=0, temperature=0.0, max_tokens=SELF_CHECK_TOKENS, stops=(), form=None)
        if asked.messages is None:
            return replace(short, prompt=f"{asked.prompt}{candidate.text}\n\n{QUESTION}\n")
        said = ({"role": "assistant", "content": candidate.text}, {"role": "user", "content": QUESTION})
        return replace(short, messages=(*asked.messages, *said))

    def _heard(self, event: TextEvent) -> None:
        if isinstance(event, TextPiece):
            self._text += event.text
        elif isinstance(event, TextDone):
            self._judged(event)
        else:
            self._done(event)

    def _judged(self, done: TextDone) -> None:
        assert self._asked is not None  # noqa: S101  (an answer follows a question)
        index, check = self._asked
        self._compute_s += done.usage.compute_s
        self._tokens += done.usage.tokens
        cost_j = check.cost_j if done.usage.energy_j is None else done.usage.energy_j
        self._state = self._state.after(index, check, self._outcome(self._candidates[index], check), cost_j)
        self._checks[check.name] = replace(check, cost_j=cost_j)
        try:
            self.next()
        except QeilError as error:
            self._done(error)

    def _outcome(self, candidate: Candidate, check: Check) -> Outcome:
        if check.name == DERIVE_AGAIN:
            found = answer_in(self._text, self._plan.answer, self._plan.choices)
            return "unknown" if found is None else "pass" if found == candidate.answer else "fail"
        said = self._text.strip().casefold()
        return "pass" if said.startswith("yes") else "fail" if said.startswith("no") else "unknown"

    def _end(self, stop: str) -> None:
        leader = self._state.leader or 0
        steps = tuple(
            (self._candidates[step.candidate].answer, step.check, step.outcome, step.cost_j, step.belief)
            for step in self._state.trace
        )
        self._done(
            Checked(
                self._candidates[leader].answer,
                self._state.belief[leader],
                stop,
                steps,
                self._state.spent_j,
                self._compute_s,
                self._tokens,
            )
        )
