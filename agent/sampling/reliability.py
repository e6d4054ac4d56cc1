"""Reliability: how often the answers of a source are right, learnt one question at a time.

A source is what may err on its own: a model in a precision on an accelerator, for a type of task. Its reliability is a
Beta distribution whose prior says nothing more than "somewhat better than a coin"; old evidence fades, because models
are replaced and silicon ages.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import field, replace

from agent.records import record

PRIOR_RIGHT = 1.5
PRIOR_WRONG = 1.0
DECAY = 0.96
"""Factor on the evidence per question: half of it is gone after 17 questions, so that a new fault shows soon."""
SICK_SIGMA = 2.5
"""Standard deviations below its siblings at which a source counts as sick."""


@record(frozen=True)
class Source:
    """Who gave an answer."""

    model: str
    task: str
    precision: str
    accelerator: str

    def sibling(self, other: Source) -> bool:
        """Whether the other differs by nothing but the accelerator, so that it ought to be as reliable."""
        return self != other and replace(self, accelerator=other.accelerator) == other


@record(frozen=True)
class Vote:
    """One answer of one source."""

    source: Source
    answer: Hashable


@record(frozen=True)
class Reliability:
    """Evidence for right and wrong answers, prior not included, in questions."""

    right: float = 0.0
    wrong: float = 0.0

    @property
    def mean(self) -> float:
        """Expected share of right answers, in (0, 1)."""
        return (self.right + PRIOR_RIGHT) / (self.right + self.wrong + PRIOR_RIGHT + PRIOR_WRONG)

    @property
    def variance(self) -> float:
        """Of that share."""
        total = self.right + self.wrong + PRIOR_RIGHT + PRIOR_WRONG
        return self.mean * (1.0 - self.mean) / (total + 1.0)

    def after(self, right: float, weight: float = 1.0) -> Reliability:
        """With one more question, `right` of whose answers (a share in [0, 1]) were right, counted `weight` times."""
        if not 0.0 <= right <= 1.0:
            raise ValueError(f"the share of right answers must be between 0 and 1, got {right:g}")
        return Reliability(DECAY * self.right + weight * right, DECAY * self.wrong + weight * (1.0 - right))


@record(frozen=True)
class Reliabilities:
    """Every source seen so far; a new one starts from the prior."""

    known: Mapping[Source, Reliability] = field(default_factory=dict)

    def of(self, source: Source) -> Reliability:
        """The reliability of a source."""
        return self.known.get(source, Reliability())

    def learnt(self, votes: Sequence[Vote], truth: Hashable, weight: float = 1.0) -> Reliabilities:
        """After a question whose right answer is `truth`, or is held to be with the confidence `weight`."""
        known = dict(self.known)
        for source in dict.fromkeys(vote.source for vote in votes):
            own = [v.answer == truth for v in votes if v.source == source]
            known[source] = self.of(source).after(sum(own) / len(own), weight)
        return Reliabilities(known)

    def sick(self) -> tuple[Source, ...]:
        """Sources whose answers are worse than those of their siblings on other accelerators by more than chance."""
        return tuple(source for source in self.known if self._worse_than_siblings(source))

    def _worse_than_siblings(self, source: Source) -> bool:
        mine = self.known[source]
        others = [r for s, r in self.known.items() if source.sibling(s)]
        if not others:
            return False
        best = max(others, key=lambda r: r.mean)
        return best.mean - mine.mean > SICK_SIGMA * math.sqrt(best.variance + mine.variance)
