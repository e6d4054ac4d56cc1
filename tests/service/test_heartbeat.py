from __future__ import annotations

import socket
import threading
import time

import pytest

from agent.backends.messages import Channel, parse
from agent.backends.vitals import VitalsPage
from agent.control.fault_detector import HEARTBEAT_LOST_S
from agent.llm.grammar import Grammars
from agent.llm.importer import import_gguf
from agent.service.decoding.decoder_process import DecoderProcess
from agent.service.decoding.heartbeat import Heartbeat
from tests.llm.reference import write_model


def within(condition, timeout_s=20.0):
    """Whether a condition comes true in time."""
    until_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < until_s:
        time.sleep(0.01)
    return condition()


def ahead_s(page):
    signs = page.signs()
    return signs.heartbeat_s - time.monotonic() if signs is not None else float("-inf")


def test_a_silence_that_was_announced_lasts_over_many_beats_and_ends_with_its_cause():
    page = VitalsPage()
    with Heartbeat(page) as heart:
        assert within(lambda: page.signs() is not None)
        with heart.silence(100.0):
            until_s = time.monotonic() + 99.0
            for _ in range(5):
                page.beat(1, 0)
                assert within(lambda: page.signs().heartbeat_s > until_s)
        assert ahead_s(page) <= 0.0
        with pytest.raises(ValueError, match="broken"), heart.silence(100.0):
            raise ValueError("broken")
        assert ahead_s(page) <= 0.0


def test_what_hangs_in_a_silence_is_found_when_it_is_past_though_the_thread_beats_on():
    page = VitalsPage()
    with Heartbeat(page) as heart, heart.silence(0.5):
        assert within(lambda: ahead_s(page) < -1.0)
        page.beat(1, 0)
        assert within(lambda: page.signs().heartbeat_s > 1.0)  # by the thread
        assert ahead_s(page) < -1.0


@pytest.fixture
def process(tmp_path):
    """A decoder's process on a thread, loaded, with its page."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    page, channel = VitalsPage(), Channel(ours)
    page.renew_permit(time.monotonic() + 1000.0)
    thread = threading.Thread(target=DecoderProcess(Channel(theirs), page).serve)
    thread.start()
    folder = import_gguf(write_model(tmp_path / "m.gguf"), tmp_path / "out").folder
    channel.send({
        "k": "load", "folder": str(folder), "mode": "exact", "threads": 1, "rows": 2, "context": 32, "prefix_bytes": 0,
        "max_waiting": 4, "role": "alone", "layers": 0, "screen": False,
    })  # fmt: skip
    assert received(channel)["k"] == "loaded"
    yield page, channel
    channel.send({"k": "stop"})
    thread.join(10)
    ours.close()
    theirs.close()


def received(channel):
    channel.sock.setblocking(True)
    channel.sock.settimeout(30)
    return parse(channel.receive()[0])


def test_a_process_that_reads_a_grammar_may_be_silent_for_longer_than_a_lost_one(process, monkeypatch):
    page, channel = process
    seen = []
    plain = Grammars.compile

    def watched(self, form):
        seen.append(ahead_s(page))
        return plain(self, form)

    monkeypatch.setattr(Grammars, "compile", watched)
    job = (
        '{"id":1,"prompt":"ab","max_tokens":1,"rows":[0],"written":[],"stops":[],"sampling":{},"logprobs":null,'
        '"form":["gbnf","root ::= \\"a\\""]}'
    )
    channel.send({"k": "write", "job": job})
    assert received(channel)["k"] == "pieces"
    assert received(channel)["k"] == "done"
    assert seen
    assert seen[0] > 5 * HEARTBEAT_LOST_S
    assert ahead_s(page) <= 0.0
