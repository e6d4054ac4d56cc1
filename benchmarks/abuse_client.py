"""A client that says exactly what it is told, byte for byte, and takes whatever comes back."""

from __future__ import annotations

import json
import socket

from benchmarks.fuzz import MODEL

INFER = f"/v2/models/{MODEL}/infer"


def connect(port: int, timeout_s: float = 10.0) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def request(path: str, body: bytes = b"", *headers: str, method: str = "POST", length: bool = True) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def answer(connection: socket.socket) -> tuple[str, bytes]:
    """(status, body) of the next answer; `closed` without one, `hang` where none comes."""
    data = b""
    try:
        while b"\r\n\r\n" not in data:
            piece = connection.recv(65536)
            if not piece:
                return "closed", data
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        wanted = int(fields.get(b"content-length", b"0"))
        while len(body) < wanted:
            piece = connection.recv(65536)
            if not piece:
                break
            body += piece
    except TimeoutError:
        return "hang", data
    except OSError:
        return "closed", data
    return head.split(b" ")[1].decode("ascii", "replace"), body


def send(connection: socket.socket, data: bytes) -> bool:
    """Whether all of it was taken."""
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


def some(connection: socket.socket, data: bytes) -> int:
    """Bytes that were taken now; 0 where the other side is gone."""
    try:
        return connection.send(data)
    except OSError:
        return 0


def ask(port: int, data: bytes) -> tuple[str, bytes]:
    with connect(port) as connection:
        send(connection, data)
        return answer(connection)


def body_of(**changed: object) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 8], "data": [0.0] * 8} | changed
    return json.dumps({"inputs": [tensor]}).encode()


def raw_request(shape: object, size: object) -> bytes:
    """32 bytes behind a JSON part that says what it likes of them."""
    tensor = {"name": "x", "datatype": "FP32", "shape": shape, "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor]}).encode()
    return request(INFER, head + bytes(32), f"Inference-Header-Content-Length: {len(head)}")
