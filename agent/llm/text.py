"""Tokens to text as they come: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from agent.llm.folder import DecoderFolder

_BROKEN = "\ufffd"
_CONTEXT_TOKENS = 6
"""Tokens decoded before the new ones, because how a token reads depends on its neighbours."""
_LONGEST = 24
"""Tokens decoded at once; up to then what was read before need not be decoded again."""


class TextStream:
    """Text of one row. `push` gives what may be shown now; `stopped` is the stop string that ended it."""

    def __init__(self, folder: DecoderFolder, stops: Sequence[str] = ()) -> None:
        self._folder, self._stops = folder, tuple(stop for stop in stops if stop)
        self._ids: list[int] = []
        self._from = 0
        self._before = ""
        """Text of the tokens from there on as far as it was given out."""
        self._held = ""
        self.stopped: str | None = None

    def push(self, token: int) -> str:
        """Take one more token."""
        self._ids.append(token)
        return self._release(self._fresh(last=False), last=False)

    def finish(self) -> str:
        """What was held back, at the end of the row."""
        return "" if self.stopped is not None else self._release(self._fresh(last=True), last=True)

    def _fresh(self, *, last: bool) -> str:
        before, whole = self._before, self._folder.decode(self._ids[self._from :])
        if whole.endswith(_BROKEN) and not last:
            return ""  # a character whose last bytes are still to come
        self._before = whole
        if len(self._ids) - self._from > _LONGEST:
            self._from = len(self._ids) - _CONTEXT_TOKENS
            self._before = self._folder.decode(self._ids[self._from :])
        return whole[len(before) :]

    def _release(self, fresh: str, *, last: bool) -> str:
        text = self._held + fresh
        hits = [(text.find(stop), stop) for stop in self._stops if stop in text]
        if hits:
            at, self.stopped = min(hits)
            self._held = ""
            return text[:at]
        hold = 0 if last else max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that a stop string begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
