"""Main program of the search process: placement problems in on stdin, fronts out on stdout, one after another.

Ends when stdin does, so it never outlives the agent. Frames are `send` and `receive` of this module; what is in them
comes from and goes to the agent that started it, nobody else.
"""

from __future__ import annotations

import os
import pickle
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from agent.errors import PlacementError
from agent.placement.warm import replan

NICE = 10
"""Requests and the supervisor come first."""
_LENGTH = struct.Struct("<Q")


def send(write: Callable[[bytes], object], message: object) -> None:
    """One frame: length, then the pickled message."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    write(_LENGTH.pack(len(body)))
    write(body)


def receive(read: Callable[[int], bytes]) -> Any:
    """One frame; `read(n)` gives n bytes. EOFError at the end."""
    (length,) = _LENGTH.unpack(read(_LENGTH.size))
    return pickle.loads(read(length))  # noqa: S301  (our own process at the other end of a private pipe)


def answer(request: Any) -> object:
    """The result of `replan`, or the message of its PlacementError."""
    problem, warm, budget_s = request
    try:
        return replan(problem, warm, budget_s=budget_s, clock=time.perf_counter)
    except PlacementError as error:
        return error.message


def main() -> None:
    """Serve until stdin ends."""
    os.nice(NICE)
    source, target = sys.stdin.buffer, sys.stdout.buffer

    def read(size: int) -> bytes:
        data = source.read(size)
        if len(data) < size:
            raise EOFError
        return data

    try:
        while True:
            send(target.write, answer(receive(read)))
            target.flush()
    except (EOFError, BrokenPipeError):
        # What could not be written must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    main()
