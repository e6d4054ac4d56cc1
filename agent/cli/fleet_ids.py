"""Ids of commands."""

from __future__ import annotations

import secrets
import time


def new_id() -> str:
    """An id that is used once and sorts by time: milliseconds since 1970, then randomness."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(8)}"
