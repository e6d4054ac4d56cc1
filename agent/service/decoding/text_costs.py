"""Text costs: what a token of a served model takes, from the last answers, or before any from the modelled step."""

from __future__ import annotations

from typing import Literal

from agent.records import record
from agent.service.decoding.decoder_power import DecoderPower

FADING = 0.9
"""Weight that the answers before keep when another one comes."""


@record(frozen=True)
class TextCosts:
    """Faded sums over answers. joules: of those answers whose joules are known, with their own tokens."""

    texts: float = 0.0
    tokens: float = 0.0
    seconds: float = 0.0
    joules: float = 0.0
    priced_tokens: float = 0.0

    def after(self, texts: int, tokens: int, seconds: float, joules: float | None) -> TextCosts:
        """With one answer of so many texts more."""
        if tokens < 1:
            return self
        known = joules is not None
        return TextCosts(
            FADING * self.texts + texts, FADING * self.tokens + tokens, FADING * self.seconds + seconds,
            (FADING if known else 1.0) * self.joules + (joules or 0.0),
            (FADING if known else 1.0) * self.priced_tokens + (tokens if known else 0),
        )  # fmt: skip

    def of_token(
        self, power: DecoderPower | None
    ) -> tuple[float | None, float | None, Literal["answers", "profile", "unknown"]]:
        """Joules and seconds of a written token, prompts counted in, and where they are from."""
        if self.tokens > 0:
            joules = self.joules / self.priced_tokens if self.priced_tokens > 0 else None
            return joules, self.seconds / self.tokens, "answers"
        if power is not None and power.step_s is not None:
            return power.decode_w * power.step_s, power.step_s, "profile"
        return None, None, "unknown"

    @property
    def text_tokens(self) -> float | None:
        """Tokens of a text; None before any."""
        return self.tokens / self.texts if self.texts > 0 else None
