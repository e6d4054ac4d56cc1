"""Doctor's handshake with the broker: one MQTT 5 CONNECT under an id of its own, and what the broker says to it."""

from __future__ import annotations

import os
import socket
from typing import Final

CLIENT: Final = "qeil-doctor-"
REFUSALS: Final = {
    0x84: "it does not speak MQTT 5", 0x85: "it does not accept the client id", 0x86: "wrong user name or password",
    0x87: "not authorised", 0x88: "it is not available", 0x89: "it is busy", 0x8A: "banned",
    0x8C: "bad authentication method", 0x01: "it does not speak MQTT 5", 0x05: "not authorised",
}  # fmt: skip
"""Reason codes of CONNACK (MQTT 5 §3.2.2.2; 1 and 5 as MQTT 3.1.1 has them)."""
CONNECT, CONNACK, DISCONNECT = 0x10, 0x20, 0xE0
_USERNAME, _PASSWORD, _CLEAN = 0x80, 0x40, 0x02


def refusal(connection: socket.socket, username: str | None, password: bytes | None) -> str:
    """Why the broker at the other end does not take us; "" where it does. Raises OSError where it hangs up."""
    connection.sendall(connect_packet(username, password))
    head = _exactly(connection, 2)
    if head[0] != CONNACK:
        return "what answers there is no MQTT broker"
    rest = _exactly(connection, min(head[1], 127))
    code = rest[1] if len(rest) > 1 else 0x80
    if code == 0:
        connection.sendall(bytes([DISCONNECT, 0]))
        return ""
    return REFUSALS.get(code, f"reason 0x{code:02x}")


def connect_packet(username: str | None, password: bytes | None) -> bytes:
    """CONNECT of MQTT 5 with a clean start and an id that no agent has, so that none is thrown out."""
    flags = _CLEAN | (_USERNAME if username is not None else 0) | (_PASSWORD if password is not None else 0)
    payload = _field(f"{CLIENT}{os.getpid()}".encode())
    payload += _field(username.encode()) if username is not None else b""
    payload += _field(password) if password is not None else b""
    body = _field(b"MQTT") + bytes([5, flags, 0, 10, 0]) + payload
    return bytes([CONNECT]) + _length(len(body)) + body


def _field(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _length(value: int) -> bytes:
    out = bytearray()
    while True:
        value, digit = divmod(value, 128)
        out.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionResetError("it hung up")
        data += part
    return data
