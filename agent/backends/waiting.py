"""Main program of a lane's process until it has work: shows signs of life, and imports nothing that models need.

    python -m agent.backends.waiting --channel FD --vitals FD --parent PID --name ACCELERATOR

The first message makes it `agent.backends.worker`; until then it holds a third of the memory. The process ends with its
parent: by the end of the channel, and by the kernel if it is deep in native code.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import resource
import select
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from agent.backends import sealed
from agent.backends.vitals import PAGE_BYTES, VitalsPage, rss_bytes
from agent.child import end_with_parent

HEARTBEAT_S: Final = 0.1
_M_MMAP_THRESHOLD: Final = -3
KEPT_BLOCK_BYTES: Final = 8 * 1024 * 1024
"""The largest block that the heap keeps for later once it is free. Left to itself the C library raises this to what was
freed last: the weights of a model that was unloaded would stay with the process."""


SMALL_CORE: Final = b"0x10"
"""Of a crash only registers and headers are dumped: the kernel closes the channel, by which a crash is seen, after the
dump, and half a gigabyte takes it 0.4 s on a fast disk."""


def prepare(parent: int, affinity: str | None, memory_limit_bytes: int | None) -> None:
    """Tie this process to its parent and its limits. Exits when the parent is already gone."""
    end_with_parent()
    with contextlib.suppress(AttributeError):  # only glibc keeps blocks this way
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, KEPT_BLOCK_BYTES)
    if os.getppid() != parent:
        sys.exit(1)
    with contextlib.suppress(OSError):  # a kernel without dumps
        dumped = os.open("/proc/self/coredump_filter", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(dumped, SMALL_CORE)
        finally:
            os.close(dumped)
    if affinity:
        os.sched_setaffinity(0, [int(core) for core in affinity.split(",")])
    if memory_limit_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_limit_bytes, memory_limit_bytes))


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of a lane's process."""
    parser = argparse.ArgumentParser(prog="agent.backends.waiting")
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--vitals", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--simulated", action="store_true")
    parser.add_argument("--affinity")
    parser.add_argument("--memory-limit", type=int)
    parser.add_argument("--nice", type=int, default=0)
    return parser.parse_args(argv)


def beat(page: VitalsPage, over: threading.Event, also: Callable[[], None] = lambda: None) -> None:
    """Show signs of life until `over`, on a thread of its own; calls `also` before each."""
    while True:
        also()
        page.beat(time.monotonic_ns(), rss_bytes())
        if over.wait(HEARTBEAT_S):
            return


def wait(channel_fd: int, page: VitalsPage, taken: threading.Event) -> bool:
    """Show signs of life until `taken`; returns once there is something to receive. False at the end of the channel."""
    threading.Thread(target=beat, args=(page, taken), name="waiting", daemon=True).start()
    poll = select.poll()
    poll.register(channel_fd, select.POLLIN)
    ((_, events),) = poll.poll()
    return bool(events & select.POLLIN) and not events & select.POLLHUP


def main(argv: Sequence[str]) -> None:
    """See module."""
    given = parsed(argv)
    prepare(given.parent, given.affinity, given.memory_limit)
    os.nice(given.nice)
    page = VitalsPage(sealed.attach(given.vitals, PAGE_BYTES))
    taken = threading.Event()
    if wait(given.channel, page, taken):
        from agent.backends import worker  # noqa: PLC0415 - numpy and all that comes with it

        taken.set()
        worker.work(given, page)
    # Native runtimes may hang or crash in their destructors; there is nothing left to save.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
