"""Echo: a prompt's own tokens as pieces, with the log probabilities that the model gave them."""

from __future__ import annotations

import numpy as np

from agent.llm.folder import DecoderFolder
from agent.llm.row import Floats, Piece, Prompt
from agent.llm.sampler import likeliest, log_probabilities
from agent.llm.text import TextStream

NOTHING = -1
"""Token of a piece that only ends a text."""


class PromptEcho:
    """Of one prompt. Where log probabilities are asked for, `listen` takes the logits of all positions in order."""

    def __init__(self, folder: DecoderFolder, prompt: Prompt) -> None:
        self._folder, self._prompt = folder, prompt
        self._heard: list[tuple[float, tuple[tuple[int, float], ...]]] = []

    @property
    def listens(self) -> bool:
        """Whether it needs the logits of every position."""
        return self._prompt.logprobs is not None

    def listen(self, logits: Floats) -> None:
        """Logits behind the next positions, (positions, vocabulary)."""
        known, ids = len(self._heard), self._prompt.ids
        for row, token in zip(logits, ids[known + 1 :], strict=False):  # those behind the last one are the answer's
            logs = log_probabilities(np.asarray(row))
            best = tuple((int(i), float(logs[i])) for i in likeliest(logs, self._prompt.logprobs or 0))
            self._heard.append((float(logs[token]), best))

    def pieces(self, row: int) -> list[Piece]:
        """The prompt as pieces of a row: one, or with log probabilities one per token, the first without."""
        ids = self._prompt.ids
        if not self.listens:
            return [Piece(row, ids[-1], self._folder.decode(ids), prompt=True)]
        stream = TextStream(self._folder)
        texts = [stream.push(token) for token in ids]
        texts[-1] += stream.finish()
        heard = [(None, ()), *self._heard]
        return [
            Piece(row, token, text, None, logprob, best, prompt=True)
            for token, text, (logprob, best) in zip(ids, texts, heard, strict=True)
        ]

    def end(self, row: int) -> Piece:
        """What ends a row that should hold nothing but the prompt."""
        return Piece(row, NOTHING, "", "length", prompt=True)
