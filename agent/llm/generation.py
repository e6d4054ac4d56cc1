"""Writes text: the prompt once, its cache forked, all samples as one batch that rows leave as they end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from agent.llm.row import MAX_SAMPLES, End, Floats, Piece, Prompt, Row
from agent.llm.session import PREFILL_STEP, Cache, DecoderSession

__all__ = ["MAX_SAMPLES", "End", "Piece", "Prompt", "generate"]


def generate(session: DecoderSession, prompt: Prompt, cancelled: Callable[[], bool] = lambda: False) -> Iterator[Piece]:
    """Pieces as they come; ends within one step after `cancelled` turns true or the iterator is closed.

    Raises BadInput where prompt and answer exceed the context or a bound.
    """
    prompt.check(session.folder.vocabulary)
    cache = session.cache(1, len(prompt.ids) + prompt.max_tokens)
    logits: Floats | None = None
    for first in range(0, len(prompt.ids), PREFILL_STEP):
        if cancelled():
            return
        logits = session.step(cache, np.array([prompt.ids[first : first + PREFILL_STEP]], np.int64))[:, -1]
    if prompt.samples > 1:
        cache = cache.forked(session.folder, prompt.samples)
    if logits is not None:
        yield from _decode(session, prompt, cache, np.repeat(logits, prompt.samples, axis=0), cancelled)


def _decode(
    session: DecoderSession, prompt: Prompt, cache: Cache, logits: Floats, cancelled: Callable[[], bool]
) -> Iterator[Piece]:
    rows = [Row(session.folder, prompt, index) for index in range(prompt.samples)]
    while not cancelled():
        kept: list[int] = []
        for place, row in enumerate(rows):
            piece = row.take(logits[place])
            if piece.end is None:
                kept.append(place)
            yield piece
        if not kept:
            return
        if len(kept) < len(rows):
            cache.keep(kept)
            rows = [rows[place] for place in kept]
        logits = session.step(cache, np.array([[row.written[-1]] for row in rows], np.int64))[:, -1]
