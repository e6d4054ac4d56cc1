"""Decoder room: how many texts of which length a language model is served with, from a forecast of its memory."""

from __future__ import annotations

from typing import Literal

from agent.errors import PlacementError
from agent.llm.sizes import DecoderSizes
from agent.records import record
from agent.schema.settings import DecoderOptions

DEFAULT_ROWS = 16
DEFAULT_CONTEXT = 4096
SMALLEST_CONTEXT = 256
PREFILL_BLOCK = 128
"""Positions of a prompt computed at once (`agent.llm.prefix_cache.BLOCK`, which this process does not import)."""
RUNTIME_BYTES = 120e6
"""The process with its runtime and tokenizer, without any model."""
REPACKED = 1.15
"""Weights in memory over weights on disk: the runtime packs products for its kernels; measured 1.0 to 1.1."""


@record(frozen=True)
class DecoderRoom:
    """`bytes_` is the forecast: weights, keys and values of all rows, working memory, prefix cache."""

    rows: int
    context: int
    bytes_: float
    note: str | None = None


Standby = Literal["cold", "warm", "all"]


def forecast_bytes(
    sizes: DecoderSizes, rows: int, context: int, prefix_bytes: int, standby: Standby = "cold", mode: str | None = None
) -> float:
    """Resident bytes when every row is full, the process in standby included.

    Working memory: logits of every row in float32 and once more in float64, and the attention scores of one block.
    """
    arena = rows * sizes.vocabulary * 12.0 + PREFILL_BLOCK * context * 4.0
    arena += {"cold": 0.0, "warm": RUNTIME_BYTES, "all": RUNTIME_BYTES + REPACKED * sizes.weight_bytes}[standby]
    cache = rows * context * sizes.cache_bytes(mode)
    return RUNTIME_BYTES + REPACKED * sizes.weight_bytes + cache + arena + prefix_bytes


def make_room(
    sizes: DecoderSizes, options: DecoderOptions, free_bytes: float, standby: Standby = "cold"
) -> DecoderRoom:
    """Rows and context that fit; what the settings leave open shrinks first rows, then context.

    Raises PlacementError that names what would fit.
    """
    prefix_bytes, mode = options.prefix_cache_bytes, options.mode or sizes.default_mode
    context = min(options.context_tokens or DEFAULT_CONTEXT, sizes.context)
    rows = options.rows or DEFAULT_ROWS
    asked = (rows, context)
    while forecast_bytes(sizes, rows, context, prefix_bytes, standby, mode) > free_bytes:
        if options.rows is None and rows > 1:
            rows //= 2
        elif options.context_tokens is None and context > SMALLEST_CONTEXT:
            context //= 2
        else:
            raise PlacementError(_refusal(sizes, *asked, prefix_bytes, free_bytes, standby, mode))
    note = None
    if (rows, context) != asked:
        note = f"memory allows {rows} texts of {context} tokens instead of {asked[0]} of {asked[1]}"
    if options.context_tokens is not None and options.context_tokens > sizes.context:
        note = f"the model ends at {sizes.context} tokens; context_tokens {options.context_tokens} is more"
    return DecoderRoom(rows, context, forecast_bytes(sizes, rows, context, prefix_bytes, standby, mode), note)


def _refusal(
    sizes: DecoderSizes, rows: int, context: int, prefix_bytes: int, free_bytes: float, standby: Standby, mode: str
) -> str:
    needed = forecast_bytes(sizes, rows, context, prefix_bytes, standby, mode)
    sentence = (
        f"needs {needed / 1e9:.2f} GB for {rows} texts of {context} tokens, {free_bytes / 1e9:.2f} GB may be used"
    )
    smaller = [
        other for other in sizes.cache_item_bytes
        if sizes.cache_bytes(other) < sizes.cache_bytes(mode)
        and forecast_bytes(sizes, rows, context, prefix_bytes, standby, other) <= free_bytes
    ]  # fmt: skip
    if smaller:
        best = min(smaller, key=lambda other: sizes.quality.get(other, 0.0))
        return f"{sentence}; in the mode {best} they would fit, {sizes.quality.get(best, 0.0):.2g} nats from exact"
    alone = forecast_bytes(sizes, 1, SMALLEST_CONTEXT, 0, standby, mode)
    left = free_bytes - alone
    if left < 0:
        return f"{sentence}; even one text of {SMALLEST_CONTEXT} tokens needs {alone / 1e9:.2f} GB"
    fits = SMALLEST_CONTEXT + int(left / sizes.cache_bytes(mode))
    if fits >= context:
        return f"{sentence}; {max(1, fits // context)} texts of {context} tokens would fit (models: decoder.rows)"
    return f"{sentence}; one text of {fits} tokens would fit (models: decoder.context_tokens, decoder.rows)"
