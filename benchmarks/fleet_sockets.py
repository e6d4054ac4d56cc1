"""Thousands of plain MQTT 5 connections in one process: what boards say on the wire, without what boards cost.

Each connects with a session of its own, says its birth, hears its acknowledgements, and publishes rows of one window at
QoS 1, spread over the period. One epoll loop; the packets are made by hand, so that the machine's time goes to broker,
consumers and database.
"""

from __future__ import annotations

import json
import random
import select
import socket
import time
from typing import Any

from agent.mqtt.topics import Topics

CONNACK, PUBLISH, PUBACK, SUBACK = 2, 3, 4, 9
CONNECTS_PER_S = 1000
PADDING = "x" * 700
"""A row is about a kilobyte, as a window of a board with three models is."""


def _length(size: int) -> bytes:
    made = bytearray()
    while True:
        size, digit = divmod(size, 128)
        made.append(digit | (0x80 if size else 0))
        if not size:
            return bytes(made)


def _packet(head: int, body: bytes) -> bytes:
    return bytes([head]) + _length(len(body)) + body


def _text(value: str) -> bytes:
    return len(value).to_bytes(2, "big") + value.encode()


def _publish(topic: str, payload: bytes, number: int, retain: bool = False) -> bytes:
    return _packet(0x32 | retain, _text(topic) + number.to_bytes(2, "big") + b"\0" + payload)


class Connection:
    """One board on the wire."""

    def __init__(self, number: int, port: int, boot: int) -> None:
        self.topics, self.boot = Topics("acme", f"wire-{number:05d}"), boot
        self.rows = self.told = self.acked = 0
        self._number = 0
        self._held = b""
        self.socket = socket.create_connection(("127.0.0.1", port))
        session = b"\x05\x11" + (3600).to_bytes(4, "big")
        body = _text("MQTT") + b"\x05\x02" + (600).to_bytes(2, "big") + session + _text(self.topics.client_id)
        self.socket.sendall(_packet(0x10, body))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _next(self) -> int:
        self._number = self._number % 65_535 + 1
        return self._number

    def publish_row(self) -> None:
        """A window's row, made now."""
        row = {"ts": time.time(), "mono": time.monotonic(), "tq": "ntp", "window_s": 10.0, "mode": "ready",
               "policy": "", "models": {"m": {"energy_j": 1.5, "requests": 5, "provenance": "modelled"}},
               "padding": PADDING}  # fmt: skip
        document = {"v": 1, "boot": self.boot, "cls": "tlm", "seq0": self.rows, "rows": [row]}
        self.rows += 1
        self.socket.send(_publish(self.topics.rows("tlm"), json.dumps(document).encode(), self._next()))

    def readable(self) -> None:
        """Take in what came, answer what wants an answer."""
        self._held += self.socket.recv(65_536)
        while len(self._held) >= 2:
            size, shift, at = 0, 0, 1
            while at < len(self._held):
                size |= (self._held[at] & 0x7F) << shift
                shift, at = shift + 7, at + 1
                if self._held[at - 1] < 0x80:
                    break
            if len(self._held) < at + size:
                return
            head, body, self._held = self._held[0], self._held[at : at + size], self._held[at + size :]
            self._handle(head, body)

    def _handle(self, head: int, body: bytes) -> None:
        kind = head >> 4
        if kind == CONNACK:
            if body[1] != 0:
                raise SystemExit(f"the broker refused a connection: {body[1]:#x}")
            state = json.dumps({"v": 1, "online": True, "boot": self.boot, "conn": 1}).encode()
            wanted = self._next().to_bytes(2, "big") + b"\0" + _text(self.topics.ack) + b"\0"
            self.socket.send(_packet(0x82, wanted) + _publish(self.topics.state, state, self._next(), True))
        elif kind == SUBACK:
            self.told += 1
        elif kind == PUBLISH:
            self.acked += 1
            if head & 0x06:
                size = int.from_bytes(body[:2], "big")
                self.socket.send(_packet(0x40, body[2 + size : 4 + size]))


def serve(first: int, boards: int, port: int, period_s: float, orders: Any, answer: Any) -> None:
    """A process's life: connect all, answer `connected`, publish from the first order on until the second."""
    epoll, boot = select.epoll(), int(time.time())
    made: dict[int, Connection] = {}

    def take_in(wait_s: float) -> None:
        for fd, _ in epoll.poll(wait_s):
            made[fd].readable()

    begun_s = time.monotonic()
    for i in range(boards):
        connection = Connection(first + i, port, boot)
        made[connection.socket.fileno()] = connection
        epoll.register(connection.socket.fileno(), select.EPOLLIN)
        take_in(max(0.0, begun_s + i / CONNECTS_PER_S - time.monotonic()))
    while sum(c.told for c in made.values()) < boards:
        take_in(0.1)
    answer.put(("connected", time.monotonic() - begun_s))
    while orders.empty():
        take_in(0.1)
    orders.get()
    order = list(made.values())
    random.Random(first).shuffle(order)
    begun_s, sent, used_s = time.monotonic(), 0, time.process_time()
    while orders.empty():
        due = int((time.monotonic() - begun_s) * boards / period_s)
        while sent < due:
            order[sent % boards].publish_row()
            sent += 1
        take_in(0.001)
    until_s = time.monotonic() + 2.0
    while time.monotonic() < until_s:
        take_in(0.05)
    acked = sum(c.acked for c in order)
    answer.put(("sent", {"rows": sent, "acknowledgements": acked, "cpu_s": round(time.process_time() - used_s, 1)}))
