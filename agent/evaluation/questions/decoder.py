"""Decoder: samples from a decoder folder in this process, for an evaluation without a server."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

from agent.errors import BadInput
from agent.evaluation.questions.endpoint import Drawn

SMALL_THREADS = 2


class Decoder:
    """A folder made by `qeil models import`. Joules are unknown: nothing meters this process."""

    def __init__(
        self, path: Path, max_tokens: int, temperature: float, threads: int = SMALL_THREADS, mode: str | None = None
    ) -> None:
        try:
            from agent.llm.folder import open_folder  # noqa: PLC0415  (an extra)
            from agent.llm.session import DecoderSession  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise BadInput(f"this needs the package {error.name}; install qeil-agent[llm]") from error
        self._folder = open_folder(path)
        self._session = DecoderSession(self._folder, threads=threads, mode=mode)
        self._max_tokens, self._temperature = max_tokens, temperature

    def close(self) -> None:
        """Nothing is held beyond the object."""

    def sample(self, prompt: str, count: int, seed: int, greedy: bool = False) -> list[Drawn]:
        """`count` samples of one prompt as one batch: the prompt is read once, its cache forked."""
        from agent.llm.generation import Prompt, generate  # noqa: PLC0415
        from agent.llm.sampler import Sampling  # noqa: PLC0415

        order = Prompt(
            self._ids(prompt), self._max_tokens, count,
            sampling=Sampling(temperature=0.0 if greedy else self._temperature, seed=seed), logprobs=0,
        )  # fmt: skip
        texts, tokens, scores = [""] * count, [0] * count, [0.0] * count
        started_s = time.monotonic()
        for piece in generate(self._session, order):
            texts[piece.row] += piece.text
            tokens[piece.row] += 1
            scores[piece.row] += piece.logprob or 0.0
        each_s = (time.monotonic() - started_s) / count
        return [
            Drawn(text, n, each_s, None, "unknown", score / n if n else None)
            for text, n, score in zip(texts, tokens, scores, strict=True)
        ]

    def logprobs(self, text: str) -> list[float]:
        """Log-probabilities of the tokens of a text, the first left out."""
        import numpy as np  # noqa: PLC0415

        from agent.llm.sampler import log_probabilities  # noqa: PLC0415

        ids = self._folder.encode(text, special=True)
        cache = self._session.cache(1, len(ids))
        found = []
        for token, following in pairwise(ids):
            # The graph gives the scores behind the last token of a step only, so the text goes in token by token.
            logits = self._session.step(cache, np.array([[token]], np.int64))[0, -1]
            found.append(float(log_probabilities(logits)[following]))
        return found

    def _ids(self, prompt: str) -> tuple[int, ...]:
        from agent.llm.chat import render  # noqa: PLC0415

        if self._folder.chat_template is None:
            return tuple(self._folder.encode(prompt, special=True))
        text = render(self._folder, [{"role": "user", "content": prompt}])
        return tuple(self._folder.encode(text, special=False))
