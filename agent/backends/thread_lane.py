"""Thread lane: an accelerator's executor inside the agent, for boards that cannot afford a process each.

Same promises as a process lane except one: a runtime that crashes takes the agent along, and one that hangs keeps its
thread and memory until the agent ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Final

from agent.backends import calls, execution
from agent.backends.calls import Call, CallQueue
from agent.backends.execution import Executor, LoadedSession
from agent.backends.faults import Kind, injection
from agent.backends.formats import check_feeds, text_of
from agent.backends.io import LaneIO, settle
from agent.backends.models import Load
from agent.backends.reports import order_of, report_of
from agent.backends.vitals import VitalsPage, rss_bytes
from agent.errors import (
    BackendError,
    InferenceFailed,
    LaneDied,
    ModelLoadFailed,
    NotLoaded,
    Overloaded,
    PermitExpired,
    QeilError,
)
from agent.ports import Clock, LaneReply, LaneSpec, LaneVitals, LoadReport, LoadSpec, Tensors

HEARTBEAT_S: Final = 0.1


class ThreadLane:
    """`ports.Lane` in a thread of the agent. `io` watches its deadlines."""

    def __init__(self, spec: LaneSpec, clock: Clock, io: LaneIO | None = None) -> None:
        self.spec = spec
        self._clock = clock
        self._io = io or LaneIO(clock)
        self._owns_io = io is None
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)
        self._queue = CallQueue(spec.accelerator, spec.max_queue)
        self._models: dict[str, LoadedSession] = {}
        self._retiring: dict[str, LoadedSession] = {}
        """Unloaded, but calls that were accepted before wait for them."""
        self._loads: list[Load] = []
        self._executor = Executor()
        self._page = VitalsPage()
        self._numbers = 0
        self._on_death: Callable[[str], None] = _ignore
        self._cause: str | None = "it was not started"
        self._stopping = False
        self._runner: threading.Thread | None = None

    # ------------------------------------------------------------------ life

    def start(self, on_death: Callable[[str], None]) -> None:
        """Start the thread. A lane starts once."""
        if self._runner is not None:
            raise LaneDied(f"{self.spec.accelerator}: a lane starts once; make a new one")
        self._on_death, self._cause = on_death, None
        self._beat()
        self._runner = threading.Thread(target=self._run, name=f"lane-{self.spec.accelerator}", daemon=True)
        self._runner.start()
        self._io.call(lambda: self._io.join(self)).result()

    def alive(self) -> bool:
        """Whether calls are accepted."""
        return self._cause is None and not self._stopping

    def pid(self) -> int | None:
        """None: there is no process."""
        return None

    def vitals(self) -> LaneVitals | None:
        """Signs of life; the memory is the whole agent's."""
        signs = self._page.signs()
        return None if signs is None else LaneVitals(*signs, busy_s=self._page.busy_s())

    def renew_permit(self, valid_until_s: float) -> None:
        """Extend (or, with 0, withdraw) the permission to run."""
        self._page.renew_permit(valid_until_s)

    def set_pace(self, share: float) -> None:
        """Let it be busy for at most this share of its time."""
        self._page.pace(share)

    def queue_length(self) -> int:
        """Calls accepted and not answered by the thread, given-up ones included."""
        return len(self._queue)

    def kill(self, cause: str) -> None:
        """Give the thread up; pending futures fail with LaneDied(cause)."""
        with self._work:
            if self._cause is not None:
                return
            self._cause = cause
            futures: list[Future[Any]] = [call.future for call in self._queue.take_all()]
            futures += [load.future for load in self._loads]
            self._loads.clear()
            self._models.clear()
            self._work.notify_all()
        for future in futures:
            settle(future, error=LaneDied(cause))
        self._leave()
        self._on_death(cause)

    def stop(self, timeout_s: float) -> None:
        """Answer what was accepted, then end; given up when that takes longer."""
        with self._work:
            running = self._cause is None
            self._stopping = True
            self._work.notify_all()
        if running and self._runner is not None:
            self._runner.join(timeout_s)
            if self._runner.is_alive():
                self.kill(f"{self.spec.accelerator} did not stop within {timeout_s:g} s")
            else:
                self._cause = "it was stopped"
                self._leave()
        if self._owns_io:
            self._io.close()

    # ------------------------------------------------------------------ models

    def load(self, spec: LoadSpec, timeout_s: float) -> Future[LoadReport]:
        """Load beside what is loaded, in a thread of its own so that runs go on."""
        load = Load(spec, self._clock.monotonic_s() + timeout_s)
        with self._lock:
            self._require()
            self._loads.append(load)
        threading.Thread(target=self._load, args=(load,), name=f"load-{spec.model}", daemon=True).start()
        self._io.remind(load.deadline_s)
        return load.future

    def unload(self, model: str) -> Future[None]:
        """Forget a model; the calls that were accepted keep it until they end."""
        future: Future[None] = Future()
        with self._lock:
            self._require()
            loaded = self._models.pop(model, None)
            if loaded is not None and self._queue.awaits(model):
                self._retiring[model] = loaded
        future.set_result(None)
        return future

    def submit(
        self, model: str, inputs: Tensors, outputs: tuple[str, ...] | None, deadline_s: float
    ) -> Future[LaneReply]:
        """Run once. Raises Overloaded (queue full, model not loaded), LaneDied; see `ports.Lane` for the future."""
        with self._work:
            self._require()
            if model not in self._models:
                raise NotLoaded(f"{model} is not loaded on {self.spec.accelerator}")
            self._numbers += 1
            call = Call(self._numbers, model, inputs, outputs, deadline_s)
            if deadline_s <= self._clock.monotonic_s():
                settle(call.future, error=calls.too_late(call, self.spec.accelerator))
                return call.future
            self._queue.add(call)
            self._work.notify()
        call.future.add_done_callback(partial(self._cancelled, call.number))
        self._io.remind(deadline_s)
        return call.future

    def inject(self, kind: Kind, runs: int = 1, delay_s: float = 0.0) -> None:
        """Arm a fault for the next runs; a crash is refused, because it would be the agent's."""
        injection(self.spec, kind, runs, delay_s)
        if kind == "crash":
            raise BackendError(f"{self.spec.accelerator}: a crash in a thread would end the agent")
        self._executor.faults.arm(kind, runs, delay_s)

    # ------------------------------------------------------------------ inside

    def _leave(self) -> None:
        with suppress(LaneDied):  # the reader thread is closed already
            self._io.call(lambda: self._io.leave(self)).result()
        if self._owns_io:
            self._io.close()

    def _require(self) -> None:
        if self._cause is not None or self._stopping:
            raise LaneDied(f"{self.spec.accelerator}: {self._cause or 'it is stopping'}")

    def _cancelled(self, number: int, done: Future[LaneReply]) -> None:
        # By number: a future that referred to its own call would keep the answer's slot until the next collection.
        if done.cancelled():
            with self._lock:
                self._queue.drop(number)

    def _load(self, load: Load) -> None:
        report: LoadReport | None = None
        error: QeilError | None = None
        try:
            loaded = execution.load(order_of(load.spec))
            report = report_of(load.spec, loaded.outcome)
        except QeilError as failure:
            error = failure
        except Exception as failure:  # noqa: BLE001  (thread root: an unforeseen failure refuses the model only)
            error = ModelLoadFailed(f"{load.spec.model}: {type(failure).__name__}: {failure}")
        with self._lock:
            wanted = load in self._loads
            if wanted:
                self._loads.remove(load)
                if error is None:
                    self._models[load.spec.model] = loaded
        if wanted:
            settle(load.future, report, error)

    def _run(self) -> None:
        while True:
            with self._work:
                while (call := self._queue.first()) is None and self._cause is None and not self._stopping:
                    self._work.wait()
                if self._cause is not None or call is None:
                    return
                del self._queue.waiting[call.number]
                loaded = self._models.get(call.model) or self._retiring.get(call.model)
                if call.model in self._retiring and not self._queue.awaits(call.model):
                    del self._retiring[call.model]
                self._queue.sent[call.number] = call
            reply, error = self._attempt(call, loaded)
            with self._lock:
                self._queue.sent.pop(call.number, None)
            settle(call.future, reply, error)

    def _attempt(self, call: Call, loaded: LoadedSession | None) -> tuple[LaneReply | None, QeilError | None]:
        try:
            return self._answer(call, loaded), None
        except QeilError as error:
            return None, error
        except Exception as error:  # noqa: BLE001  (thread root: an unforeseen failure is the request's)
            return None, InferenceFailed(f"{call.model}: {type(error).__name__}: {error}")

    def _answer(self, call: Call, loaded: LoadedSession | None) -> LaneReply:
        """Run unless it is pointless or forbidden by now."""
        if loaded is None:
            raise Overloaded(f"{call.model} was unloaded from {self.spec.accelerator}")
        rest_s = self._page.rest_s(time.monotonic_ns())
        if rest_s > 0:
            time.sleep(rest_s)
        now_ns = time.monotonic_ns()
        if call.future.done() or now_ns > call.deadline_s * 1e9:
            raise calls.too_late(call, self.spec.accelerator)
        if not self._page.permitted(now_ns):
            raise PermitExpired(f"{self.spec.accelerator} holds no valid run permit")
        check_feeds(call.model, call.inputs, loaded.session.inputs)
        names = call.outputs if call.outputs is not None else loaded.output_names
        loaded.check_outputs(names)
        self._page.begin(now_ns, int(call.deadline_s * 1e9))
        try:
            result = self._executor.run(loaded, _texts_in(call.inputs), names)
        finally:
            self._page.end(time.monotonic_ns())
        outputs = dict(zip(names, result.arrays, strict=True))
        if result.energy_j is None:
            return LaneReply(outputs, result.execute_s)
        return LaneReply(outputs, result.execute_s, result.energy_j, "modelled")

    # ------------------------------------------------------------------ reader thread

    def expire(self, now_s: float) -> float:
        """Fail what is overdue and show a sign of life (called by the reader thread)."""
        self._beat()
        with self._lock:
            late, next_s = self._queue.overdue(now_s)
            late_loads = [load for load in self._loads if load.deadline_s <= now_s]
            self._loads = [load for load in self._loads if load.deadline_s > now_s]
        for call in late:
            settle(call.future, error=calls.too_late(call, self.spec.accelerator))
        for load in late_loads:
            sentence = f"{load.spec.model} did not load on {self.spec.accelerator} in time"
            settle(load.future, error=ModelLoadFailed(sentence))
        return min(next_s, now_s + HEARTBEAT_S)

    def reader_failed(self, cause: str) -> None:
        """The reader thread ends: so does the lane."""
        self.kill(cause)

    def _beat(self) -> None:
        heat = self._executor.heat
        if heat is not None:
            self._page.heat(*heat.reading(time.monotonic()))
        self._page.beat(time.monotonic_ns(), rss_bytes())


def _texts_in(inputs: Tensors) -> Tensors:
    """The inputs with strings as runtimes take them; the very mapping where it has none. Raises InputRefused."""
    if all(array.dtype.kind != "O" for array in inputs.values()):
        return inputs
    return {name: text_of(name, array) if array.dtype.kind == "O" else array for name, array in inputs.items()}


def _ignore(_: str) -> None:
    return None
