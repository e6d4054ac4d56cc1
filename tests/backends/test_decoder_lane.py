"""The lane of a language model against a process that does as it is told: streams, refusals, ends, nonsense."""

from __future__ import annotations

import os
import queue
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.backends.decoder_lane import INLINE_BYTES, DecoderLane, DecoderOrder, DecoderReport, LaneEvent, LaneUsage
from agent.backends.factory import LaneFactory
from agent.errors import BadInput, LaneDied, ModelLoadFailed
from agent.ports import LaneSpec
from agent.schema.text import TextPiece
from agent.service.clock import SystemClock
from tests.backends.conftest import PATIENCE_S, until

ORDER = DecoderOrder("whole", None, 1, rows=4, context=64, prefix_bytes=0, max_waiting=2)


class Watched:
    """A lane, what it says of its jobs, and how it ended."""

    def __init__(self) -> None:
        self.factory = LaneFactory("process", SystemClock())
        self.lane: DecoderLane = self.factory.decoder(LaneSpec("npu", 1), "tests.backends.scripted_decoder")
        self.deaths: list[str] = []
        self.events: queue.Queue[tuple[int, LaneEvent]] = queue.Queue()
        self.lane.start(self.deaths.append)

    def write(self, what: str, **fields: str) -> int:
        return self.lane.write({"what": what, **fields}, lambda number, event: self.events.put((number, event)))

    def next(self) -> tuple[int, LaneEvent]:
        return self.events.get(timeout=PATIENCE_S)


@pytest.fixture
def watched() -> Iterator[Watched]:
    made = Watched()
    yield made
    made.lane.kill("the test is over")
    made.factory.close()


def test_a_folder_is_loaded_as_ordered_and_reported(watched):
    report = watched.lane.load(ORDER).result(PATIENCE_S)
    assert report == DecoderReport(("P",), 0.5, ORDER.rows)
    assert until(lambda: watched.lane.vitals() is not None)


def test_its_process_asks_for_large_pages(watched):
    watched.lane.load(ORDER).result(PATIENCE_S)
    asked = Path(f"/proc/{watched.lane.pid()}/environ").read_bytes().split(b"\0")
    assert b"GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in asked


def test_a_folder_that_cannot_be_loaded_is_refused_and_the_process_lives(watched):
    order = DecoderOrder("damaged", None, 1, rows=4, context=64, prefix_bytes=0, max_waiting=2)
    with pytest.raises(ModelLoadFailed, match="damaged: no weights"):
        watched.lane.load(order).result(PATIENCE_S)
    assert watched.lane.alive()


def test_pieces_come_in_order_and_the_account_comes_last(watched):
    number = watched.write("stream")
    events = [watched.next() for _ in range(3)]
    assert [n for n, _ in events] == [number] * 3
    first, second, account = (event for _, event in events)
    assert isinstance(first, TextPiece)
    assert isinstance(second, TextPiece)
    assert [first.text, second.text] == ["a", "b"]
    assert isinstance(account, LaneUsage)
    assert (account.prompt_tokens, account.tokens, account.elsewhere_s) == (3, 2, 0.0)


@pytest.mark.parametrize("length", [10, INLINE_BYTES, 200_000])
def test_texts_of_any_length_cross_whole(watched, length):
    watched.write("length", text="x" * length)
    piece = watched.next()[1]
    assert isinstance(piece, TextPiece)
    assert piece.text == str(length)


def test_a_refusal_ends_that_job_alone(watched):
    refused, streamed = watched.write("refuse"), watched.write("stream")
    events = [watched.next() for _ in range(4)]
    assert events[0][0] == refused
    assert isinstance(events[0][1], BadInput)
    assert [number for number, _ in events[1:]] == [streamed] * 3


def test_a_job_that_is_given_up_is_heard_of_no_more(watched):
    given_up = watched.write("hold")
    watched.lane.cancel(given_up)
    watched.lane.cancel(given_up)
    streamed = watched.write("stream")  # the process answers the cancelled one first
    assert {watched.next()[0] for _ in range(3)} == {streamed}
    assert watched.events.empty()


def test_a_crash_fails_every_job_and_the_load_with_the_signal_and_the_last_words(watched):
    slow = DecoderOrder("slow", None, 1, rows=4, context=64, prefix_bytes=0, max_waiting=2)
    load = watched.lane.load(slow)
    held, crashed = watched.write("hold"), watched.write("crash")
    ends = dict(watched.next() for _ in range(2))
    assert set(ends) == {held, crashed}
    for end in ends.values():
        assert isinstance(end, LaneDied)
        assert "SIGSEGV; last words: scripted: the page table is full" in end.message
    with pytest.raises(LaneDied, match="SIGSEGV"):
        load.result(PATIENCE_S)
    assert until(lambda: len(watched.deaths) == 1)
    with pytest.raises(LaneDied):
        watched.write("stream")
    assert watched.lane.pid() is None


@pytest.mark.parametrize("what", ["nonsense", "noise"])
def test_a_process_that_says_what_makes_no_sense_is_ended(watched, what):
    watched.write(what)
    assert isinstance(watched.next()[1], LaneDied)
    assert until(lambda: watched.deaths != [])
    assert "npu: its process sent" in watched.deaths[0]


def test_a_socket_reaches_the_process(watched):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(PATIENCE_S)
        watched.lane.meet(theirs.fileno())
        assert ours.recv(3) == b"met"


def test_stop_ends_the_process_and_is_no_death(watched):
    watched.lane.load(ORDER).result(PATIENCE_S)
    pid = watched.lane.pid()
    watched.lane.stop(PATIENCE_S)
    assert watched.deaths == []
    assert not watched.lane.alive()
    assert until(lambda: not Path(f"/proc/{pid}").exists())
    watched.lane.stop(0.0)


def test_a_process_that_does_not_stop_is_killed(watched):
    watched.lane.load(ORDER).result(PATIENCE_S)
    held = watched.write("hold")
    os.kill(watched.lane.pid(), signal.SIGSTOP)
    watched.lane.stop(0.01)
    number, end = watched.next()
    assert number == held
    assert isinstance(end, LaneDied)
    assert "did not stop within 0.01 s" in end.message
