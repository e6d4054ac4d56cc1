"""Interpreter: how this process shares one Python interpreter among requests and everything else it does."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from typing import Final

SWITCH_S: Final = 0.0005
"""Longest that a thread which computes keeps the others waiting; Python's own 5 ms are ten small requests."""
_ALGEBRA_THREADS: Final = "OPENBLAS_NUM_THREADS"
YOUNG: Final = 10_000
"""New objects before the youngest are looked through; requests leave none behind."""


def begin() -> None:
    """Before the imports: what is made now stays, so looking for garbage among it would only take time.

    Numpy's algebra gets no threads here, unless their owner wants some: this process computes next to nothing with it,
    and every thread spins for a tenth of a second when it is made, beside the imports.
    """
    os.environ.setdefault(_ALGEBRA_THREADS, "1")
    gc.disable()
    sys.setswitchinterval(SWITCH_S)


def settle() -> None:
    """The agent is up: what there is now is never looked through again, only what comes; free memory is given back."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 10)
    gc.enable()
    with contextlib.suppress(OSError, AttributeError):  # a C library without it keeps what it has
        ctypes.CDLL(None).malloc_trim(0)
