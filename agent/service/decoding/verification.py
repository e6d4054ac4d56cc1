"""Verification: asks about candidate answers, the check with the most bits per joule next, until one is believed.

Two checks of the model that wrote the samples: whether it calls the answer right, which is cheap, and whether it
derives it once more, which costs a sample; a third where another one verifies: whether that derives the same. Their
rates are those that the answer book has learnt. A check that comes to nothing – its process died, its time ran out – is
not asked again; what the samples say still stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from agent.errors import DeadlineExceeded, QeilError
from agent.ports import TextHandle
from agent.records import record
from agent.sampling import cascade
from agent.sampling.cascade import Cascade, Check, Next, Outcome
from agent.schema.snapshot import EnergyProvenance
from agent.schema.text import SamplingPlan, TextDone, TextEvent, TextPiece, TextRequest
from agent.service.decoding.answer_text import answer_in

SELF_CHECK = "self_check"
DERIVE_AGAIN = "derive_again"
DERIVE_ELSEWHERE = "derive_elsewhere"
QUESTION = "Is the answer above right? Say only yes or no."
SELF_CHECK_TOKENS = 4
SELF_CHECK_SHARE = 0.15
"""Joules of a self-check over those of a sample, before one was paid for: it reads as much, writes less."""
DERIVING_TEMPERATURE = 0.3
DECIDED = 0.95
MAX_CHECKS = 8

MEASURED: EnergyProvenance = "measured"
_WORDS = re.compile(r"\w+")
_SAID: Mapping[str, Outcome] = {"yes": "pass", "no": "fail"}

Steps = tuple[tuple[str, str, str, float, float], ...]
"""(answer, check, outcome, joules, belief in the answer afterwards)."""


@record(frozen=True)
class Candidate:
    """An answer, the text that it stands in, and its chance before any check."""

    answer: str
    text: str
    chance: float


@record(frozen=True)
class Checked:
    """The end: the answer believed most (None: none of them, say the checks), how much, why no more was asked."""

    answer: str | None
    belief: float
    stop: str
    steps: Steps
    spent_j: float
    compute_s: float
    tokens: int
    notes: tuple[str, ...] = ()
    provenance: EnergyProvenance = "measured"
    """The weakest of the checks': unknown where the joules of one are not known and its price stands for them."""

    @property
    def spoken(self) -> bool:
        """Whether any check said anything."""
        return any(outcome != "unknown" for _, _, outcome, _, _ in self.steps)


@record(frozen=True)
class Elsewhere:
    """The served model that derives answers anew, joules and seconds of a text of it (None: as one's own)."""

    model: str
    text_j: float | None
    text_s: float | None


@record(frozen=True)
class Means:
    """What a sample took on average, what of the budgets is left for checks, and what a right answer is worth."""

    sample_j: float
    sample_s: float
    budget_j: float | None = None
    budget_s: float | None = None
    worth_j: float | None = None
    too_hot: Callable[[], bool] = lambda: False
    """Whether the accelerator has reached the temperature that the question may bring it to."""


