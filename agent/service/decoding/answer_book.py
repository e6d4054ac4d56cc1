"""Answer book: how reliable the sources of answers have been, learnt from clients that say which answers were right.

Answers given are remembered by the number of their request, without their texts, until somebody tells or newer ones
push them out. What was learnt survives a restart.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Any, Final, Protocol

import structlog

from agent.errors import BadInput, NotFound, StorageError
from agent.records import record
from agent.sampling import ensemble
from agent.sampling.cascade import Check
from agent.sampling.ensemble import Calibration
from agent.sampling.reliability import Reliabilities, Reliability, Source, Vote
from agent.schema.text import AnswerKind, AnswerScores, AnswerTold, CheckRate, SourceScore
from agent.service.decoding.answer_text import answer_in
from agent.service.decoding.answer_units import is_measured, unit_of

MAX_SOURCES: Final = 256
MAX_ANSWERS: Final = 1024
"""Answers that can still be told of."""
MAX_VOTES: Final = 16_384
"""Samples of all of them."""
MAX_RECENT: Final = 500
"""Outcomes that the Brier score and the calibration error are of."""
MAX_EVIDENCE: Final = 200.0
"""Uses of a check that its rates rest on; older ones fade."""
PRIORS: Final[Mapping[str, tuple[tuple[float, float], tuple[float, float]]]] = {
    "self_check": ((3.0, 1.0), (1.5, 1.5)), "derive_again": ((3.0, 1.0), (1.0, 3.0)),
    "derive_elsewhere": ((4.0, 1.0), (1.0, 5.0)),
}  # fmt: skip
"""(passed, failed) of right and of wrong answers, before anybody told."""
_log = structlog.get_logger("answers")

Steps = Sequence[tuple[str, str, str, float, float]]


class Store(Protocol):
    """Where the book is kept."""

    def load(self) -> Any | None:
        """The document; None where there is none. Raises StorageError."""
        ...

    def save(self, document: Any) -> None:
        """Replace it. Raises StorageError."""
        ...


@record(frozen=True)
class Given:
    """An answer that was given. `votes`: each by the source that wrote it; `steps`: (answer, check, outcome, joules,
    belief) of its verification."""

    model: str
    kind: AnswerKind
    choices: tuple[str, ...]
    votes: tuple[Vote, ...]
    answer: str | None
    confidence: float | None
    steps: Steps = ()


@record
class _Held:
    """A given answer without its text: equality is all that is needed."""

    model: str
    kind: AnswerKind
    choices: tuple[str, ...]
    votes: list[Vote]
    answer: bytes | None
    confidence: float | None
    steps: list[tuple[bytes, str, bool]] = field(default_factory=list)
    unit: str = ""
    """Of the number that was given."""


class AnswerBook:
    """Thread-safe; `tell` may wait for the disk."""

    def __init__(self, store: Store | None = None) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._held_votes = 0
        self._reliabilities, self._calibration = Reliabilities(), Calibration()
        self._checks = {name: Check(name, 0.0, *rates) for name, rates in PRIORS.items()}
        self._outcomes = 0
        self._recent: deque[tuple[float, bool]] = deque(maxlen=MAX_RECENT)
        self._load()

    # ------------------------------------------------------------------ while answering

    def weigh(self, votes: Sequence[Vote]) -> ensemble.Verdict | None:
        """The votes weighed by what is known of their sources; None without votes."""
        with self._lock:
            return ensemble.decide(votes, self._reliabilities, self._calibration)

    @property
    def outcomes(self) -> int:
        """Answers that somebody told of."""
        return self._outcomes

    def check(self, name: str, cost_j: float) -> Check:
        """A check with its rates as learnt so far."""
        with self._lock:
            return replace(self._checks[name], cost_j=cost_j)

    def remember(self, number: str, given: Given) -> None:
        """Keep an answer so that its truth can be told."""
        held = _Held(
            given.model, given.kind, given.choices,
            [Vote(vote.source, _key(str(vote.answer))) for vote in given.votes],
            None if given.answer is None else _key(given.answer), given.confidence,
            [(_key(answer), check, said == "pass") for answer, check, said, _, _ in given.steps if said != "unknown"],
            unit_of(given.answer or "") if given.kind == "number" else "",
        )  # fmt: skip
        if not number or not held.votes:
            return
        with self._lock:
            self._held[number] = held
            self._held_votes += len(held.votes)
            while len(self._held) > MAX_ANSWERS or self._held_votes > MAX_VOTES:
                self._held_votes -= len(self._held.popitem(last=False)[1].votes)

    # ------------------------------------------------------------------ being told

    def tell(self, number: str, truth: str | None, right: bool | None) -> AnswerTold:
        """Learn from the right answer, or from whether the answer given was right. Exactly one of them is set.

        Raises NotFound for an answer that is not remembered, BadInput for a truth that is none.
        """
        with self._lock:
            held = self._held.get(number)
            if held is None:
                raise NotFound(
                    f"no answer {number[:80]!r} is remembered; the last {MAX_ANSWERS} from repeated samples are, each "
                    "until it is told of", param="id",
                )  # fmt: skip
            known = self._truth(held, truth, right)
            del self._held[number]
            self._held_votes -= len(held.votes)
            was_right = None if held.answer is None else held.answer == known
            self._learn(held, known)
            if held.confidence is not None and was_right is not None:
                self._recent.append((held.confidence, was_right))
            self._outcomes += 1
            scores = self._scores()
            document = self._document()
        self._save(document)
        return AnswerTold(number, held.model, was_right, scores)

    def scores(self) -> AnswerScores:
        """What has been learnt."""
        with self._lock:
            return self._scores()

    @staticmethod
    def _truth(held: _Held, truth: str | None, right: bool | None) -> bytes | None:
        """Key of the right answer; None where all that is known is that the given one was wrong."""
        if truth is not None:
            found = answer_in(truth, held.kind, held.choices)
            if found is None:
                raise BadInput(f"{truth[:80]!r} holds no answer of the kind {held.kind!r} that was asked for",
                               param="answer")  # fmt: skip
            if held.unit and held.kind == "number" and not unit_of(found):
                if not is_measured(held.unit):
                    return _key(f"{found} {held.unit}")  # 5 of what was asked about
                raise BadInput(f"{truth[:80]!r} has no unit and the answer that was given has one ({held.unit}): tell "
                               "the right one with its unit", param="answer")  # fmt: skip
            return _key(found)
        if held.answer is None:
            raise BadInput("no answer was given, so it was neither right nor wrong; tell the right one", param="right")
        return held.answer if right else None

    def _learn(self, held: _Held, truth: bytes | None) -> None:
        known = self._reliabilities.known
        room = MAX_SOURCES - len(known)
        new = [s for s in dict.fromkeys(vote.source for vote in held.votes) if s not in known][room:]
        votes = [vote for vote in held.votes if vote.source not in new]
        if votes:
            if truth is not None:
                learnt = ensemble.learn(votes, self._reliabilities, self._calibration, truth)
            else:
                learnt = ensemble.learn_wrong(votes, self._reliabilities, self._calibration, held.answer)
            self._reliabilities, self._calibration = learnt
        for answer, name, passed in held.steps:
            if truth is not None or answer == held.answer:
                self._checks[name] = _faded(self._checks[name].learnt(passed, float(answer == truth)))

    def _scores(self) -> AnswerScores:
        confidences, rights = [c for c, _ in self._recent], [r for _, r in self._recent]
        return AnswerScores(
            self._outcomes,
            tuple(
                SourceScore(s.model, s.task, s.accelerator, r.mean, r.variance**0.5, r.right + r.wrong)
                for s, r in self._reliabilities.known.items()
            ),
            tuple(f"{s.model} on {s.accelerator} ({s.task})" for s in self._reliabilities.sick()),
            ensemble.brier(confidences, rights) if rights else None,
            ensemble.calibration_error(confidences, rights) if rights else None,
            tuple(CheckRate(c.name, c.passes_right, c.passes_wrong) for c in self._checks.values()),
        )  # fmt: skip

    # ------------------------------------------------------------------ on disk

    def _document(self) -> dict[str, Any]:
        calibration = self._calibration
        return {
            "version": 1, "outcomes": self._outcomes, "recent": [[c, r] for c, r in self._recent],
            "calibration": [calibration.slope, calibration.offset, *calibration.precision],
            "checks": {c.name: [*c.right, *c.wrong] for c in self._checks.values()},
            "sources": [
                [s.model, s.task, s.precision, s.accelerator, r.right, r.wrong]
                for s, r in self._reliabilities.known.items()
            ],
        }  # fmt: skip

    def _load(self) -> None:
        if self._store is None:
            return
        try:
            document = self._store.load()
            if document is None:
                return
            slope, offset, *precision = map(float, document["calibration"])
            a, b, c = precision
            known = {Source(*map(str, row[:4])): Reliability(*map(float, row[4:])) for row in document["sources"]}
            checks = {
                name: Check(name, 0.0, (w, x), (y, z))
                for name, (w, x, y, z) in document["checks"].items() if name in PRIORS
            }  # fmt: skip
            self._recent.extend((float(confidence), bool(right)) for confidence, right in document["recent"])
            self._outcomes = int(document["outcomes"])
        except (StorageError, KeyError, TypeError, ValueError, AttributeError) as error:
            _log.warning("what was learnt of answers cannot be read; it begins anew", cause=str(error))
            return
        self._calibration, self._reliabilities = Calibration(slope, offset, (a, b, c)), Reliabilities(known)
        self._checks |= checks

    def _save(self, document: dict[str, Any]) -> None:
        if self._store is None:
            return
        try:
            self._store.save(document)
        except StorageError as error:
            _log.warning("what was learnt of answers is not kept", cause=str(error))


def _key(answer: str) -> bytes:
    return hashlib.blake2b(answer.encode(errors="surrogatepass"), digest_size=16).digest()


def _faded(check: Check) -> Check:
    """With no more evidence than is kept, for right and for wrong answers."""

    def held(counts: tuple[float, float]) -> tuple[float, float]:
        factor = min(1.0, MAX_EVIDENCE / sum(counts))
        return counts[0] * factor, counts[1] * factor

    return replace(check, right=held(check.right), wrong=held(check.wrong))
