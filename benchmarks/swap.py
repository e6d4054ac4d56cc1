"""Hot swap under load: another version of a model while requests arrive at a fixed rate.

    python benchmarks/swap.py [--quick] [--json FILE]

Requests are sent on time whether or not earlier ones were answered. A swap may lose none, may not make the slowest
hundredth twice as slow as without one, and may not hold more memory than both versions together and a tenth.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from http_edge import connect
from onnx import TensorProto, helper, save
from serving_client import binary_request
from serving_servers import Model, Running, scratch, start_agent

RATE_PER_S = 100.0
CLIENTS = 16
COLUMNS = 2048
ROWS = 8192
"""Weights of a version: enough that two of them are seen in memory."""
WEIGHTS = COLUMNS * ROWS
MAX_SLOWER = 2.0
MAX_MEMORY = 1.10


def version(path: Path, amount: float) -> Path:
    """y = x + the row of the weights that x points at: weights that are held, and hardly any work."""
    port = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, COLUMNS]) for n in "xy"]
    weights = np.full(WEIGHTS, amount, np.float32)
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [ROWS, COLUMNS], weights.tobytes(), raw=True)
    nodes = [helper.make_node("ArgMax", ["x"], ["i"], axis=1, keepdims=0)]
    nodes += [helper.make_node("Gather", ["w", "i"], ["c"])]
    nodes += [helper.make_node("Add", ["x", "c"], ["y"])]
    graph = helper.make_graph(nodes, "g", port[:1], port[1:], [tensor])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@dataclass
class Load:
    """Sends at a fixed rate; notes when each answer came, how long it took and what it said."""

    port: int
    request: bytes
    answers: list[tuple[float, float, float]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _due: SimpleQueue[float | None] = field(default_factory=SimpleQueue)

    def start(self) -> None:
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._client) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        self._clock = threading.Thread(target=self._tick)
        self._clock.start()

    def stop(self) -> None:
        self._over.set()
        self._clock.join()
        for _ in self._threads:
            self._due.put(None)
        for thread in self._threads:
            thread.join()

    def _tick(self) -> None:
        due_s = time.perf_counter()
        while not self._over.is_set():
            self._due.put(due_s)
            due_s += 1.0 / RATE_PER_S
            time.sleep(max(0.0, due_s - time.perf_counter()))

    def _client(self) -> None:
        connection = connect(self.port)
        while (due_s := self._due.get()) is not None:
            connection.sendall(self.request)
            status, body = _answer(connection)
            now_s = time.perf_counter()
            if status == 200:
                self.answers.append((now_s, now_s - due_s, float(np.frombuffer(body[-4:], np.float32)[0])))
            else:
                self.failures.append(body.decode(errors="replace"))
        connection.close()


def _answer(connection) -> tuple[int, bytes]:  # type: ignore[no-untyped-def]
    data = bytearray()
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += connection.recv(1 << 16)
    length = int(bytes(data[:end]).lower().split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0])
    while len(data) < end + 4 + length:
        data += connection.recv(1 << 16)
    return int(data[9:12]), bytes(data[end + 4 :])


class Memory:
    """Watches the agent's memory; `peak_mb` since the last `begin`."""

    def __init__(self, agent: Running) -> None:
        self._agent = agent
        self._over = threading.Event()
        self.peak_mb = 0.0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def begin(self) -> float:
        """Forget the peak; what is held now."""
        self.peak_mb = self._agent.pss_mb()
        return self.peak_mb

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            with contextlib.suppress(psutil.NoSuchProcess):  # an inspection may end while it is looked at
                self.peak_mb = max(self.peak_mb, self._agent.pss_mb())

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


def p99_ms(answers: list[tuple[float, float, float]]) -> float:
    return float(np.quantile([latency_s for _, latency_s, _ in answers], 0.99)) * 1e3


def swap_version(port: int, folder: Path, number: int) -> None:
    """Put another file in place, which was made before, and have it loaded, as an operator does."""
    (folder / f"{number}.onnx").replace(folder / "swapped.onnx")
    urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/repository/models/swapped/load", b"", timeout=30.0).read()


def measure(agent: Running, folder: Path, swaps: int, gap_s: float) -> dict[str, object]:
    port, request = agent.requests["swapped"]
    for number in range(2, 2 + swaps):
        version(folder / f"{number}.onnx", float(number))
    load = Load(port, request)
    memory = Memory(agent)
    load.start()
    try:
        time.sleep(gap_s)
        load.answers.clear()
        one_mb = memory.begin()
        time.sleep(4 * gap_s)
        steady, load.answers = load.answers, []
        for number in range(2, 2 + swaps):
            swap_version(port, folder, number)
            time.sleep(gap_s)
        during, load.answers = load.answers, []
        peak_mb = memory.peak_mb
    finally:
        load.stop()
        memory.stop()
    return {
        "requests": len(steady) + len(during), "failed": len(load.failures), "why": sorted(set(load.failures))[:3],
        "versions_seen": len({value for *_, value in during}), "steady_p99_ms": p99_ms(steady),
        "swap_p99_ms": p99_ms(during), "before_mb": one_mb, "peak_mb": peak_mb,
        "both_mb": one_mb + 4 * WEIGHTS / 2**20,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three swaps instead of twelve; is not judged")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    swaps, gap_s = (3, 1.0) if arguments.quick else (12, 2.5)
    with scratch() as name:
        folder = Path(name)
        x = np.zeros((1, 2048), np.float32)
        agent = start_agent([Model("swapped", version(folder / "swapped.onnx", 1.0), "x", "FP32", x)], folder / "q")
        port, _ = agent.requests["swapped"]
        agent.requests["swapped"] = port, binary_request("/v2/models/swapped/infer", "x", x, "FP32")
        try:
            seen = measure(agent, folder, swaps, gap_s)
        finally:
            agent.stop()
    checks = [
        ("failed requests", float(seen["failed"]), 0.0),  # type: ignore[arg-type]
        ("p99 during swaps over steady p99", seen["swap_p99_ms"] / seen["steady_p99_ms"], MAX_SLOWER),  # type: ignore[operator]
        ("peak memory over old and new", seen["peak_mb"] / seen["both_mb"], MAX_MEMORY),  # type: ignore[operator]
    ]
    print(json.dumps(seen, indent=1))
    for what, figure, bound in checks:
        print(f"{'√' if figure <= bound else '×'} {what}: {figure:.2f} (≤ {bound:g})")
    if arguments.json:
        arguments.json.write_text(json.dumps({**seen, "swaps": swaps}, indent=1) + "\n")
    return 0 if arguments.quick or all(figure <= bound for _, figure, bound in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