class Verification:
    """Driven by events; `done` is told once, `Checked` or the error that ended it. Owned by one sampling run."""

    def __init__(
        self,
        request: TextRequest,
        plan: SamplingPlan,
        candidates: Sequence[Candidate],
        means: Means,
        write: Callable[[TextRequest, Callable[[TextEvent], None]], TextHandle],
        done: Callable[[Checked], None],
        check: Callable[[str, float], Check],
        elsewhere: Elsewhere | None = None,
    ) -> None:
        """`check(name, joules)` gives a check with its rates.

        `request.first_sample` is the number of the next sample that nobody has drawn.
        """
        self._request, self._plan, self._candidates, self._means = request, plan, candidates, means
        self._write, self._done = write, done
        self._state: Cascade = cascade.start([candidate.chance for candidate in candidates])
        self._checks = {
            SELF_CHECK: check(SELF_CHECK, SELF_CHECK_SHARE * means.sample_j),
            DERIVE_AGAIN: check(DERIVE_AGAIN, means.sample_j),
        }
        self._seconds = {SELF_CHECK: SELF_CHECK_SHARE * means.sample_s, DERIVE_AGAIN: means.sample_s}
        """Of computing that a check is expected to take."""
        self._elsewhere = elsewhere
        if elsewhere is not None:
            text_j = means.sample_j if elsewhere.text_j is None else elsewhere.text_j
            self._checks[DERIVE_ELSEWHERE] = check(DERIVE_ELSEWHERE, text_j)
            self._seconds[DERIVE_ELSEWHERE] = means.sample_s if elsewhere.text_s is None else elsewhere.text_s
        self._notes: tuple[str, ...] = ()
        self._asked: tuple[int, Check] | None = None
        self._text = ""
        self._compute_s, self._tokens = 0.0, 0
        self._lost_s = 0.0
        """Seconds that checks which came to nothing were expected to take; nobody knows how many they did."""
        self._unpriced, self._provenance = 0, [MEASURED]

    def next(self) -> None:
        """Ask the next check, or tell `done` that it is over."""
        while not self._asked_one():
            pass

    def _asked_one(self) -> bool:
        """Whether a check is under way, or all is over; False where the one chosen could not even be asked."""
        chosen, stop = self._pick()
        if stop is not None or chosen.candidate is None or chosen.check is None:
            self._end(stop or "nothing_to_gain")
            return True
        self._asked, self._text = (chosen.candidate, self._checks[chosen.check]), ""
        try:
            self._write(self._question(self._candidates[chosen.candidate], chosen.check), self._heard)
        except QeilError as error:
            self._lost(error, began=False)
            return False
        return True

    def _pick(self) -> tuple[Next, str | None]:
        """What to ask next, or why nothing more is asked."""
        chosen = self._choose(list(self._checks.values()))
        if chosen.stop is not None:
            return chosen, chosen.stop
        if len(self._state.trace) >= MAX_CHECKS:
            return chosen, "checks"
        if self._means.too_hot():
            return chosen, "temperature"
        if chosen.check is not None and not self._in_time(chosen.check):
            chosen = self._choose([check for check in self._checks.values() if self._in_time(check.name)])
            return chosen, "seconds" if chosen.stop is not None else None
        return chosen, None

    def _choose(self, checks: Sequence[Check]) -> Next:
        return cascade.choose(self._state, checks, DECIDED, self._means.budget_j, self._means.worth_j)

    def _in_time(self, check: str) -> bool:
        budget_s, spent_s = self._means.budget_s, self._compute_s + self._lost_s
        return budget_s is None or spent_s + self._seconds[check] <= budget_s

    def _lost(self, error: QeilError, began: bool = True) -> None:
        """The check that was asked came to nothing: it is said, and not asked of any candidate again."""
        assert self._asked is not None  # noqa: S101  (an error follows a question)
        index, check = self._asked
        self._state = self._state.after(index, check, "unknown", check.cost_j if began else 0.0)
        if began:  # what it took until then nobody tells
            self._unpriced += 1
            self._lost_s += self._seconds[check.name]
        del self._checks[check.name]
        if isinstance(error, DeadlineExceeded):
            self._checks.clear()  # no time is left for the others either
        self._notes = (*self._notes, f"{check.name} came to nothing: {error.message}")

    def _question(self, candidate: Candidate, check: str) -> TextRequest:
        asked = replace(self._request, samples=1, logprobs=None)
        if check in {DERIVE_AGAIN, DERIVE_ELSEWHERE}:
            if check == DERIVE_ELSEWHERE and self._elsewhere is not None:
                asked = replace(asked, model=self._elsewhere.model)
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
            self._lost(event)
            self.next()

    def _judged(self, done: TextDone) -> None:
        assert self._asked is not None  # noqa: S101  (an answer follows a question)
        index, check = self._asked
        self._compute_s += done.usage.compute_s
        self._tokens += done.usage.tokens
        cost_j = check.cost_j if done.usage.energy_j is None else done.usage.energy_j
        self._unpriced += done.usage.energy_j is None
        self._provenance.append(done.usage.provenance)
        self._state = self._state.after(index, check, self._outcome(self._candidates[index], check), cost_j)
        self._checks[check.name] = replace(check, cost_j=cost_j)
        self._seconds[check.name] = done.usage.compute_s
        self.next()

    def _outcome(self, candidate: Candidate, check: Check) -> Outcome:
        if check.name != SELF_CHECK:
            found = answer_in(self._text, self._plan.answer, self._plan.choices)
            return "unknown" if found is None else "pass" if found == candidate.answer else "fail"
        return said_of(self._text)

    def _end(self, stop: str) -> None:
        leader = self._state.leader or 0
        refuted = self._state.refuted(DECIDED)
        if refuted:
            self._notes = (*self._notes, "the checks speak against every answer that was asked about, so none is given")
        if self._unpriced:
            checks = "one check are" if self._unpriced == 1 else f"{self._unpriced} checks are"
            self._notes = (*self._notes, f"joules of {checks} unknown, so those of the answer are; against the budget "
                           "counts what they were expected to take")  # fmt: skip
        steps = tuple(
            (self._candidates[step.candidate].answer, step.check, step.outcome, step.cost_j, step.belief)
            for step in self._state.trace
        )
        self._done(
            Checked(
                None if refuted else self._candidates[leader].answer,
                self._state.belief[leader],
                stop,
                steps,
                self._state.spent_j,
                self._compute_s,
                self._tokens,
                self._notes,
                "unknown" if self._unpriced else weakest(self._provenance),
            )
        )


def weakest(provenances: Iterable[EnergyProvenance]) -> EnergyProvenance:
    """That of a sum: no better than its worst part."""
    found = set(provenances)
    return "unknown" if "unknown" in found or not found else "modelled" if "modelled" in found else MEASURED


def said_of(text: str) -> Outcome:
    """What a self-check says of the answer: whatever is more than yes or no, beside markup, is unknown."""
    words = _WORDS.findall(text.casefold())
    return _SAID.get(words[0], "unknown") if len(words) == 1 else "unknown"
