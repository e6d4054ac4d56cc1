"""Clients that mean harm: what they send is bounded, refused in one line, and others are served meanwhile."""

from __future__ import annotations

import gc
import socket

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from agent.api import http_protocol
from agent.api.errors import MAX_SENTENCE, sentence_of
from tests.api.test_server import until

INFER = b"/v2/models/add1/infer"
BODY = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}'
ONE = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (INFER, len(BODY), BODY)
LIVE = b"GET /v2/health/live HTTP/1.1\r\n\r\n"


def waiting_requests() -> int:
    gc.collect()  # what earlier tests left in cycles would go in the middle of a count
    return sum(isinstance(thing, RequestResponseCycle) for thing in gc.get_objects())


def test_requests_sent_ahead_wait_unread_and_are_all_answered_in_order(connect, serve, service):
    server = serve()
    service.hold = True
    client = connect(server.port)
    before = waiting_requests()
    client.send(ONE)
    assert service.arrived.wait(60)
    client.send(LIVE * 4000)
    until(lambda: waiting_requests() > before + http_protocol.MAX_AHEAD)
    other = connect(server.port)
    other.send(LIVE)
    assert other.answer().status == 200  # so the loop has taken in what it takes in at once
    assert waiting_requests() < before + 1000
    service.release()
    service.hold = False
    assert [client.answer().status for _ in range(4001)] == [200] * 4001
    assert client.post(INFER.decode(), BODY).status == 200


def test_a_request_cut_in_two_where_reading_pauses_is_still_read(connect, server, service):
    client = connect(server.port)
    padded = b"GET /v2/health/live HTTP/1.1\r\nX-Long: %s\r\n\r\n" % (b"a" * 700)
    client.send((LIVE + padded) * 300 + ONE)
    assert [client.answer().status for _ in range(601)] == [200] * 601
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    "opening",
    [
        b"GET /v2 HTTP/1.1\r\nX-Long: ", b"GET /v2 HTTP/1.1\r\n",
        b"POST /v2/repository/index HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Long: ",
    ],
    ids=["value", "name", "trailer"],
)  # fmt: skip
def test_a_header_without_end_is_refused_while_it_is_still_small(connect, serve, opening):
    server = serve(receive_timeout_s=600.0)
    client, other = connect(server.port), connect(server.port)
    client.send(opening)
    for _ in range(2):  # both may wait for the same turn of the loop; after another one the opening is read by itself
        other.send(LIVE)
        assert other.answer().status == 200
    client.send(b"a" * (http_protocol.MAX_DRY_BYTES + 1))
    answer = client.answer()
    assert answer.status == 431
    assert "neither header nor body" in answer.error


@pytest.mark.parametrize("sent", [1, 30, len(ONE) - 1], ids=["a byte", "half a head", "all but a byte"])
def test_half_a_request_whose_sender_stops_is_answered(connect, server, service, sent):
    client = connect(server.port)
    client.send(ONE[:sent])
    client.socket.shutdown(socket.SHUT_WR)
    answer = client.answer()
    assert answer.status == 400
    assert answer.error == "the request ended before it was complete"
    assert client.at_end()
    assert not service.requests


def test_a_client_that_leaves_without_a_word_hears_nothing(connect, server):
    client = connect(server.port)
    client.socket.shutdown(socket.SHUT_WR)
    assert client.at_end()


def test_a_silent_connection_gives_its_place_to_a_new_one(connect, serve, monkeypatch):
    monkeypatch.setattr(http_protocol, "SPARED_S", 0.0)
    server = serve(max_connections=2)
    first, second = connect(server.port), connect(server.port)
    assert second.post(INFER.decode(), BODY).status == 200
    third = connect(server.port)
    assert third.post(INFER.decode(), BODY).status == 200
    assert first.at_end()
    assert second.post(INFER.decode(), BODY).status == 200


def test_a_connection_that_waits_for_its_answer_keeps_its_place(connect, serve, service, monkeypatch):
    monkeypatch.setattr(http_protocol, "SPARED_S", 0.0)
    server = serve(max_connections=1)
    service.hold = True
    first = connect(server.port)
    first.send(ONE)
    assert service.arrived.wait(60)
    assert connect(server.port).answer().status == 503
    service.release()
    assert first.answer().status == 200


def test_an_error_is_one_line_of_bounded_length(infer, http):
    assert sentence_of("first\nsecond\r\nthird") == "first second third"
    assert sentence_of("a" * MAX_SENTENCE) == "a" * MAX_SENTENCE
    assert len(sentence_of("a" * 10_000)) == MAX_SENTENCE
    assert len(infer(name="n" * 1000).json()["error"]) <= MAX_SENTENCE
    assert len(http.get("/v2/models/" + "m" * 5000).json()["error"]) <= MAX_SENTENCE
