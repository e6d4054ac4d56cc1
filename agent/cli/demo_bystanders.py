"""Bystanders: how much of the machine other programs took while the demo measured.

Times and joules that were measured beside other work are not the board's own; whoever reads them must know.
"""

from __future__ import annotations

import time

import psutil

BUSY_CORES = 0.25
"""Cores that others may keep busy before figures count as disturbed: a desktop at rest takes less."""
_WORK = ("user", "nice", "system", "irq", "softirq", "steal")


class Bystanders:
    """Begins to count when it is made."""

    def __init__(self) -> None:
        self._began_s, self._all_s, self._own_s = time.monotonic(), _all_s(), _own_s()

    def cores(self) -> float:
        """Cores that others kept busy since, on average; what a hypervisor took away counts as theirs."""
        span_s = max(1e-3, time.monotonic() - self._began_s)
        return max(0.0, ((_all_s() - self._all_s) - (_own_s() - self._own_s)) / span_s)


def sentence(cores: float, of: int) -> str:
    """What that means for the table above it."""
    if cores < BUSY_CORES:
        return f"nothing else of weight ran meanwhile (other programs: {cores:.2f} of {of} cores)"
    return (
        f"‼ other programs kept {cores:.1f} of {of} cores busy meanwhile: these times and joules are not comparable "
        "with predictions nor with another run; close what else computes and run the demo again"
    )


def _all_s() -> float:
    """Seconds of work of all cores since the machine started."""
    times = psutil.cpu_times()
    return sum(float(getattr(times, name, 0.0)) for name in _WORK)


def _own_s() -> float:
    """Seconds of this process and all below it, with those that ended and were waited for."""
    found = 0.0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:  # it ended just now
            continue
        found += times.user + times.system + times.children_user + times.children_system
    return found
