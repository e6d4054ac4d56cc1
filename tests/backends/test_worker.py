"""The process's side of the channel, run in a thread so that every answer can be looked at."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from agent.backends import messages, plans, segments, waiting
from agent.backends.artifact import LoadOrder, LoadOutcome, SimulatedUnit
from agent.backends.calls import Call
from agent.backends.messages import Channel
from agent.backends.packets import DONE, unpack_done
from agent.backends.transfer import LoadedModel, read_reply
from agent.backends.vitals import PAGE_BYTES, VitalsPage
from agent.backends.worker import Worker
from agent.ports import LaneReply
from agent.service.clock import SystemClock
from tests.backends.conftest import PATIENCE_S, Models, ramp, until

UNIT = SimulatedUnit(0.0, 0.5, 1.0, 10.0, 0.001, 25.0)


@dataclass
class Peer:
    """The agent's end."""

    channel: Channel
    page: VitalsPage
    thread: threading.Thread
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 1000)))

    def ask(self, header: dict[str, Any]) -> dict[str, Any]:
        self.channel.send(header)
        return messages.parse(self.channel.receive()[0])

    def load(self, path: Any, number: int = 1, **changes: Any) -> dict[str, Any]:
        order = {"model": "m", "path": str(path), "backend": "onnx", "provider": "CPUExecutionProvider", **changes}
        return self.ask({"k": "load", "id": number, "order": LoadOrder(**order).to_json()})

    def model(self, path: Any, number: int = 1, **changes: Any) -> LoadedModel:
        answer = self.load(path, number, **changes)
        return LoadedModel.create("m", number, LoadOutcome.from_json(answer["outcome"]), self.channel)

    def run(self, model: LoadedModel, feeds: dict[str, Any], *, cancel: bool = False, within_s: float = 60.0) -> Any:
        """A LaneReply, or the error's JSON message."""
        call = Call(next(self.numbers), "m", feeds, None, SystemClock().monotonic_s() + within_s)
        if cancel:
            real, sent = self.channel.send_packet, []
            model.send(_Held(sent), call)  # type: ignore[arg-type]
            assert call.lease is not None
            call.lease.cancel()
            real(*sent[0])
        else:
            assert model.send(self.channel, call)
        packet, fd = self.channel.receive()
        return read_reply(call, unpack_done(packet), fd) if packet[0] == DONE else messages.parse(packet)


class _Held:
    def __init__(self, sent: list[Any]) -> None:
        self.sent = sent

    def send_packet(self, packet: bytes, fd: int | None = None) -> None:
        self.sent.append((packet, fd))


def make_peer(simulated: bool) -> Peer:
    ours, theirs = messages.pair()
    ours.setblocking(True)
    page = VitalsPage()
    page.renew_permit(SystemClock().monotonic_s() + 600)
    served = Worker(Channel(theirs), page, "npu", simulated)

    def serve() -> None:
        served.serve()
        theirs.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return Peer(Channel(ours), page, thread)


@pytest.fixture(params=[True])
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    made = make_peer(request.param)
    yield made
    made.channel.close()
    made.thread.join(PATIENCE_S)
    assert not made.thread.is_alive()


def test_it_runs_and_answers(peer: Peer, models: Models) -> None:
    reply = peer.run(peer.model(models.add_one), {"x": ramp()})

    assert isinstance(reply, LaneReply)
    np.testing.assert_array_equal(reply.outputs["y"], ramp() + 1)


def test_it_answers_in_a_segment_what_does_not_fit(peer: Peer, models: Models) -> None:
    model = peer.model(models.free)

    reply = peer.run(model, {"x": ramp((200, 100))})

    np.testing.assert_array_equal(reply.outputs["y"], ramp((200, 100)) + 1)


def test_strings_come_and_go(peer: Peer, models: Models) -> None:
    reply = peer.run(peer.model(models.strings), {"s": np.array(["a", "ü"], object)})

    assert reply.outputs["t"].tolist() == ["a", "ü"]


def test_more_output_than_may_cross_is_the_requests_error(
    peer: Peer, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "MAX_SEGMENT_BYTES", 10_000)

    answer = peer.run(peer.model(models.free), {"x": ramp((200, 100))})

    assert answer["error"] == "too_large"
    assert "bytes of outputs exceed" in answer["text"]


