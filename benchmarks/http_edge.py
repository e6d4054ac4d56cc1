"""What the HTTP edge costs: a service that answers at once (y = x + 1), binary tensors, a raw socket client.

    python benchmarks/http_edge.py [--quick] [--json]

The service runs in a process of its own, as in production; the client shares the machine's cores with it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import statistics
import sys
import threading
import time
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent.api.server import HttpServer
from agent.ports import InferenceAnswer, InferenceRequest, RequestLimits
from agent.schema.settings import HttpSettings

SIZES_BYTES = {"8 KB": 8192, "150 KB": 150_000, "5 MB": 5_000_000}
CLIENTS = 8


class Inline:
    """Only what the infer path asks for. With `threaded`, another thread answers, as a lane's reader does."""

    def __init__(self, threaded: bool) -> None:
        self._wake = threading.Condition()
        self._waiting: list[tuple[InferenceRequest, Future[InferenceAnswer]]] = []
        self._threaded = threaded
        if threaded:
            threading.Thread(target=self._work, daemon=True).start()

    def limits(self) -> RequestLimits:
        return RequestLimits(64 * 2**20, 8 * 2**20)

    def infer(self, request: InferenceRequest) -> Future[InferenceAnswer]:
        future: Future[InferenceAnswer] = Future()
        if self._threaded:
            with self._wake:
                self._waiting.append((request, future))
                self._wake.notify()
        else:
            future.set_result(self._run(request))
        return future

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting)
                waiting, self._waiting = self._waiting, []
            for request, future in waiting:
                future.set_result(self._run(request))

    @staticmethod
    def _run(request: InferenceRequest) -> InferenceAnswer:
        outputs = {"y": request.inputs["x"] + np.float32(1)}
        return InferenceAnswer(outputs, request.model, "1", "cpu", "inline", 1.0, 0.0, None, "unknown", "d1")


def serve(pipe: Connection, threaded: bool) -> None:
    server = HttpServer(Inline(threaded), HttpSettings(port=0))  # type: ignore[arg-type] # no other method is called
    server.start()
    pipe.send(server.port)
    pipe.recv()
    server.stop(1.0)


def request_bytes(size_bytes: int) -> bytes:
    x = np.zeros((1, size_bytes // 4), np.float32)
    entry = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "parameters": {"binary_data_size": x.nbytes}}
    header = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    body = header + x.tobytes()
    return (
        b"POST /v2/models/add1/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n"
        b"Inference-Header-Content-Length: %d\r\n\r\n" % (len(body), len(header))
    ) + body


def exchange(connection: socket.socket, request: bytes) -> None:
    connection.sendall(request)
    data = bytearray()
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += connection.recv(1 << 20)
    assert data.startswith(b"HTTP/1.1 200"), bytes(data[:500])
    head = bytes(data[:end]).lower()
    length = int(head.split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0])
    missing = end + 4 + length - len(data)
    buffer = bytearray(1 << 20)
    while missing > 0:
        missing -= connection.recv_into(buffer, min(missing, len(buffer)))


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), 30.0)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def latencies_s(port: int, request: bytes, count: int) -> list[float]:
    connection = connect(port)
    times = []
    for number in range(count + count // 10 + 5):
        started_s = time.perf_counter()
        exchange(connection, request)
        if number >= count // 10 + 5:
            times.append(time.perf_counter() - started_s)
    connection.close()
    return times


def load(port: int, request: bytes, seconds: float, results: multiprocessing.Queue[int]) -> None:
    """Half of the clients, as threads of one process."""
    done = [0] * (CLIENTS // 2)
    until_s = time.perf_counter() + seconds

    def run(index: int) -> None:
        connection = connect(port)
        while time.perf_counter() < until_s:
            exchange(connection, request)
            done[index] += 1
        connection.close()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(CLIENTS // 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results.put(sum(done))


def throughput_per_s(port: int, request: bytes, seconds: float) -> float:
    results: multiprocessing.Queue[int] = multiprocessing.Queue()
    clients = [multiprocessing.Process(target=load, args=(port, request, seconds, results)) for _ in range(2)]
    for client in clients:
        client.start()
    total = sum(results.get() for _ in clients)
    for client in clients:
        client.join()
    return total / seconds


def measure(threaded: bool, quick: bool) -> list[dict[str, object]]:
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, threaded))
    process.start()
    port = mine.recv()
    rows: list[dict[str, object]] = []
    for label, size_bytes in SIZES_BYTES.items():
        request = request_bytes(size_bytes)
        count = max(30, (300 if quick else 3000) * 8192 // max(8192, size_bytes // 4))
        times = sorted(latencies_s(port, request, count))
        rows.append(
            {
                "answered_by": "another thread" if threaded else "inline",
                "body": label,
                "requests": count,
                "p50_ms": round(statistics.median(times) * 1e3, 3),
                "p99_ms": round(times[int(len(times) * 0.99)] * 1e3, 3),
                "per_s_8_clients": round(throughput_per_s(port, request, 0.5 if quick else 3.0)),
            }
        )
    mine.send("stop")
    process.join()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds instead of half a minute")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = [row for threaded in (False, True) for row in measure(threaded, arguments.quick)]
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'answered by':<15} {'body':>7} {'p50 ms':>8} {'p99 ms':>8} {'req/s, 8 clients':>17}")
    for row in rows:
        print(
            f"{row['answered_by']:<15} {row['body']:>7} {row['p50_ms']:>8} {row['p99_ms']:>8} "
            f"{row['per_s_8_clients']:>17}"
        )


if __name__ == "__main__":
    main()
