"""Main program of a lane's process: receives messages, runs models first come first served, shows signs of life.

    python -m agent.backends.worker --channel FD --vitals FD --parent PID --name ACCELERATOR

The main thread receives and runs, a second one loads models (so that a load never delays a run), a third writes the
heartbeat. The process ends with its parent: by the end of the channel, and by the kernel if it is deep in native code.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agent.backends import execution, segments
from agent.backends.artifact import LoadOrder
from agent.backends.execution import Executor, LoadedSession
from agent.backends.formats import STORAGE, Array, datatype_of, pack_bytes, unpack_bytes
from agent.backends.messages import Channel, Closed, Header, shorten
from agent.backends.segments import Ring
from agent.backends.vitals import PAGE_BYTES, VitalsPage
from agent.errors import BackendError, InferenceFailed, PermitExpired, QeilError

HEARTBEAT_S: Final = 0.1
MAX_SEGMENT_BYTES: Final = 1024 * 1024 * 1024
_PR_SET_PDEATHSIG: Final = 1


@dataclass
class _Model:
    loaded: LoadedSession
    ring: Ring | None = None


class Worker:
    """See module."""

    def __init__(self, channel: Channel, page: VitalsPage, name: str, simulated: bool) -> None:
        self._channel = channel
        self._page = page
        self._name = name
        self._simulated = simulated
        self._executor = Executor()
        self._models: dict[int, _Model] = {}
        self._loads: queue.SimpleQueue[Header] = queue.SimpleQueue()
        self._over = threading.Event()
        self._handlers: dict[str, Callable[[Header, int | None], None]] = {
            "run": self._run, "load": self._queue_load, "ring": self._ring, "unload": self._unload,
            "fault": self._fault,
        }  # fmt: skip

    def serve(self) -> None:
        """Work until told to stop or until the other side is gone."""
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        threading.Thread(target=self._load_models, name="loader", daemon=True).start()
        try:
            while True:
                header, fd = self._channel.receive()
                if header["k"] == "stop":
                    return
                self._handlers[header["k"]](header, fd)
        except Closed:
            return
        finally:
            self._over.set()

    # ------------------------------------------------------------------ main thread

    def _run(self, header: Header, fd: int | None) -> None:
        answer: Header = {"k": "done", "id": header["id"]}
        segment: int | None = None
        try:
            segment = self._answer(header, fd, answer)
        except QeilError as error:
            answer["error"], answer["text"] = error.code, shorten(error.message)
        try:
            self._channel.send(answer, segment)
        finally:
            if segment is not None:
                os.close(segment)

    def _answer(self, header: Header, fd: int | None, answer: Header) -> int | None:
        """Run unless it is pointless or forbidden by now; the descriptor of outputs that do not fit the slot."""
        area = segments.attach(fd, header["seg"]) if fd is not None else None
        model = self._models.get(header["load"])
        if model is None or model.ring is None:
            raise BackendError(f"{self._name} does not hold that model any more")
        now_ns = time.monotonic_ns()
        if model.ring.cancelled(header["slot"]) or now_ns > header["deadline"]:
            raise BackendError("given up before it began")
        if not self._page.permitted(now_ns):
            raise PermitExpired(f"{self._name} holds no valid run permit")
        feeds = _feeds(model, header["in"], model.ring.memory if area is None else area)
        wanted = tuple(header["out"]) if header["out"] is not None else model.loaded.output_names
        self._page.begin(now_ns)
        try:
            result = self._executor.run(model.loaded, feeds, wanted)
        finally:
            self._page.end()
        answer["t"] = result.execute_s
        if result.energy_j is not None:
            answer["e"], answer["p"] = result.energy_j, "modelled"
        return _place(model, header["slot"], wanted, result.arrays, answer)

    def _queue_load(self, header: Header, _: int | None) -> None:
        self._loads.put(header)

    def _ring(self, header: Header, fd: int | None) -> None:
        model = self._models.get(header["load"])
        if model is not None and fd is not None:
            model.ring = Ring(segments.attach(fd, header["bytes"]), header["slots"], header["in"], header["out"])

    def _unload(self, header: Header, _: int | None) -> None:
        self._models.pop(header["load"], None)
        self._channel.send({"k": "unloaded", "id": header["id"]})

    def _fault(self, header: Header, _: int | None) -> None:
        if self._simulated:
            self._executor.faults.arm(header["kind"], header["runs"], header["delay_s"])

    # ------------------------------------------------------------------ loader thread

    def _load_models(self) -> None:
        while True:
            header = self._loads.get()
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
        while True:
            heat = self._executor.heat
            if heat is not None:
                self._page.heat(*heat.reading(time.monotonic()))
            self._page.beat(time.monotonic_ns(), execution.rss_bytes())
            if self._over.wait(HEARTBEAT_S):
                return


def _feeds(model: _Model, listed: list[Any], area: Array) -> dict[str, Array]:
    feeds: dict[str, Array] = {}
    for signature, (shape, at, size) in zip(model.loaded.session.inputs, listed, strict=True):
        if signature.datatype == "BYTES":
            feeds[signature.name] = unpack_bytes(signature.name, area[at : at + size], tuple(shape))
        else:
            feeds[signature.name] = segments.tensor(area, at, STORAGE[signature.datatype], tuple(shape))
    return feeds


def _place(model: _Model, slot: int, names: tuple[str, ...], arrays: list[Array], answer: Header) -> int | None:
    """Copy outputs into the slot; where they do not fit into a segment, whose descriptor is returned."""
    ring = model.ring
    assert ring is not None  # noqa: S101  (the caller checked)
    datatypes = {s.name: s.datatype for s in model.loaded.session.outputs}
    crossing = [pack_bytes(n, a) if a.dtype.kind == "O" else a for n, a in zip(names, arrays, strict=True)]
    offsets, total = segments.layout([array.nbytes for array in crossing])
    fd: int | None = None
    if total <= ring.output_bytes:
        base, area = ring.offset(slot, output=True), ring.memory
        offsets = [base + at for at in offsets]
    elif total > MAX_SEGMENT_BYTES:
        raise InferenceFailed(f"{model.loaded.order.model}: {total} bytes of outputs exceed {MAX_SEGMENT_BYTES} bytes")
    else:
        fd, area = segments.create("oversize", total)
        answer["seg"] = total
    for at, array in zip(offsets, crossing, strict=True):
        segments.place(area, at, array)
    answer["out"] = [
        [n, datatypes.get(n) or datatype_of(n, a), a.shape, at, c.nbytes]
        for n, a, c, at in zip(names, arrays, crossing, offsets, strict=True)
    ]
    return fd


def prepare(parent: int, affinity: str | None, memory_limit_bytes: int | None) -> None:
    """Tie this process to its parent and its limits. Exits when the parent is already gone."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
    if affinity:
        os.sched_setaffinity(0, [int(core) for core in affinity.split(",")])
    if memory_limit_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (memory_limit_bytes, memory_limit_bytes))


def main(argv: Sequence[str]) -> None:
    """See module."""
    parser = argparse.ArgumentParser(prog="agent.backends.worker")
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--vitals", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--simulated", action="store_true")
    parser.add_argument("--affinity")
    parser.add_argument("--memory-limit", type=int)
    given = parser.parse_args(argv)
    prepare(given.parent, given.affinity, given.memory_limit)
    page = VitalsPage(segments.attach(given.vitals, PAGE_BYTES))
    Worker(Channel(socket.socket(fileno=given.channel)), page, given.name, given.simulated).serve()
    # Native runtimes may hang or crash in their destructors; there is nothing left to save.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
