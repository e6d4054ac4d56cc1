"""Process lane: an accelerator's child process as the agent sees it.

Owns the queue of calls, the rings their tensors cross in, and the end of the process. The parent holds every deadline:
it never waits for a native runtime. Must not import any runtime.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, Final

from agent.backends import calls
from agent.backends.calls import Call, CallQueue
from agent.backends.child_lane import ChildLane, Failing, failing
from agent.backends.faults import Kind, injection
from agent.backends.head_start import Spare
from agent.backends.io import LaneIO, settle
from agent.backends.messages import Channel, Closed, Header, parse
from agent.backends.models import Load, ModelTable, error_of
from agent.backends.packets import DONE, unpack_done
from agent.backends.process import Child
from agent.backends.promise import Promise
from agent.backends.transfer import LoadedModel, read_reply
from agent.errors import BackendError, ModelLoadFailed, NotLoaded, Overloaded, QeilError
from agent.ports import Clock, LaneReply, LaneSpec, LoadReport, LoadSpec, Tensors

WINDOW: Final = 8
"""Calls the process holds at once: enough that it never waits for the agent, few enough that the socket never fills."""

Refusal = tuple[Call, QeilError]


class ProcessLane(ChildLane):
    """`ports.Lane` in a child process."""

    def __init__(self, spec: LaneSpec, clock: Clock, io: LaneIO | None = None, spare: Spare | None = None) -> None:
        """`io` is the reader thread shared by all lanes; `spare` is a process that has begun already."""
        super().__init__(spec, clock, io)
        self._spare = spare
        self._queue = CallQueue(spec.accelerator, spec.max_queue)
        self._models = ModelTable(spec.accelerator)

    def _make_child(self, channel_fd: int, vitals_fd: int) -> Child:
        return Child(self.spec, channel_fd, vitals_fd, spare=self._spare)

    # ------------------------------------------------------------------ life

    def queue_length(self) -> int:
        """Calls accepted and not answered by the process, given-up ones included."""
        return len(self._queue.waiting) + len(self._queue.sent)

    def stop(self, timeout_s: float) -> None:
        """Answer what was accepted, then end; killed when that takes longer. Not from a future's callback."""
        with self._lock:
            running = self._cause is None
            self._stopping = True
            refused = self._pump()
        self._refuse(refused)
        if running:
            self._kill_unless_ended(timeout_s)
        if self._owns_io:
            self._io.close()

    # ------------------------------------------------------------------ models

    def load(self, spec: LoadSpec, timeout_s: float) -> Future[LoadReport]:
        """Load beside what is loaded; a model of the same name is replaced when the new one is ready."""
        load = Load(spec, self._clock.monotonic_s() + timeout_s)
        with self._lock, self._sending():
            self._models.begin_load(self._require(), self._next_number(), load)
        self._io.remind(load.deadline_s)
        return load.future

    def unload(self, model: str) -> Future[None]:
        """Forget a model after the calls that were accepted for it."""
        with self._lock, self._sending():
            later = self._queue.awaits(model)
            return self._models.begin_unload(self._require(), self._next_number(), model, later)

    def reserve(self, model: str, shapes: dict[str, tuple[int, ...]] | None = None) -> Tensors | None:
        """Input arrays inside shared memory to write into and submit, which saves a copy; None where impossible.

        `shapes` is needed for inputs with free dimensions. The slot is held while the arrays are referenced.
        """
        with self._lock:
            loaded = self._models.loaded.get(model)
            return None if loaded is None else loaded.reserve(shapes or {})

    def submit(
        self, model: str, inputs: Tensors, outputs: tuple[str, ...] | None, deadline_s: float
    ) -> Future[LaneReply]:
        """Run once. Raises Overloaded (queue full, model not loaded), LaneDied; see `ports.Lane` for the future."""
        with self._lock:
            channel = self._channel
            if channel is None or self._cause is not None or self._stopping:
                channel = self._require()  # which says why not
            loaded = self._models.loaded.get(model)
            if loaded is None:
                raise NotLoaded(f"{model} is not loaded on {self.spec.accelerator}")
            number = self._numbers = self._numbers + 1
            # By number: a promise that referred to its own call would keep the answer's slot until the next collection.
            call = Call(number, model, inputs, outputs, deadline_s, Promise(self._dropped, number))
            if deadline_s <= self._clock.monotonic_s():
                settle(call.future, error=calls.too_late(call, self.spec.accelerator))
                return call.future
            self._queue.check_room()
            try:
                if not self._sent_at_once(channel, loaded, call):
                    self._queue.add(call)
            except QeilError as error:
                settle(call.future, error=error)
                return call.future
        self._io.remind(deadline_s)
        return call.future

    def inject(self, kind: Kind, runs: int = 1, delay_s: float = 0.0) -> None:
        """Arm a fault for the next runs; refused (BackendError) unless the lane is simulated."""
        message = injection(self.spec, kind, runs, delay_s)
        with self._lock, self._sending():
            self._require().send(message)

    # ------------------------------------------------------------------ inside, under the lock

    def _pump(self) -> list[Refusal]:
        """Send waiting calls while there is room, then the stop message if that is what is left to do.

        Returns the calls that cannot be sent, for `_refuse` outside the lock: futures run their owners' callbacks.
        """
        queue, channel = self._queue, self._channel
        refused: list[Refusal] = []
        if channel is None or self._cause is not None:
            return []
        try:
            while queue.waiting and len(queue.sent) < WINDOW and (call := queue.first()) is not None:
                try:
                    if not self._send_call(channel, call):
                        break
                except Closed:
                    raise
                except QeilError as error:
                    refused.append((call, error))
                queue.waiting.pop(call.number, None)
            if self._models.retiring:
                self._models.unload_idle(channel, self._next_number, queue.awaits)
            if self._stopping and not queue.waiting:
                channel.send({"k": "stop"})
        except (BlockingIOError, Closed):
            pass  # the next answer, or the end of the channel, comes here again
        return refused

    def _sent_at_once(self, channel: Channel, loaded: LoadedModel, call: Call) -> bool:
        """What `_pump` would do with a call that need not wait; False where it must."""
        queue = self._queue
        if queue.waiting or len(queue.sent) >= WINDOW:
            return False
        try:
            if not loaded.send(channel, call):
                return False
        except (BlockingIOError, Closed):
            return False
        queue.sent[call.number] = call
        return True

    def _send_call(self, channel: Channel, call: Call) -> bool:
        """Hand over a call unless its future is settled; False when no slot is free."""
        if call.future.done():
            return True
        loaded = self._models.loaded.get(call.model)
        if loaded is None:
            raise Overloaded(f"{call.model} was unloaded from {self.spec.accelerator}")
        if not loaded.send(channel, call):
            return False
        self._queue.sent[call.number] = call
        return True

    @staticmethod
    def _refuse(refused: list[Refusal]) -> None:
        for call, error in refused:
            settle(call.future, error=error)

    def _dropped(self, number: int) -> None:
        with self._lock:
            self._queue.drop(number)

    # ------------------------------------------------------------------ whoever serves the doorbells

    def _readable(self) -> None:
        channel = self._channel
        if channel is None or self._cause is not None:
            return
        try:
            for _ in range(WINDOW):
                packet, fd = channel.receive()
                if packet[0] == DONE:
                    self._answered(packet, fd)
                else:
                    self._told(channel, parse(packet))
                if not self._queue.sent or self._cause is not None:
                    return  # nothing can have followed it, or whoever took the answer has ended the lane
        except BlockingIOError:
            return
        except Closed:
            self._gone(channel)
        except BackendError as error:
            self._give_up(channel, f"{self.spec.accelerator}: {error.message}")

    def _told(self, channel: Channel, header: Header) -> None:
        kind = header.get("k")
        if kind == "failed":
            self._failed(header)
        elif kind == "loaded":
            self._load_answered(channel, header)
        elif kind == "unloaded":
            with self._lock:
                unload = self._models.unload_answered(header)
            if unload is not None:
                settle(unload)

    def _answered(self, packet: bytes, fd: int | None) -> None:
        done = unpack_done(packet)
        with self._lock:
            call = self._queue.sent.pop(done.number, None)
        if call is None:
            raise BackendError("its process answered a call that nobody made")
        try:
            settle(call.future, read_reply(call, done, fd))
        finally:
            self._go_on(call)

    def _failed(self, header: Header) -> None:
        with self._lock:
            call = self._queue.sent.pop(header["id"], None)
        if call is not None:
            settle(call.future, error=error_of(header))
            self._go_on(call)

    def _go_on(self, call: Call) -> None:
        """The call's slot may serve the next one."""
        call.lease = None
        if self._queue.waiting or self._stopping or self._models.retiring:
            with self._lock:
                refused = self._pump()
            self._refuse(refused)

    def _load_answered(self, channel: Channel, header: Header) -> None:
        with self._lock:
            load, outcome = self._models.load_answered(channel, header)
        if load is not None and isinstance(outcome, QeilError):
            settle(load.future, error=outcome)
        elif load is not None:
            settle(load.future, outcome)

    # ------------------------------------------------------------------ reader thread

    def expire(self, now_s: float) -> float:
        """Fail what is overdue (called by the reader thread)."""
        with self._lock:
            late, next_s = self._queue.overdue(now_s)
            late_loads, next_load_s = self._models.overdue(now_s)
        for call in late:
            settle(call.future, error=calls.too_late(call, self.spec.accelerator))
        for load in late_loads:
            sentence = f"{load.spec.model} did not load on {self.spec.accelerator} in time"
            settle(load.future, error=ModelLoadFailed(sentence))
        return min(next_s, next_load_s)

    def _take_all(self) -> tuple[bool, list[Failing]]:
        pending = self._queue.take_all()
        futures: list[Future[Any]] = [call.future for call in pending]
        futures += self._models.take_all()
        return bool(pending), [failing(future) for future in futures]
