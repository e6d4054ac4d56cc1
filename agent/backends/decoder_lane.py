"""Decoder lane: the child process of one language model as the agent sees it.

Texts go in as one message and come out as a stream of pieces, one message for each step of the batch. The end of the
channel tells of the process's death at once. Must not import any runtime.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

from agent.backends import segments
from agent.backends.io import LaneIO, settle
from agent.backends.lane import REAP_S
from agent.backends.messages import Channel, Closed, Header, pair, parse
from agent.backends.models import error_of
from agent.backends.process import Child
from agent.backends.vitals import PAGE_BYTES, VitalsPage
from agent.errors import BackendError, LaneDied, Overloaded, QeilError
from agent.ports import Clock, LaneSpec, LaneVitals
from agent.schema.text import TextPiece

INLINE_BYTES: Final = 32 * 1024
"""Longest text that crosses inside its message; longer ones lie in a segment of their own."""


@dataclass(frozen=True)
class DecoderOrder:
    """What the process loads: a folder in a mode, with room for `rows` texts of `context` tokens."""

    folder: str
    mode: str | None
    threads: int
    rows: int
    context: int
    prefix_bytes: int
    max_waiting: int


@dataclass(frozen=True)
class DecoderReport:
    """What was loaded."""

    providers: tuple[str, ...]
    load_s: float
    memory_bytes: int


@dataclass(frozen=True)
class LaneUsage:
    """What a job took in the process; see `agent.llm.engine.Usage`."""

    prompt_tokens: int
    cached_tokens: int
    prefilled_tokens: int
    tokens: int
    steps: float
    prefill_s: float
    decode_s: float


LaneEvent = TextPiece | LaneUsage | QeilError
OnEvent = Callable[[int, LaneEvent], None]
"""(number of the job, what happened); LaneUsage and errors are the last ones of a job."""


class DecoderLane:
    """See module. Every method may be called from any thread; events come on the thread that serves the doorbells."""

    def __init__(self, spec: LaneSpec, clock: Clock, io: LaneIO, program: str) -> None:
        self.spec = spec
        self._clock, self._io, self._program = clock, io, program
        self._lock = threading.RLock()
        self._jobs: dict[int, OnEvent] = {}
        self._numbers = 0
        self._load: Future[DecoderReport] | None = None
        self._child: Child | None = None
        self._channel: Channel | None = None
        self._vitals: VitalsPage | None = None
        self._on_death: Callable[[str], None] = _ignore
        self._cause: str | None = "it was not started"
        self._stopping = False
        self._ended = threading.Event()

    # ------------------------------------------------------------------ life

    def start(self, on_death: Callable[[str], None]) -> None:
        """Start the process. Raises LaneDied when that is impossible. A lane starts once."""
        if self._child is not None or self._ended.is_set():
            raise LaneDied(f"{self.spec.accelerator}: a lane starts once; make a new one")
        self._on_death = on_death
        # The kernel ties the child's life to the thread that started it: so the one that lives longest does.
        self._io.call(self._spawn).result()

    def _spawn(self) -> None:
        ours, theirs = pair()
        vitals_fd, memory = segments.create("vitals", PAGE_BYTES)
        try:
            page = VitalsPage(memory)
            page.clear()
            child = Child(self.spec, theirs.fileno(), vitals_fd, self._program)
        except LaneDied:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(vitals_fd)
        with self._lock:
            self._child, self._channel, self._vitals = child, Channel(ours), page
            self._cause = None
        self._io.watch_bell(ours.fileno(), self._readable)
        self._io.watch(child.output_fd, self._printed)
        self._io.join(self)

    def alive(self) -> bool:
        """Whether jobs are accepted."""
        return self._cause is None and not self._stopping

    def pid(self) -> int | None:
        """Process id, None when dead."""
        child = self._child
        return child.pid if child is not None and self._cause is None else None

    def vitals(self) -> LaneVitals | None:
        """Last sign of life, None before the first."""
        page, child = self._vitals, self._child
        signs = page.signs() if page is not None else None
        if signs is None:
            return None
        waited_s, stopped = child.scheduling() if child is not None and self._cause is None else (None, False)
        return LaneVitals(*signs, waited_s=waited_s, stopped=stopped)

    def renew_permit(self, valid_until_s: float) -> None:
        """Extend (or, with 0, withdraw) the permission to run; without it texts pause between two steps."""
        if self._vitals is not None:
            self._vitals.renew_permit(valid_until_s)

    def set_pace(self, share: float) -> None:
        """Let it be busy for at most this share of its time, in (0, 1]."""
        if self._vitals is not None:
            self._vitals.pace(share)

    def kill(self, cause: str) -> None:
        """End the process at once; jobs fail with LaneDied(cause)."""
        if self._child is not None and self._cause is None:
            with suppress(LaneDied):  # it may be dying at this moment
                self._io.call(lambda: self._die(cause)).result()

    def stop(self, timeout_s: float) -> None:
        """End in order; killed when that takes longer. Not from an event's callback."""
        with self._lock:
            running, channel = self._cause is None, self._channel
            self._stopping = True
        if running and channel is not None:
            with suppress(BlockingIOError, Closed):
                channel.send({"k": "stop"})
            if not self._ended.wait(timeout_s):
                self.kill(f"{self.spec.accelerator} did not stop within {timeout_s:g} s")

    # ------------------------------------------------------------------ work

    def load(self, order: DecoderOrder) -> Future[DecoderReport]:
        """Load the model, once. Fails with ModelLoadFailed, BadInput, LaneDied."""
        future: Future[DecoderReport] = Future()
        with self._lock:
            self._load = future
            self._send({"k": "load", **asdict(order)})
        return future

    def write(self, job: Mapping[str, Any], on_event: OnEvent) -> int:
        """Begin a job (`agent.service.decoding.decoder_process` has its fields). Raises LaneDied, Overloaded."""
        with self._lock:
            self._numbers += 1
            number = self._numbers
            text = json.dumps({**job, "id": number}).encode()
            self._jobs[number] = on_event
            try:
                self._send_job(text)
            except QeilError:
                del self._jobs[number]
                raise
            return number

    def cancel(self, number: int) -> None:
        """Give a job up; no event of it comes any more."""
        with self._lock:
            if self._jobs.pop(number, None) is not None and self._cause is None:
                # Where the process does not read, the job goes on unheard until its end; it has a bound.
                with suppress(Overloaded, LaneDied):
                    self._send({"k": "cancel", "id": number})

    def _send_job(self, text: bytes) -> None:
        if len(text) <= INLINE_BYTES:
            self._send({"k": "write", "job": text.decode()})
            return
        try:
            fd, memory = segments.create("prompt", len(text))
        except OSError as error:
            raise Overloaded(f"no shared memory for a prompt of {len(text)} bytes: {error.strerror}") from error
        try:
            memory[:] = memoryview(text)
            self._send({"k": "write", "bytes": len(text)}, fd)
        finally:
            os.close(fd)

    def _send(self, header: Header, fd: int | None = None) -> None:
        if self._cause is not None or self._channel is None or self._stopping:
            raise LaneDied(f"{self.spec.accelerator}: {self._cause or 'it is stopping'}")
        try:
            self._channel.send(header, fd)
        except BlockingIOError:
            raise Overloaded(f"{self.spec.accelerator} does not read its messages") from None
        except Closed as error:
            raise LaneDied(f"{self.spec.accelerator}: its process is gone") from error

    # ------------------------------------------------------------------ whoever serves the doorbells

    def _readable(self) -> None:
        channel = self._channel
        if channel is None or self._cause is not None:
            return
        try:
            packet, _ = channel.receive()
            self._told(parse(packet))
        except BlockingIOError:
            return
        except Closed:
            self._io.forget_bell(channel.sock.fileno())
            self._on_reader(self._end_of_file)
        except (BackendError, LookupError, TypeError, ValueError) as error:
            cause = f"{self.spec.accelerator}: its process sent a message that cannot be read ({error})"
            self._io.forget_bell(channel.sock.fileno())
            self._on_reader(lambda: self._die(cause))

    def _on_reader(self, function: Callable[[], None]) -> None:
        with suppress(LaneDied):  # the reader thread has ended, and every lane with it
            self._io.call(function)

    def _told(self, header: Header) -> None:
        kind = header["k"]
        if kind == "pieces":
            for number, *fields in header["p"]:
                self._tell(number, _piece(*fields), last=False)
        elif kind == "done":
            self._tell(header["id"], LaneUsage(**header["usage"]), last=True)
        elif kind == "failed":
            self._tell(header["id"], error_of(header), last=True)
        elif kind == "loaded" and self._load is not None:
            if "error" in header:
                settle(self._load, error=error_of(header))
            else:
                settle(self._load, DecoderReport(tuple(header["providers"]), header["load_s"], header["memory_bytes"]))

    def _tell(self, number: int, event: LaneEvent, *, last: bool) -> None:
        with self._lock:
            on_event = self._jobs.pop(number, None) if last else self._jobs.get(number)
        if on_event is not None:  # else it was given up while this was under way
            on_event(number, event)

    # ------------------------------------------------------------------ reader thread

    def expire(self, now_s: float) -> float:  # noqa: ARG002 - the lane's owner holds the deadlines
        """No deadlines of its own."""
        return float("inf")

    def _printed(self) -> None:
        child = self._child
        if child is not None and not child.read_output():
            self._io.forget(child.output_fd)

    def reader_failed(self, cause: str) -> None:
        """The reader thread ends: so does the lane."""
        self._die(cause)

    def _end_of_file(self) -> None:
        child = self._child
        assert child is not None  # noqa: S101  (its channel was read)
        child.kill()  # nothing if it is gone; without its channel it is useless
        child.wait(REAP_S)
        child.read_output()
        self._die(f"{self.spec.accelerator}: {child.epitaph()}")

    def _die(self, cause: str) -> None:
        with self._lock:
            child, channel = self._child, self._channel
            if self._cause is not None or child is None or channel is None:
                return
            self._cause = cause
            jobs, self._jobs = self._jobs, {}
        child.kill()
        self._io.forget_bell(channel.sock.fileno())
        channel.close()
        self._io.leave(self)
        self._io.retry(lambda: self._reaped(child))
        if self._load is not None:
            settle(self._load, error=LaneDied(cause))
        for number, on_event in jobs.items():
            on_event(number, LaneDied(cause))
        if not self._stopping or jobs:
            self._on_death(cause)
        self._ended.set()

    def _reaped(self, child: Child) -> bool:
        if not child.gone():
            return False
        self._io.forget(child.output_fd)
        child.close()
        return True


def _piece(
    sample: int, token: int, text: str, end: Any, logprob: float | None = None, token_text: str = "", best: Any = ()
) -> TextPiece:
    likeliest = tuple((str(name), float(value)) for name, value in best)
    return TextPiece(sample, token, text, end, logprob, token_text, likeliest)


def _ignore(_: str) -> None:
    return None
