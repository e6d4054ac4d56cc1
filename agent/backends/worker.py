"""A lane's process at work: receives messages, runs models first come first served, shows signs of life.

The main thread receives and runs, a second one loads models (so that a load never delays a run), a third writes the
heartbeat. `waiting` is its main program.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

from agent.backends import execution, segments
from agent.backends.artifact import LoadOrder
from agent.backends.eagerness import Eagerness
from agent.backends.execution import Executor
from agent.backends.layouts import TensorArea
from agent.backends.messages import Channel, Closed, Header, parse, shorten
from agent.backends.packets import HEAD_BYTES, RUN, pack_done, unpack_done, unpack_run, unpack_work
from agent.backends.plans import Model, Plan
from agent.backends.segments import Ring
from agent.backends.vitals import VitalsPage
from agent.backends.waiting import beat
from agent.errors import BackendError, DeadlineExceeded, InferenceFailed, PermitExpired, QeilError

MAX_PLANS: Final = 512
"""Forms of runs remembered, each in each slot; all are forgotten when there are more."""


class Worker:
    """See module."""

    def __init__(self, channel: Channel, page: VitalsPage, name: str, simulated: bool) -> None:
        self._channel = channel
        self._page = page
        self._name = name
        self._simulated = simulated
        self._executor = Executor()
        self._models: dict[int, Model] = {}
        self._plans: dict[bytes, Plan] = {}
        self._loads: queue.SimpleQueue[Header | None] = queue.SimpleQueue()
        self._over = threading.Event()
        self._eagerness = Eagerness(channel.sock)
        self._handlers: dict[str, Callable[[Header, int | None], None]] = {
            "load": self._queue_load, "ring": self._ring, "unload": self._unload,
            "fault": self._fault,
        }  # fmt: skip

    def serve(self) -> None:
        """Work until told to stop or until the other side is gone."""
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        threading.Thread(target=self._load_models, name="loader", daemon=True).start()
        try:
            while True:
                self._eagerness.wait()
                packet, fd = self._channel.receive()
                if packet[0] == RUN:
                    self._eagerness.came(time.monotonic_ns())
                    self._run(packet, fd)
                    self._eagerness.answered(time.monotonic_ns(), self._page.paced())
                    continue
                header = parse(packet)
                if header["k"] == "stop":
                    return
                self._handlers[header["k"]](header, fd)
        except Closed:
            return
        finally:
            self._over.set()

    # ------------------------------------------------------------------ main thread

    def _run(self, packet: bytes, fd: int | None) -> None:
        """Run and answer, unless that is pointless or forbidden by now."""
        number, deadline_ns = unpack_run(packet)
        work = packet[HEAD_BYTES:]
        try:
            plan = self._plans.get(work) or self._plan(work, fd)
            page, now_ns = self._page, time.monotonic_ns()
            if page.rest_until_ns > now_ns:
                time.sleep(page.rest_s(now_ns))
                now_ns = time.monotonic_ns()
            if plan.mark[0] or now_ns > deadline_ns:
                raise DeadlineExceeded(f"{self._name} skipped a call that was given up before it began")
            if not page.permitted(now_ns):
                raise PermitExpired(f"{self._name} holds no valid run permit")
            page.begin(now_ns, deadline_ns)
            try:
                done, segment = self._answer(plan, number)
            finally:
                page.end(time.monotonic_ns())
        except QeilError as error:
            self._channel.send({"k": "failed", "id": number, "error": error.code, "text": shorten(error.message)})
            return
        try:
            self._channel.send_packet(done, segment)
        finally:
            if segment is not None:
                os.close(segment)
        if plan.again is None and segment is None and not self._simulated:
            plan.answered(unpack_done(done).tensors)

    def _plan(self, packed: bytes, fd: int | None) -> Plan:
        """What these bytes ask for."""
        work = unpack_work(packed)
        segment = segments.attach(fd, work.segment_bytes) if fd is not None else None
        model = self._models.get(work.load)
        if model is None or model.inputs is None:
            raise BackendError(f"{self._name} does not hold that model any more")
        plan = Plan(model, model.inputs, work, segment)
        if plan.lasting:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            self._plans[packed] = plan
        return plan

    def _answer(self, plan: Plan, number: int) -> tuple[bytes, int | None]:
        """(the packet that says so, the descriptor of outputs that do not fit the slot)."""
        again = plan.again
        if again is not None:
            started_ns = time.monotonic_ns()
            # Outputs of another shape, or the call's own fault: a plain run tells.
            with contextlib.suppress(InferenceFailed):
                again()
                return pack_done(number, (time.monotonic_ns() - started_ns) / 1e9, None, 0, plan.encoded), None
        result = self._executor.run(plan.model.loaded, plan.feeds, plan.names)
        if again is not None:
            plan.unbind()
        encoded, segment_bytes, fd = plan.place(result.arrays)
        return pack_done(number, result.execute_s, result.energy_j, segment_bytes, encoded), fd

    def _queue_load(self, header: Header, _: int | None) -> None:
        self._loads.put(header)

    def _ring(self, header: Header, fd: int | None) -> None:
        model = self._models.get(header["load"])
        if model is not None and fd is not None:
            ring = Ring(segments.attach(fd, header["bytes"]), header["slots"], header["in"], header["out"])
            model.inputs = TensorArea(ring, model.loaded.session.inputs, output=False)
            model.choices.clear()  # they lie in the ring before
            self._plans.clear()

    def _unload(self, header: Header, _: int | None) -> None:
        self._models.pop(header["load"], None)
        self._plans.clear()  # which hold it, and those of other models are soon made again
        self._channel.send({"k": "unloaded", "id": header["id"]})
        self._loads.put(None)

    def _fault(self, header: Header, _: int | None) -> None:
        if self._simulated:
            self._executor.faults.arm(header["kind"], header["runs"], header["delay_s"])

    # ------------------------------------------------------------------ loader thread

    def _load_models(self) -> None:
        while True:
            header = self._loads.get()
            if header is None:
                _give_back()  # here, because it may take a while
                continue
            answer: Header = {"k": "loaded", "id": header["id"]}
            order = LoadOrder.from_json(header["order"])
            try:
                loaded = execution.load(order)
            except QeilError as error:
                answer["error"], answer["text"] = error.code, shorten(error.message)
            except Exception as error:  # noqa: BLE001  (thread root: an unforeseen failure refuses the model only)
                answer["error"] = "model_load_failed"
                answer["text"] = shorten(f"{order.model}: {type(error).__name__}: {error}")
            else:
                self._models[header["id"]] = Model(loaded)
                answer["outcome"] = loaded.outcome.to_json()
                if order.simulation is not None:
                    self._executor.warm(order.simulation, time.monotonic())
            try:
                self._channel.send(answer)
            except BackendError as error:
                self._models.pop(header["id"], None)
                self._channel.send(
                    {"k": "loaded", "id": header["id"], "error": error.code, "text": shorten(error.message)}
                )

    # ------------------------------------------------------------------ heartbeat thread

    def _beat(self) -> None:
        beat(self._page, self._over, self._show_heat)

    def _show_heat(self) -> None:
        heat = self._executor.heat
        if heat is not None:
            self._page.heat(*heat.reading(time.monotonic()))


def _give_back() -> None:
    """Return to the system what a model that was unloaded left free in the heap. Only glibc can."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def work(given: argparse.Namespace, page: VitalsPage) -> None:
    """Serve the channel of a process that was prepared."""
    Worker(Channel(socket.socket(fileno=given.channel)), page, given.name, given.simulated).serve()
