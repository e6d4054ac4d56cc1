"""Text stream: one request's texts, from the client's view one unbroken stream whatever happens to lanes.

Keeps every token that was sent on, so that a text can go on elsewhere from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any

from agent.backends.decoder_lane import LaneUsage
from agent.records import record
from agent.schema.text import TextEvent, TextPiece, TextRequest


@record(eq=False)
class TextStream:
    """See module. Guarded by its keeper's lock but for `on_event`."""

    request: TextRequest
    on_event: Callable[[TextEvent], None]
    deadline_s: float
    started_s: float = 0.0
    replays: int = 0
    over: bool = False
    behind: bool = False
    """Whether its process was lost and no piece has come from the next one."""
    numbers: set[int] = field(default_factory=set)
    """Jobs under way on the lane."""
    usages: list[LaneUsage] = field(default_factory=list)
    _written: dict[int, list[int]] = field(default_factory=dict)
    _ended: set[int] = field(default_factory=set)
    _echoed: dict[int, int] = field(default_factory=dict)
    """Pieces of the prompt that were sent on, by sample; `_again`: those of them that a new lane will send again."""
    _again: dict[int, int] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[int, ...]:
        """Numbers of its samples."""
        first = self.request.first_sample
        return tuple(range(first, first + self.request.samples))

    @property
    def ended(self) -> bool:
        """Whether every text is finished."""
        return len(self._ended) == self.request.samples

    @property
    def tokens(self) -> int:
        """Tokens sent on."""
        return sum(len(tokens) for tokens in self._written.values())

    def took(self, piece: TextPiece) -> bool:
        """A piece came; whether it is to be sent on."""
        sample = piece.sample
        self.behind = False
        if piece.prompt and self._again.get(sample, 0) > 0:
            self._again[sample] -= 1
            return False
        if piece.prompt:
            self._echoed[sample] = self._echoed.get(sample, 0) + 1
        else:
            self._written.setdefault(sample, []).append(piece.token)
        if piece.end is not None:
            self._ended.add(sample)
        return True

    def jobs(self) -> list[dict[str, Any]]:
        """What is left to write: one job, or after a loss one for each text that had begun."""
        self._again = dict(self._echoed)
        left = [row for row in self.rows if row not in self._ended]
        fresh = [row for row in left if not self._written.get(row)]
        jobs = [self._job((row,), self._written[row]) for row in left if row not in fresh]
        return ([self._job(tuple(fresh), [])] if fresh else []) + jobs

    def _job(self, rows: tuple[int, ...], written: list[int]) -> dict[str, Any]:
        asked = self.request
        return {
            "prompt": asked.prompt if isinstance(asked.prompt, str) else None,
            "ids": asked.prompt if isinstance(asked.prompt, tuple) else None,
            "messages": asked.messages, "max_tokens": asked.max_tokens, "rows": rows, "written": written,
            "stops": asked.stops, "logprobs": asked.logprobs, "screen": asked.screen, "echo": asked.echo,
            "kept_as": asked.kept_as,
            "form": None if asked.form is None else [asked.form.kind, asked.form.source],
            "sampling": {
                "temperature": asked.temperature, "top_k": asked.top_k, "top_p": asked.top_p, "min_p": asked.min_p,
                "repetition": asked.repetition, "seed": asked.seed,
            },
        }  # fmt: skip
