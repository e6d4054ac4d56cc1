"""The link against a real mosquitto: requests of the fleet and the answers to them."""

from __future__ import annotations

import time

import pytest

from tests.mqtt.linked import TOPICS, Backend, Board, publish, requesting_link
from tests.mqtt.stack import until


@pytest.mark.broker
def test_a_request_that_was_not_acknowledged_comes_again_with_the_next_connection(broker):
    got: list = []
    link = requesting_link(broker.port, got, acknowledge=False)
    link.start()
    until(lambda: link.connected)
    publish(broker.port, TOPICS.command("plan"), b"once", ResponseTopic="there", CorrelationData=b"x" * 1000)
    first = until(lambda: got)[0]
    assert (first.topic, first.payload, first.response_topic) == (TOPICS.command("plan"), b"once", "there")
    assert first.correlation == b"x" * 256
    link.stop()
    again: list = []
    link = requesting_link(broker.port, again)
    link.start()
    assert until(lambda: again)[0].payload == b"once"
    link.stop()
    third: list = []
    link = requesting_link(broker.port, third)
    link.start()
    publish(broker.port, TOPICS.desired, b"later")
    until(lambda: third)
    assert [inbound.payload for inbound in third] == [b"later"]
    link.stop()


@pytest.mark.broker
def test_the_broker_sends_no_more_requests_than_may_wait(broker):
    got: list = []
    link = requesting_link(broker.port, got, acknowledge=False)
    link.start()
    until(lambda: link.connected)
    for i in range(40):
        publish(broker.port, TOPICS.command("plan"), str(i).encode())
    until(lambda: len(got) >= 16)
    time.sleep(0.3)
    assert len(got) == 16
    for inbound in tuple(got):
        inbound.acknowledge()
    until(lambda: len(got) > 16)
    link.stop()


@pytest.mark.broker
def test_a_retained_command_is_not_heard_and_a_retained_desired_state_is(broker):
    publish(broker.port, TOPICS.command("drain"), b"old", retain=True)
    publish(broker.port, TOPICS.desired, b"wish", retain=True)
    got: list = []
    link = requesting_link(broker.port, got)
    link.start()
    until(lambda: got)
    time.sleep(0.3)
    assert [inbound.payload for inbound in got] == [b"wish"]
    link.stop()


@pytest.mark.broker
def test_responses_find_room_beside_a_backlog_of_telemetry_and_never_exceed_what_the_broker_takes(broker, tmp_path):
    backend = Backend(broker.port)
    board = Board(tmp_path, broker.port, max_inflight=1000)
    until(lambda: board.link.connected)
    heard: list = []
    backend.client.message_callback_add(TOPICS.response("plan"), lambda _c, _d, message: heard.append(message))
    for i in range(2000):
        board.outbox.append("tlm", {"i": i, "x": "y" * 200})
    sent = 0
    end_s = time.monotonic() + 60.0
    while sent < 50 and time.monotonic() < end_s:
        sent += board.link.send(TOPICS.response("plan"), b'{"rows": []}', correlation=b"c")
    assert sent == 50
    until(lambda: len(heard) == 50)
    assert heard[0].properties.CorrelationData == b"c"
    until(lambda: len(backend.rows) == 2000)
    assert board.link.status().connections == 1
    assert not board.link.send("t", b"", retain=True) or board.link.connected
    board.close()
    assert not board.link.send(TOPICS.response("plan"), b"")
    backend.close()


@pytest.mark.broker
def test_what_was_not_acknowledged_comes_again_when_asked_and_that_is_no_storm(broker):
    got: list = []
    link = requesting_link(broker.port, got, acknowledge=False)
    link.start()
    until(lambda: link.connected)
    publish(broker.port, TOPICS.command("plan"), b"once")
    for times in range(1, 7):
        until(lambda: len(got) >= times)  # noqa: B023  (called at once)
        until(lambda: link.connected)
        link.renew()
    until(lambda: len(got) == 7)
    assert {inbound.payload for inbound in got} == {b"once"}
    assert link.storm is None
    assert link.status().connections == 7
    link.stop()
    link.renew()


@pytest.mark.broker
def test_asking_again_publishes_no_last_will(broker):
    backend = Backend(broker.port)
    link = requesting_link(broker.port, [])
    link.start()
    for count in (1, 2):  # each birth is heard before the connection that told it ends
        until(lambda: len(backend.states) == count)  # noqa: B023  (called at once)
        if count == 1:
            link.renew()
    link.stop()
    until(lambda: backend.states[-1][0]["online"] is False)
    assert [(state["online"], state["conn"]) for state, _ in backend.states] == [(True, 1), (True, 2), (False, 2)]
    backend.close()
