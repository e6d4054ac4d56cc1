"""Row: one continuation of a prompt – its tokens, its random numbers, its text – from logits to pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import Literal

import numpy as np
import numpy.typing as npt

from agent.errors import BadInput, InferenceFailed
from agent.llm.folder import DecoderFolder
from agent.llm.grammar import Form
from agent.llm.sampler import Sampling, choose, likeliest, log_probabilities
from agent.llm.text import TextStream
from agent.records import record

Floats = npt.NDArray[np.float32]
End = Literal["stop", "length"]
MAX_SAMPLES = 64


@record(frozen=True)
class Prompt:
    """What to write: `samples` continuations of at most `max_tokens` tokens, each up to one of `stops`."""

    ids: tuple[int, ...]
    max_tokens: int = 128
    samples: int = 1
    stops: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    logprobs: int | None = None
    """Give the chosen token's log probability and those of so many of the likeliest."""
    form: Form | None = None
    """Tokens are chosen among those that keep it; log probabilities stay those of all tokens."""
    screen: tuple[str, float] | None = None
    """Reaction to an end of the prompt that the model finds absurd, and the bound in nats."""
    echo: bool = False
    """Begin every row with the prompt; then `max_tokens` may be 0."""
    through_end: bool = False
    """Go on past tokens that end a text, so that a measurement has a known length."""

    def check(self, vocabulary: int) -> None:
        """Raises BadInput where it is empty, out of bounds or of another vocabulary."""
        if not self.ids or self.max_tokens < (0 if self.echo else 1) or not 1 <= self.samples <= MAX_SAMPLES:
            raise BadInput(f"needs a prompt, max_tokens of at least 1 and 1 to {MAX_SAMPLES} samples")
        if min(self.ids) < 0 or max(self.ids) >= vocabulary:
            raise BadInput(f"token ids of the prompt go beyond the vocabulary of {vocabulary}")


@record(frozen=True)
class Piece:
    """One token of one row: `text` may be empty while a character or a stop string is incomplete."""

    row: int
    token: int
    text: str
    end: End | None = None
    logprob: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()
    prompt: bool = False
    """A token that was asked with, not written."""


class Row:
    """Sample number `index` of a prompt; it draws the same numbers whatever other rows do."""

    def __init__(self, folder: DecoderFolder, prompt: Prompt, index: int, written: Sequence[int] = ()) -> None:
        """`written`: tokens that this row gave before; it goes on as if it had written them itself."""
        self._folder, self._prompt, self.index = folder, prompt, index
        self._text = TextStream(folder, prompt.stops)
        self._rng = np.random.default_rng([prompt.sampling.seed, index])
        self._form = None if prompt.form is None else prompt.form.begin()
        self.written: list[int] = []
        for token in written:
            self.written.append(token)
            self._text.push(token)
            if self._form is not None:
                self._form.took(token)
            if prompt.sampling.temperature > 0:
                self._rng.random()

    def take(self, logits: Floats) -> Piece:
        """The next token, chosen from its logits.

        Raises BadInput where the asked form cannot be kept, InferenceFailed where the logits are no numbers.
        """
        prompt = self._prompt
        if not np.isfinite(logits.max()):  # -inf: no token at all is possible
            raise InferenceFailed(f"decoder {self._folder.name}: it gave logits that are no numbers")
        seen = [*prompt.ids, *self.written] if prompt.sampling.repetition != 1.0 else ()
        allowed = None if self._form is None else self._form.allowed()
        token = choose(logits, prompt.sampling, seen, self._rng, allowed)
        self.written.append(token)
        ended = token in self._folder.end_ids and not prompt.through_end
        complete = self._form is not None and self._form.took(token)
        text = "" if ended else self._text.push(token)
        end: End | None = "stop" if ended or complete or self._text.stopped is not None else None
        if end is None and len(self.written) >= prompt.max_tokens:
            end = "length"
        if end is not None:
            text += self._text.finish()
        if prompt.logprobs is None:
            return Piece(self.index, token, text, end)
        logs = log_probabilities(logits)
        best = tuple((int(i), float(logs[i])) for i in likeliest(logs, prompt.logprobs))
        return Piece(self.index, token, text, end, float(logs[token]), best)
