"""Decoder lane: the child process of one language model as the agent sees it.

Texts go in as one message and come out as a stream of pieces, one message for each step of the batch. The end of the
channel tells of the process's death at once. Must not import any runtime.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any, Final, Literal

from agent.backends import segments
from agent.backends.child_lane import ChildLane, Failing, failing
from agent.backends.io import LaneIO, settle
from agent.backends.messages import Closed, Header, parse
from agent.backends.models import error_of
from agent.backends.process import Child
from agent.errors import BackendError, LaneDied, Overloaded, QeilError
from agent.ports import Clock, LaneSpec
from agent.records import record
from agent.schema.text import TextPiece

INLINE_BYTES: Final = 32 * 1024
"""Longest text that crosses inside its message; longer ones lie in a segment of their own."""


@record(frozen=True)
class DecoderOrder:
    """What the process loads: a folder in a mode, with room for `rows` texts of `context` tokens."""

    folder: str
    mode: str | None
    threads: int
    rows: int
    context: int
    prefix_bytes: int
    max_waiting: int
    role: Literal["alone", "first", "second"] = "alone"
    """first: another process computes prompts, or the first `layers`; second: it is that one."""
    layers: int = 0
    screen: bool = False
    """Load the graph that gives probabilities of a whole prompt."""


@record(frozen=True)
class DecoderReport:
    """What was loaded."""

    providers: tuple[str, ...]
    load_s: float
    memory_bytes: int


@record(frozen=True)
class LaneUsage:
    """What a job took in the process; see `agent.llm.engine.Usage`."""

    prompt_tokens: int
    cached_tokens: int
    prefilled_tokens: int
    tokens: int
    steps: float
    prefill_s: float
    decode_s: float
    elsewhere_s: float = 0.0
    found: str = ""
    unscreened: bool = False


LaneEvent = TextPiece | LaneUsage | QeilError
OnEvent = Callable[[int, LaneEvent], None]
"""(number of the job, what happened); LaneUsage and errors are the last ones of a job."""


class DecoderLane(ChildLane):
    """See module. Every method may be called from any thread; events come on the thread that serves the doorbells.

    Without a permit texts pause between two steps.
    """

    def __init__(self, spec: LaneSpec, clock: Clock, io: LaneIO, program: str) -> None:
        super().__init__(spec, clock, io)
        self._program = program
        self._jobs: dict[int, OnEvent] = {}
        self._load: Future[DecoderReport] | None = None

    def _make_child(self, channel_fd: int, vitals_fd: int) -> Child:
        return Child(self.spec, channel_fd, vitals_fd, self._program)

    # ------------------------------------------------------------------ life

    def stop(self, timeout_s: float) -> None:
        """End in order; killed when that takes longer. Not from an event's callback."""
        with self._lock:
            running, channel = self._cause is None, self._channel
            self._stopping = True
        if running and channel is not None:
            with suppress(BlockingIOError, Closed):
                channel.send({"k": "stop"})
            self._kill_unless_ended(timeout_s)

    # ------------------------------------------------------------------ work

    def prepare(self, order: DecoderOrder) -> None:
        """Read what a load will need besides the model itself. Says nothing; raises LaneDied, Overloaded."""
        with self._lock:
            self._send({"k": "prepare", "folder": order.folder})

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
            number = self._next_number()
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

    def meet(self, fd: int) -> None:
        """Hand over a socket to the process that computes the other part. Raises LaneDied, Overloaded."""
        with self._lock:
            self._send({"k": "peer"}, fd)

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
        with self._sending():
            self._require().send(header, fd)

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
            self._gone(channel)
        except (BackendError, LookupError, TypeError, ValueError) as error:
            said = f"its process sent a message that cannot be read ({error})"
            self._give_up(channel, f"{self.spec.accelerator}: {said}")

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

    def _take_all(self) -> tuple[bool, list[Failing]]:
        jobs, self._jobs = self._jobs, {}
        fails: list[Failing] = [failing(self._load)] if self._load is not None else []
        fails += [partial(on_event, number) for number, on_event in jobs.items()]
        return bool(jobs), fails


def _piece(
    sample: int, token: int, text: str, end: Any, logprob: float | None = None, token_text: str = "", best: Any = (),
    prompt: bool = False,
) -> TextPiece:  # fmt: skip
    likeliest = tuple((str(name), float(value)) for name, value in best)
    return TextPiece(sample, token, text, end, logprob, token_text, likeliest, prompt)
