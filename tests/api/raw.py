"""A client that says exactly what it is told, byte for byte."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        return json.loads(self.body)["error"]


class RawClient:
    def __init__(self, port: int, timeout_s: float = 60.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout_s)
        self._stream = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def post(self, path: str, body: bytes, **headers: str) -> Answer:
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        head = "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *lines])
        self.send(head.encode("latin-1") + b"\r\n\r\n" + body)
        return self.answer()

    def answer(self) -> Answer:
        status_line = self._stream.readline()
        assert status_line, "the server closed the connection without an answer"
        headers = {}
        while (line := self._stream.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = self._stream.read(int(headers.get("content-length", 0)))
        return Answer(int(status_line.split()[1]), headers, body)

    def at_end(self) -> bool:
        """Waits until the server closes the connection."""
        try:
            return self._stream.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._stream.close()
        self.socket.close()
