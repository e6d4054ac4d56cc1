"""Faults that a simulated accelerator can be told to have: crash, hang, slow and wrong answers,
a failed allocation, a device that is gone.

Nothing here is reachable on a real accelerator: the lane refuses to send the order and the process to obey it.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from agent.backends.formats import Array
from agent.errors import BackendError, InferenceFailed
from agent.records import record

if TYPE_CHECKING:
    from agent.ports import LaneSpec

Kind = Literal["crash", "hang", "slow", "wrong", "memory", "vanish"]


def injection(spec: LaneSpec, kind: Kind, runs: int, delay_s: float) -> dict[str, Any]:
    """The message that arms a fault. Raises BackendError on a lane that is not simulated."""
    if not spec.simulated:
        raise BackendError(f"{spec.accelerator} is a real accelerator: faults are injected into simulated ones only")
    if kind not in get_args(Kind):
        raise BackendError(f"there is no fault {kind!r} (known: {', '.join(get_args(Kind))})")
    return {"k": "fault", "kind": kind, "runs": runs, "delay_s": delay_s}


@record
class Faults:
    """What the next runs suffer."""

    kind: Kind | None = None
    runs: int = 0
    delay_s: float = 0.0

    def arm(self, kind: Kind, runs: int, delay_s: float) -> None:
        """Let the next `runs` runs suffer; `delay_s` is for slow ones."""
        self.kind, self.runs, self.delay_s = kind, runs, delay_s

    def next(self) -> Kind | None:
        """The fault of the run that begins now."""
        if self.runs <= 0:
            return None
        self.runs -= 1
        return self.kind

    def before(self, kind: Kind | None) -> None:
        """What happens instead of, or before, the run."""
        if kind == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif kind == "hang":
            while True:
                time.sleep(3600.0)
        elif kind == "slow":
            time.sleep(self.delay_s)
        elif kind == "memory":
            raise MemoryError
        elif kind == "vanish":
            raise InferenceFailed("the device does not answer any more")


def spoil(arrays: list[Array]) -> list[Array]:
    """Wrong but well-formed outputs: numbers shifted by one and reversed, everything else only reversed."""
    return [_spoilt(array) for array in arrays]


def _spoilt(array: Array) -> Array:
    turned = array.ravel()[::-1].reshape(array.shape)
    return np.ascontiguousarray(turned + array.dtype.type(1) if array.dtype.kind in "fiu" else turned)
