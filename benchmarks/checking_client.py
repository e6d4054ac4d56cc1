"""Load that knows what is right: threads that ask over HTTP, compare every answer with onnxruntime's own, and count.

Started by the benchmarks that need it: `main` takes URL MODEL PATH [--clients N] [--pause-s S], runs until its standard
input ends, then prints one JSON line. A request is lost when no 200 came for it, wrong when a number differs,
duplicated when an answer carries another request's id or bytes follow the answer it belongs to.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

DISTINCT, LARGE, SELDOM = 64, 8, 20
TOLERANCE = 1e-4
_KINDS = {"tensor(float)": ("FP32", np.float32), "tensor(int32)": ("INT32", np.int32)}


class Questions:
    """Inputs and their true answers."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        (node,) = session.get_inputs()
        self.input = node.name
        self.outputs = [o.name for o in session.get_outputs()]
        self.datatype, dtype = _KINDS[node.type]
        shape = [n if isinstance(n, int) else 1 for n in node.shape]
        rng = np.random.default_rng(5)
        made = [rng.integers(0, 256, shape) if self.datatype == "INT32" else rng.random(shape) for _ in range(DISTINCT)]
        self.inputs = [np.ascontiguousarray(x.astype(dtype)) for x in made]
        if not isinstance(node.shape[0], int):  # a few large ones, which need memory of their own
            self.inputs += [np.concatenate(self.inputs[at : at + LARGE]) for at in range(0, DISTINCT, LARGE)]
        self.truths = [session.run(None, {self.input: x}) for x in self.inputs]


class Client(threading.Thread):
    """One connection after the other, one request at a time."""

    def __init__(self, number: int, url: str, model: str, questions: Questions, pause_s: float) -> None:
        super().__init__(daemon=True)
        self.number, self.model, self.questions, self.pause_s = number, model, questions, pause_s
        self.host, self.port = url.removeprefix("http://").split(":")
        self.stop = threading.Event()
        self.counts: Counter[str] = Counter()
        self.digests: Counter[str] = Counter()
        self.times_s: list[float] = []
        self.problems: list[str] = []

    def run(self) -> None:
        rng = np.random.default_rng(self.number)
        connection = self._connect()
        turn = 0
        while not self.stop.is_set():
            turn += 1
            index = int(rng.integers(DISTINCT))
            if turn % SELDOM == 0 and len(self.questions.inputs) > DISTINCT:
                index = int(rng.integers(DISTINCT, len(self.questions.inputs)))
            begun_s = time.monotonic()
            self.counts["requests"] += 1
            try:
                self._ask(connection, f"{self.number}-{turn}", index)
            except (OSError, http.client.HTTPException) as error:
                self._lost(f"{type(error).__name__}: {error}")
                connection.close()
                connection = self._connect()
            self.times_s.append(time.monotonic() - begun_s)
            time.sleep(self.pause_s)
        connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, int(self.port), timeout=60.0)

    def _ask(self, connection: http.client.HTTPConnection, name: str, index: int) -> None:
        x = self.questions.inputs[index]
        entry = {
            "name": self.questions.input, "shape": list(x.shape), "datatype": self.questions.datatype,
            "parameters": {"binary_data_size": x.nbytes},
        }  # fmt: skip
        head = json.dumps({"id": name, "inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        connection.request("POST", f"/v2/models/{self.model}/infer", head + x.tobytes(), headers)
        reply = connection.getresponse()
        body = reply.read()
        if reply.status != 200:
            self._lost(f"{reply.status}: {body[:200]!r}")
            return
        size = int(reply.headers["Inference-Header-Content-Length"])
        document = json.loads(body[:size])
        if document["id"] != name:
            self.counts["duplicated"] += 1
            return
        self.counts["answered"] += 1
        self.counts["replayed"] += bool(document["parameters"]["replays"])
        self.digests[document["parameters"]["policy_digest"] or ""] += 1
        self._compare(document["outputs"], body[size:], index)

    def _compare(self, outputs: list[dict[str, Any]], raw: bytes, index: int) -> None:
        at = 0
        for output in outputs:
            truth = self.questions.truths[index][self.questions.outputs.index(output["name"])]
            size = output["parameters"]["binary_data_size"]
            got = np.frombuffer(raw[at : at + size], truth.dtype).reshape(output["shape"])
            at += size
            if got.shape != truth.shape or not np.allclose(got, truth, atol=TOLERANCE):
                self.counts["wrong"] += 1
                self.problems.append(f"wrong: {output['name']} of question {index}")
        if at != len(raw):
            self.counts["duplicated"] += 1

    def _lost(self, problem: str) -> None:
        self.counts["lost"] += 1
        if len(self.problems) < 5:
            self.problems.append(f"lost: {problem}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("model")
    parser.add_argument("path", type=Path)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--pause-s", type=float, default=0.01)
    given = parser.parse_args()
    questions = Questions(given.path)
    clients = [Client(n, given.url, given.model, questions, given.pause_s) for n in range(given.clients)]
    for client in clients:
        client.start()
    print("begun", flush=True)
    sys.stdin.read()
    for client in clients:
        client.stop.set()
    for client in clients:
        client.join(70.0)
    times = np.array([t for c in clients for t in c.times_s] or [0.0])
    counts: Counter[str] = sum((c.counts for c in clients), Counter())
    digests: Counter[str] = sum((c.digests for c in clients), Counter())
    found = {k: counts[k] for k in ("requests", "answered", "lost", "wrong", "duplicated", "replayed")}
    quantiles = {f"p{q}_ms": float(np.quantile(times, q / 100)) * 1e3 for q in (50, 99, 100)}
    problems = [p for c in clients for p in c.problems][:10]
    print(json.dumps({**found, **quantiles, "digests": digests, "problems": problems}))
