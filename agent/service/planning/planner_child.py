"""Main program of the planning process: what to plan in on stdin, plans out on stdout, one after another.

While it plans it says every second that it is alive. Ends when stdin does, so it never outlives the agent.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

from agent.errors import QeilError
from agent.service.planning.plan import Plan
from agent.service.planning.planner_frames import Alive, Failed, Order, Setup, receive, send, without_graph
from agent.service.planning.split_planner import SplittingPlanner
from agent.service.serving.split_meter import Handover

NICE = 10
"""Requests and the supervisor come first."""
BEAT_S = 1.0
"""How often a process that plans says so."""


class Planning:
    """The planner of one agent, with the fronts that it keeps."""

    def __init__(self, setup: Setup) -> None:
        self._measured: Mapping[tuple[str, str], Handover] = {}
        self._planner = SplittingPlanner(setup.board, setup.state_dir, lambda: self._measured, setup.apart_bytes)

    def answer(self, order: Order) -> Plan | Failed:
        """The plan, without the graphs that the agent has, or why there is none."""
        self._measured = order.handovers
        try:
            plan = self._planner.plan(order.policy, order.digest, order.models, order.state, order.running)
        except QeilError as error:
            return Failed(error.message, told=True)
        except Exception as error:  # noqa: BLE001  (root of a process: the agent is told, and plans on)
            return Failed(f"{type(error).__name__}: {error}", told=False)
        return replace(plan, models=tuple(without_graph(m, order.known) for m in plan.models))


class _Pulse:
    """Says `Alive` every `BEAT_S` while it is entered."""

    def __init__(self, say: Callable[[object], None], beat_s: float) -> None:
        self._say = say
        self._beat_s = beat_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # the answer will find that out
            while not self._done.wait(self._beat_s):
                self._say(Alive())


def main(beat_s: float = BEAT_S) -> None:
    """Serve until stdin ends."""
    os.nice(NICE)
    source, target = sys.stdin.buffer, sys.stdout.buffer

    def read(size: int) -> bytes:
        data = source.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def say(message: object) -> None:
        send(target.write, message)
        target.flush()

    try:
        planning = Planning(receive(read))
        while True:
            order = receive(read)
            with _Pulse(say, beat_s):
                answer = planning.answer(order)
            say(answer)
    except (EOFError, BrokenPipeError):
        # What could not be written must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


if __name__ == "__main__":
    main()
