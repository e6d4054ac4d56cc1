"""Writes text: the prompt once, its cache forked, all samples as one batch that rows leave as they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from agent.errors import BadInput
from agent.llm.sampler import Sampling, choose, generators, log_probabilities
from agent.llm.session import PREFILL_STEP, Cache, DecoderSession
from agent.llm.text import TextStream

End = Literal["stop", "length"]
MAX_SAMPLES = 64


@dataclass(frozen=True)
class Prompt:
    """What to write: `samples` continuations of at most `max_tokens` tokens, each up to one of `stops`."""

    ids: tuple[int, ...]
    max_tokens: int = 128
    samples: int = 1
    stops: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    logprobs: int | None = None
    """Give the chosen token's log probability and those of so many of the likeliest."""
    through_end: bool = False
    """Go on past tokens that end a text, so that a measurement has a known length."""


@dataclass(frozen=True)
class Piece:
    """One token of one row: `text` may be empty while a character or a stop string is incomplete."""

    row: int
    token: int
    text: str
    end: End | None = None
    logprob: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()


def generate(session: DecoderSession, prompt: Prompt, cancelled: Callable[[], bool] = lambda: False) -> Iterator[Piece]:
    """Pieces as they come; ends within one step after `cancelled` turns true or the iterator is closed.

    Raises BadInput where prompt and answer exceed the context or a bound.
    """
    if not prompt.ids or prompt.max_tokens < 1 or not 1 <= prompt.samples <= MAX_SAMPLES:
        raise BadInput(f"needs a prompt, max_tokens of at least 1 and 1 to {MAX_SAMPLES} samples")
    if min(prompt.ids) < 0 or max(prompt.ids) >= session.folder.vocabulary:
        raise BadInput(f"token ids of the prompt go beyond the vocabulary of {session.folder.vocabulary}")
    cache = session.cache(1, len(prompt.ids) + prompt.max_tokens)
    logits: np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None = None
    for first in range(0, len(prompt.ids), PREFILL_STEP):
        if cancelled():
            return
        logits = session.step(cache, np.array([prompt.ids[first : first + PREFILL_STEP]], np.int64))[:, -1]
    if prompt.samples > 1:
        cache = cache.forked(session.folder, prompt.samples)
    if logits is not None:
        yield from _decode(session, prompt, cache, np.repeat(logits, prompt.samples, axis=0), cancelled)


def _decode(
    session: DecoderSession,
    prompt: Prompt,
    cache: Cache,
    logits: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
    cancelled: Callable[[], bool],
) -> Iterator[Piece]:
    rows = list(range(prompt.samples))
    rngs = generators(prompt.sampling.seed, prompt.samples)
    texts = [TextStream(session.folder, prompt.stops) for _ in rows]
    written: list[list[int]] = [[] for _ in rows]
    while not cancelled():
        kept: list[int] = []
        for place, row in enumerate(rows):
            token = choose(logits[place], prompt.sampling, [*prompt.ids, *written[row]], rngs[row])
            written[row].append(token)
            piece = _piece(session, prompt, texts[row], row, written[row], logits[place])
            if piece.end is None:
                kept.append(place)
            yield piece
        if not kept:
            return
        if len(kept) < len(rows):
            cache.keep(kept)
            rows = [rows[place] for place in kept]
        logits = session.step(cache, np.array([[written[row][-1]] for row in rows], np.int64))[:, -1]


def _piece(
    session: DecoderSession,
    prompt: Prompt,
    stream: TextStream,
    row: int,
    written: Sequence[int],
    logits: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> Piece:
    token = written[-1]
    ended = token in session.folder.end_ids and not prompt.through_end
    text = "" if ended else stream.push(token)
    end: End | None = "stop" if ended or stream.stopped is not None else None
    if end is None and len(written) >= prompt.max_tokens:
        end = "length"
    if end is not None:
        text += stream.finish()
    if prompt.logprobs is None:
        return Piece(row, token, text, end)
    logs = log_probabilities(logits)
    best = np.argsort(-logs, kind="stable")[: prompt.logprobs]
    return Piece(row, token, text, end, float(logs[token]), tuple((int(i), float(logs[i])) for i in best))
