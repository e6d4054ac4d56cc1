"""Client of the serving benchmark: prebuilt requests over raw sockets, one by one and from eight clients at once."""

from __future__ import annotations

import base64
import json
import multiprocessing
import time

import numpy as np
from http_edge import connect, exchange, throughput_per_s

ANSWER_TIMEOUT_S = 60.0


def binary_request(path: str, name: str, x: np.ndarray, datatype: str) -> bytes:
    """Open Inference Protocol with the tensor as raw bytes behind the JSON head, answers the same way."""
    entry = {"name": name, "datatype": datatype, "shape": list(x.shape), "parameters": {"binary_data_size": x.nbytes}}
    header = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    return _post(path, header + x.tobytes(), f"Inference-Header-Content-Length: {len(header)}\r\n")


def json_request(path: str, name: str, x: np.ndarray, datatype: str) -> bytes:
    """Open Inference Protocol with the tensor as a list of numbers."""
    entry = {"name": name, "datatype": datatype, "shape": list(x.shape), "data": x.ravel().tolist()}
    return _post(path, json.dumps({"inputs": [entry]}).encode(), "Content-Type: application/json\r\n")


def base64_request(path: str, x: np.ndarray) -> bytes:
    """What LitServe takes without a form of its own."""
    body = {"data": base64.b64encode(x.tobytes()).decode(), "shape": list(x.shape)}
    return _post(path, json.dumps(body).encode(), "Content-Type: application/json\r\n")


def _post(path: str, body: bytes, headers: str) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def wait_until_answered(port: int, request: bytes, since_s: float, timeout_s: float = ANSWER_TIMEOUT_S) -> float:
    """Seconds from `since_s` (perf_counter) to the first 200."""
    while time.perf_counter() - since_s < timeout_s:
        if _answers(port, request):
            return time.perf_counter() - since_s
        time.sleep(0.02)
    raise TimeoutError(f"no answer on port {port} in {timeout_s:.0f} s")


def _answers(port: int, request: bytes) -> bool:
    try:
        connection = connect(port)
    except OSError:
        return False
    try:
        exchange(connection, request)
    except (OSError, AssertionError, IndexError):
        return False
    finally:
        connection.close()
    return True


def latencies_s(port: int, request: bytes, count: int) -> np.ndarray:
    """Seconds of `count` exchanges on one connection, after a warm-up of a tenth of them."""
    connection = connect(port)
    times = []
    for number in range(count + count // 10 + 5):
        started_s = time.perf_counter()
        exchange(connection, request)
        if number >= count // 10 + 5:
            times.append(time.perf_counter() - started_s)
    connection.close()
    return np.array(times)


def load_per_s(port: int, request: bytes, seconds: float) -> float:
    """Answers per second to eight clients in two processes."""
    multiprocessing.set_start_method("fork", force=True)
    return throughput_per_s(port, request, seconds)
