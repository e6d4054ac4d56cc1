"""Text guard: looks at a text before a language model reads it. Pure; needs no tokenizer and no model.

Finds what a person who reads the text would not see (control and bidirectional overrides, invisible characters,
look-alike letters) and what is made to exhaust (floods, endless repetition). `absurd_suffix` takes the log
probabilities that the model itself gives to the prompt's tokens: suffixes found by gradient search (GCG, Zou et al.
2023, arXiv:2307.15043) are absurd to it, which a window of perplexity shows (Jain et al. 2023, arXiv:2309.00614).
Fluent attacks written by people or by other models are not found here.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence

from agent.control.verdict import Finding, GuardVerdict, weigh
from agent.schema.guard import TextGuard

_PLAIN = frozenset("\t\n\r")
_BIDI = frozenset("\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u202c\u2069")
"""Embeddings, overrides and isolates with their ends; the marks for single letters are ordinary in mixed text."""
_JOINERS = frozenset("\u200c\u200d")
_ALIKE = frozenset("аеорсухіјѕһԁԛԝьАВЕКМНОРСТХУІЈЅԌԚԜαονρυικγΑΒΕΖΗΙΚΜΝΟΡΤΥΧօսցոհզաԱՏՕᎪᎬᎫᎳᎷᎻᏀᏃᏆᏒᏔᏚᏞᏟᏢᏦᏴ")
"""Letters of other scripts (Cyrillic, Greek, Armenian, Cherokee) that look like Latin ones."""
_WORD = re.compile(r"[^\W_]+")
_MATHEMATICAL = range(0x1D400, 0x1D800)
REPETITION_FROM = 2_000
"""Characters from which a text is judged for repetition."""
REPETITION_RATIO = 0.03
"""Compressed size over size below which nearly everything is a copy; prose lies between 0.3 and 0.5."""
SUFFIX_KEY = "(policy guard.texts.absurd_suffix)"
"""Ends the sentence of a refusal, so that its reader knows what to change."""
SUFFIX_TOKENS = 12
SUFFIX_CONTRAST_NATS = 3.0


def judge(text: str, limits: TextGuard) -> GuardVerdict:
    """Everything that can be said without a model. Linear in the length of the text, which is cut at the bound."""
    if len(text) > limits.max_characters:
        sentence = f"the text has {len(text)} characters, guard.texts.max_characters allows {limits.max_characters}"
        return weigh([Finding("size", "reject", sentence, float(len(text)))])
    if text.isascii() and text.isprintable():
        return weigh([*_floods(text, limits), *_repetition(text, limits)])
    found = [
        *_control(text, limits), *_bidi(text, limits), *_invisible(text, limits), *_homoglyphs(text, limits),
        *_floods(text, limits), *_repetition(text, limits),
    ]  # fmt: skip
    return weigh(found)


def absurd_suffix(logprobs: Sequence[float], bound_nats: float) -> GuardVerdict:
    """Whether an end of the prompt is absurd to the model that is to read it.

    logprobs: natural logarithms of each prompt token's probability given those before it, in order. Looks at the window
    of `SUFFIX_TOKENS` with the highest mean surprise in the last half; it counts when it is above `bound_nats` and at
    least `SUFFIX_CONTRAST_NATS` above the mean of the tokens before it, so that a text strange throughout passes.
    """
    if len(logprobs) < 2 * SUFFIX_TOKENS:
        return weigh([])
    surprise = [-value for value in logprobs]
    window = sum(surprise[len(surprise) // 2 :][:SUFFIX_TOKENS])
    first = len(surprise) // 2
    worst, at = window, first
    for start in range(first + 1, len(surprise) - SUFFIX_TOKENS + 1):
        window += surprise[start + SUFFIX_TOKENS - 1] - surprise[start - 1]
        if window > worst:
            worst, at = window, start
    score, before = worst / SUFFIX_TOKENS, sum(surprise[:at]) / at
    if score <= bound_nats or score - before < SUFFIX_CONTRAST_NATS:
        return weigh([])
    sentence = (
        f"tokens {at} to {at + SUFFIX_TOKENS - 1} surprise the model by {score:.1f} nats each, those before them by "
        f"{before:.1f}: they look like a suffix found by search"
    )
    return weigh([Finding("suffix", "flag", sentence, score)])


def _control(text: str, limits: TextGuard) -> Iterator[Finding]:
    bad = next(((i, c) for i, c in enumerate(text) if unicodedata.category(c) == "Cc" and c not in _PLAIN), None)
    if bad is not None:
        yield Finding("control", limits.control, f"character {bad[0]} is the control character U+{ord(bad[1]):04X}")


def _bidi(text: str, limits: TextGuard) -> Iterator[Finding]:
    bad = next(((i, c) for i, c in enumerate(text) if c in _BIDI), None)
    if bad is not None:
        sentence = f"character {bad[0]} (U+{ord(bad[1]):04X}) shows the text in another order than it is read"
        yield Finding("bidi", limits.bidi, sentence)


def _invisible(text: str, limits: TextGuard) -> Iterator[Finding]:
    hidden = [i for i, c in enumerate(text) if _unseen(text, i, c)]
    if hidden:
        sentence = f"{len(hidden)} invisible characters, the first one is number {hidden[0]}"
        yield Finding("invisible", limits.invisible, sentence, len(hidden) / len(text))


def _unseen(text: str, index: int, character: str) -> bool:
    """Formatting characters and tags; joiners only where they join nothing that is written joined."""
    if character in _BIDI or (character == "\ufeff" and index == 0):
        return False
    if character in _JOINERS:
        beside = text[max(0, index - 2) : index]
        return not any(ord(c) > 0x7F and c not in _JOINERS for c in beside)
    return unicodedata.category(character) == "Cf" or 0xE0100 <= ord(character) <= 0xE01EF


def _homoglyphs(text: str, limits: TextGuard) -> Iterator[Finding]:
    for match in _WORD.finditer(text):
        word = match.group()
        if word.isascii():
            continue
        foreign = next((c for c in word if c in _ALIKE), None)
        if foreign is not None and any("a" <= c.lower() <= "z" for c in word):
            sentence = f"{word[:40]!r} mixes Latin letters with one that only looks Latin (U+{ord(foreign):04X})"
            yield Finding("homoglyph", limits.homoglyph, sentence)
            return
        if any(ord(c) in _MATHEMATICAL for c in word):
            sentence = f"{word[:40]!r} is written in mathematical letters that look like ordinary ones"
            yield Finding("homoglyph", limits.homoglyph, sentence)
            return


def _floods(text: str, limits: TextGuard) -> Iterator[Finding]:
    run, word = _longest_run(text), _longest_run(text.split())
    for count, what, kind in ((run[0], repr(run[1]), "character"), (word[0], repr(word[1][:40]), "word")):
        if count > limits.max_repeats and (kind == "word" or not run[1].isspace()):
            yield Finding("flood", limits.flood, f"the {kind} {what} stands {count} times in a row", float(count))
            return


def _longest_run(parts: Sequence[str]) -> tuple[int, str]:
    """(length, what) of the longest run of equal parts."""
    best, best_of, count, last = 0, "", 0, None
    for part in parts:
        count = count + 1 if part == last else 1
        last = part
        if count > best:
            best, best_of = count, part
    return best, best_of


def _repetition(text: str, limits: TextGuard) -> Iterator[Finding]:
    if limits.repetition == "ignore" or len(text) < REPETITION_FROM:
        return
    raw = text.encode(errors="replace")
    ratio = len(zlib.compress(raw, 1)) / len(raw)
    if ratio < REPETITION_RATIO:
        yield Finding("repetition", limits.repetition, f"{1 - ratio:.0%} of the text repeats itself", ratio)
