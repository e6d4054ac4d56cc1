"""Spools for tests, and a disk that can be full."""

from __future__ import annotations

import base64
import random
import sqlite3

from agent.storage.outbox import Outbox
from tests.fakes import FakeClock

CLASSES = ("evt", "gap", "tlm")


def make(folder, boot=1, max_bytes=1 << 22) -> Outbox:
    return Outbox(folder / "outbox.db", boot, max_bytes, 1.0, FakeClock())


def waiting(box, cls="tlm", limit=100_000):
    return box.rows_after(cls, None, limit)


def noise(characters, seed=0):
    """Text that does not get much smaller by packing."""
    return base64.b85encode(random.Random(seed).randbytes(characters)).decode()[:characters]


class FullDisk:
    """A database connection whose disk takes nothing while `broken` is set."""

    def __init__(self, real, cause="disk I/O error") -> None:
        self.real, self.cause, self.broken = real, cause, True

    def __enter__(self):
        if self.broken:
            raise sqlite3.OperationalError(self.cause)
        return self.real.__enter__()

    def __exit__(self, *details):
        return self.real.__exit__(*details)

    def __getattr__(self, name):
        return getattr(self.real, name)