def test_no_memory_for_the_outputs_is_the_requests_error(
    peer: Peer, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = peer.model(models.grow)

    def full(name: str, nbytes: int) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(segments, "create", full)
    answer = peer.run(model, {"x": np.ones(1, np.float32), "shape": np.array([100_000], np.int64)})

    assert answer["text"] == "no shared memory for 400000 bytes of outputs: No space left on device"


@pytest.mark.parametrize("reason", ["cancelled", "late"])
def test_what_was_given_up_is_not_run(peer: Peer, models: Models, reason: str) -> None:
    model = peer.model(models.add_one)

    answer = peer.run(model, {"x": ramp()}, cancel=reason == "cancelled", within_s=-1.0 if reason == "late" else 60.0)

    assert answer["error"] == "deadline_exceeded"
    assert answer["text"] == "npu skipped a call that was given up before it began"


def test_nothing_runs_without_a_permit(peer: Peer, models: Models) -> None:
    model = peer.model(models.add_one)
    peer.page.renew_permit(0.0)

    assert peer.run(model, {"x": ramp()})["error"] == "permit_expired"


def test_a_model_that_is_gone_is_said_so(peer: Peer, models: Models) -> None:
    model = peer.model(models.add_one)

    assert peer.ask({"k": "unload", "id": 7, "load": 1}) == {"k": "unloaded", "id": 7}
    assert peer.run(model, {"x": ramp()})["text"] == "npu does not hold that model any more"


def test_a_load_that_fails_says_why(peer: Peer, models: Models) -> None:
    refused, strange = peer.load(models.corrupt), peer.load(models.add_one, backend="onnx", options=7)

    assert refused["error"] == strange["error"] == "model_load_failed"
    assert "Protobuf parsing failed" in refused["text"]
    assert "AttributeError" in strange["text"]


def test_a_description_too_long_to_cross_refuses_the_model(
    peer: Peer, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoadOutcome, "to_json", lambda outcome: {"notes": "x" * 70_000})

    answer = peer.load(models.add_one)

    assert answer["error"] == "backend"
    assert "exceeds 65536 bytes" in answer["text"]


def test_wrong_answers_are_given_on_order_and_heat_is_shown(peer: Peer, models: Models) -> None:
    model = peer.model(models.add_one, simulation=UNIT)
    peer.channel.send({"k": "fault", "kind": "wrong", "runs": 1, "delay_s": 0.0})

    reply = peer.run(model, {"x": ramp()})

    assert not np.array_equal(reply.outputs["y"], ramp() + 1)
    assert (reply.energy_j, reply.energy_provenance) == (0.5, "modelled")
    assert until(lambda: (peer.page.signs().temperature_c or 0.0) > 30.0)  # type: ignore[union-attr]


def test_a_real_accelerator_obeys_no_fault(models: Models) -> None:
    peer = make_peer(simulated=False)
    model = peer.model(models.add_one)
    peer.channel.send({"k": "fault", "kind": "wrong", "runs": 1, "delay_s": 0.0})

    np.testing.assert_array_equal(peer.run(model, {"x": ramp()}).outputs["y"], ramp() + 1)
    peer.channel.send({"k": "stop"})
    peer.thread.join(PATIENCE_S)
    assert not peer.thread.is_alive()
    peer.channel.close()


def test_a_process_whose_parent_is_gone_ends_at_once() -> None:
    with pytest.raises(SystemExit):
        waiting.prepare(parent=-1, affinity=None, memory_limit_bytes=None)


def test_the_page_is_read_by_one_side_as_the_other_writes_it() -> None:
    fd, memory = segments.create("vitals", PAGE_BYTES)
    agents, processs = VitalsPage(memory), VitalsPage(segments.attach(fd, PAGE_BYTES))
    agents.clear()
    assert agents.signs() is None

    agents.renew_permit(5.0)
    processs.beat(3_000_000_000, 4096)
    processs.begin(2_000_000_000, 2_500_000_000)
    processs.heat(61.5, 7.25)

    assert processs.permitted(4_999_999_999)
    assert not processs.permitted(5_000_000_000)
    assert agents.signs() == (3.0, 4096, 2.0, 61.5, 7.25, 2.5)
    processs.end(7_000_000_000)
    signs = agents.signs()
    assert signs is not None
    assert signs.busy_since_s is None
