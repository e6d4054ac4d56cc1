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
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from agent.backends import execution, segments
from agent.backends.artifact import LoadOrder
from agent.backends.eagerness import Eagerness
from agent.backends.execution import Executor, LoadedSession
from agent.backends.formats import Array
from agent.backends.layouts import REMEMBERED, Layout, TensorArea, copy_in
from agent.backends.messages import Channel, Closed, Header, parse, shorten
from agent.backends.packets import RUN, Done, Run, pack_done, unpack_run
from agent.backends.segments import Ring
from agent.backends.vitals import VitalsPage
from agent.backends.waiting import beat
from agent.errors import BackendError, DeadlineExceeded, InferenceFailed, PermitExpired, QeilError

MAX_SEGMENT_BYTES: Final = 1024 * 1024 * 1024


class _Choice(NamedTuple):
    names: tuple[str, ...]
    area: TensorArea


@dataclass
class _Model:
    loaded: LoadedSession
    inputs: TensorArea | None = None
    choices: dict[bytes, _Choice] = field(default_factory=dict)

    def choice(self, indices: bytes) -> _Choice:
        """The outputs wanted, by their indices."""
        known = self.choices.get(indices)
        if known is None:
            assert self.inputs is not None  # noqa: S101  (the caller checked)
            signatures = [self.loaded.session.outputs[index] for index in indices]
            area = TensorArea(self.inputs.ring, signatures, output=True)
            if len(self.choices) >= REMEMBERED:
                self.choices.clear()
            known = self.choices[indices] = _Choice(area.names, area)
        return known


class Worker:
    """See module."""

    def __init__(self, channel: Channel, page: VitalsPage, name: str, simulated: bool) -> None:
        self._channel = channel
        self._page = page
        self._name = name
        self._simulated = simulated
        self._executor = Executor()
        self._models: dict[int, _Model] = {}
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
                    self._run(unpack_run(packet), fd)
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

    def _run(self, run: Run, fd: int | None) -> None:
        try:
            done, segment = self._answer(run, fd)
        except QeilError as error:
            self._channel.send({"k": "failed", "id": run.number, "error": error.code, "text": shorten(error.message)})
            return
        try:
            self._channel.send_packet(pack_done(done), segment)
        finally:
            if segment is not None:
                os.close(segment)

    def _answer(self, run: Run, fd: int | None) -> tuple[Done, int | None]:
        """Run unless it is pointless or forbidden by now; the descriptor is of outputs that do not fit the slot."""
        segment = segments.attach(fd, run.segment_bytes) if fd is not None else None
        model = self._models.get(run.load)
        if model is None or model.inputs is None:
            raise BackendError(f"{self._name} does not hold that model any more")
        now_ns = time.monotonic_ns()
        rest_s = self._page.rest_s(now_ns)
        if rest_s > 0:
            time.sleep(rest_s)
            now_ns = time.monotonic_ns()
        if model.inputs.ring.cancelled(run.slot) or now_ns > run.deadline_ns:
            raise DeadlineExceeded(f"{self._name} skipped a call that was given up before it began")
        if not self._page.permitted(now_ns):
            raise PermitExpired(f"{self._name} holds no valid run permit")
        feeds = _feeds(model.inputs, run, segment)
        choice = model.choice(run.outputs)
        self._page.begin(now_ns)
        try:
            result = self._executor.run(model.loaded, feeds, choice.names)
        finally:
            self._page.end(time.monotonic_ns())
        layout, segment_bytes, answer_fd = _place(model, choice, run.slot, result.arrays)
        return Done(run.number, result.execute_s, result.energy_j, segment_bytes, layout.encoded), answer_fd

    def _queue_load(self, header: Header, _: int | None) -> None:
        self._loads.put(header)

    def _ring(self, header: Header, fd: int | None) -> None:
        model = self._models.get(header["load"])
        if model is not None and fd is not None:
            ring = Ring(segments.attach(fd, header["bytes"]), header["slots"], header["in"], header["out"])
            model.inputs = TensorArea(ring, model.loaded.session.inputs, output=False)
            model.choices.clear()  # they lie in the ring before

    def _unload(self, header: Header, _: int | None) -> None:
        self._models.pop(header["load"], None)
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
                self._models[header["id"]] = _Model(loaded)
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


def _feeds(area: TensorArea, run: Run, segment: Array | None) -> dict[str, Array]:
    layout = area.decode(run.tensors)
    views = area.views(run.slot, layout) if segment is None else area.views_of(segment, 0, layout)
    return dict(zip(area.names, area.texts(views, layout), strict=True))


def _place(model: _Model, choice: _Choice, slot: int, arrays: list[Array]) -> tuple[Layout, int, int | None]:
    """Copy outputs into the slot, or where they do not fit into a segment: (layout, bytes and descriptor of that)."""
    area = choice.area
    crossing = area.packed(arrays)
    layout = area.describe(arrays, crossing)
    if layout.total <= area.room_bytes:
        copy_in(area.views(slot, layout), crossing)
        return layout, 0, None
    if layout.total > MAX_SEGMENT_BYTES:
        name = model.loaded.order.model
        raise InferenceFailed(f"{name}: {layout.total} bytes of outputs exceed the {MAX_SEGMENT_BYTES} that may cross")
    try:
        fd, memory = segments.create("oversize", layout.total)
    except OSError as error:
        raise BackendError(f"no shared memory for {layout.total} bytes of outputs: {error.strerror}") from error
    copy_in(area.views_of(memory, 0, layout), crossing)
    return layout, layout.total, fd


def work(given: argparse.Namespace, page: VitalsPage) -> None:
    """Serve the channel of a process that was prepared."""
    Worker(Channel(socket.socket(fileno=given.channel)), page, given.name, given.simulated).serve()
