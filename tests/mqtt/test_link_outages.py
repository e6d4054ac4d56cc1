"""The link against a real mosquitto that dies, returns and refuses: nothing is lost."""

from __future__ import annotations

import time

import pytest

from tests.mqtt.linked import Backend, Board
from tests.mqtt.payloads import validate
from tests.mqtt.stack import until


@pytest.mark.broker
def test_rows_written_while_the_broker_is_down_arrive_when_it_returns(broker, tmp_path):
    backend = Backend(broker.port)
    board = Board(tmp_path, broker.port)
    until(lambda: board.link.status().connected)
    board.outbox.append("tlm", {"i": 0})
    until(lambda: len(backend.rows) == 1)

    broker.kill()
    until(lambda: not board.link.status().connected)
    for i in range(1, 60):
        board.outbox.append("tlm", {"i": i})
        time.sleep(0.01)
    broker.start()

    until(lambda: len(backend.rows) == 60)
    until(lambda: board.outbox.depth() == 0)
    assert sorted(r["i"] for r in backend.rows.values()) == list(range(60))
    assert board.link.status().connections >= 2
    board.close()
    backend.close()


@pytest.mark.broker
def test_without_a_backend_puback_deletes(broker, tmp_path):
    board = Board(tmp_path, broker.port, delete_on="puback")
    for i in range(100):
        board.outbox.append("tlm", {"i": i})
    until(lambda: board.outbox.counters["acknowledged"] == 100)
    assert board.outbox.depth() == 0
    board.close()


@pytest.mark.broker
def test_a_row_larger_than_the_broker_takes_does_not_end_the_connection(broker, tmp_path):
    backend = Backend(broker.port)
    board = Board(tmp_path, broker.port)
    until(lambda: board.link.status().connected)
    board.outbox.append("tlm", {"big": "x" * 100_000})
    board.outbox.append("tlm", {"small": 1})
    until(lambda: any("small" in r for r in backend.rows.values()))
    until(lambda: board.outbox.counters["dead"] == 1)
    assert board.link.status().connections == 1
    board.close()
    backend.close()


@pytest.mark.broker
def test_kills_of_the_broker_while_rows_flow_lose_nothing_and_the_last_birth_is_the_newest(broker, tmp_path):
    backend = Backend(broker.port)
    board = Board(tmp_path, broker.port)
    for kill in range(3):
        until(lambda: board.link.status().connected)
        for i in range(400):
            board.outbox.append("tlm", {"i": kill * 400 + i})
            if i % 40 == 0:
                time.sleep(0.005)
        broker.kill()
        broker.start()
    until(lambda: len(backend.rows) == 1200, 120.0)
    until(lambda: board.outbox.depth() == 0)
    assert sorted(r["i"] for r in backend.rows.values()) == list(range(1200))
    assert sorted(seq for _, _, seq in backend.rows) == list(range(1200))
    late = Backend(broker.port, acknowledge=False, name="late")
    assert until(lambda: late.states)[0][1]
    # The rows may all have arrived before the last kill: then the newest connection is still to come.
    newest = lambda: (True, board.link.status().connections)  # noqa: E731
    until(lambda: board.link.connected and (late.states[-1][0]["online"], late.states[-1][0]["conn"]) == newest())
    assert board.link.counters["callback_errors"] == 0
    for closing in (board, backend, late):
        closing.close()


@pytest.mark.broker
def test_with_puback_rows_written_during_an_outage_arrive_too(broker, tmp_path):
    backend = Backend(broker.port, acknowledge=False)
    board = Board(tmp_path, broker.port, delete_on="puback")
    until(lambda: board.link.status().connected)
    broker.stop()
    for i in range(300):
        board.outbox.append("tlm", {"i": i})
    time.sleep(1.0)
    broker.start()
    until(lambda: len(backend.rows) == 300)
    until(lambda: board.outbox.depth() == 0)
    assert sorted(row["i"] for row in backend.rows.values()) == list(range(300))
    board.close()
    backend.close()


@pytest.mark.broker
def test_telemetry_on_the_wire_fits_its_schema(broker, tmp_path):
    backend = Backend(broker.port)
    board = Board(tmp_path, broker.port)
    board.outbox.append("evt", {"ts": 1.0, "mono": 1.0, "tq": "ntp", "event": "mode"})
    document = until(lambda: backend.documents)[0]
    validate("evt", document)
    assert [row["event"] for row in document["rows"]] == ["mode"]
    board.close()
    will = until(lambda: [s for s, _ in backend.states if not s["online"]])[0]
    validate("state", will)
    assert will["online"] is False
    backend.close()
