"""Clients that mean harm, against an agent in a process of its own: it answers, stays small, and goes on serving.

    python benchmarks/abuse.py [--only PART] [--json FILE]

Every attack runs while an honest client asks for real inference ten times a second. An attack passes when the agent
lives, no answer is a 5xx other than 503, none is longer than one line of JSON, the honest client is answered rightly
all the time (a 503 with Retry-After counts as an answer where the attack takes all connections), and the agent's memory
at its peak and at the end stays within the bounds written beside the attack.
"""

from __future__ import annotations

import argparse
import gzip
import json
import select
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


from benchmarks.abuse_client import INFER, answer, ask, body_of, connect, raw_request, request, send, some
from benchmarks.abuse_watch import Honest, Peak
from benchmarks.fuzz import Agent

TIMEOUT_S = 2.0
"""`http.receive_timeout_s` of the attacked agent, so that a run is short."""
PEAK_BYTES = 96 * 2**20
REST_BYTES = 48 * 2**20
"""What a peak may add, and what may be left of it when the attacker is gone: the allocator keeps some."""


# ---------------------------------------------------------------------------------------------- attacks

Outcome = Iterator[tuple[str, bytes]]


def slow_headers(port: int) -> Outcome:
    """200 connections that send a byte of a header every 0.2 s."""
    held = [connect(port) for _ in range(200)]
    for connection in held:
        send(connection, b"GET /v2 HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: ")
    yield from _dripped(held)


def slow_bodies(port: int) -> Outcome:
    """200 bodies that arrive byte by byte."""
    held = [connect(port) for _ in range(200)]
    for connection in held:
        send(connection, request(INFER, b"", "Content-Length: 1000", length=False))
    yield from _dripped(held)


def _dripped(held: list[socket.socket]) -> Outcome:
    until_s = time.monotonic() + 3 * TIMEOUT_S
    left = list(held)
    while left and time.monotonic() < until_s:
        time.sleep(0.2)
        left = [c for c in left if not select.select([c], [], [], 0)[0] and send(c, b"a")]
    for connection in held:
        connection.settimeout(0.1)
        yield answer(connection)
        connection.close()


def half_closed(port: int) -> Outcome:
    """Clients that close their sending side in the middle of a head, of a body, and after a whole request."""
    whole = request(INFER, body_of())
    for cut in (1, 20, len(whole) - 40, len(whole) - 1, len(whole)):
        for _ in range(40):
            with connect(port) as connection:
                send(connection, whole[:cut])
                connection.shutdown(socket.SHUT_WR)
                yield answer(connection)


def resets(port: int) -> Outcome:
    """2,000 connections that are reset in the middle of a request or while the answer is under way."""
    whole = request(INFER, body_of())
    for number in range(2000):
        connection = connect(port)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        send(connection, whole[: len(whole) if number % 2 else 60])
        connection.close()
    yield "reset", b""


def idle_connections(port: int) -> Outcome:
    """1,000 connections: half say nothing at all, half ask once and stay."""
    held = []
    for number in range(1000):
        held.append(connect(port))
        if number % 2:
            send(held[-1], request("/v2", method="GET", length=False))
    time.sleep(2 * TIMEOUT_S)
    until_s = time.monotonic() + TIMEOUT_S  # for all of them: an agent that gets no core is late, and does not hang
    for connection in held:
        connection.settimeout(max(0.05, until_s - time.monotonic()))
        yield answer(connection)
        connection.close()


def endless_header(port: int) -> Outcome:
    """One header of 300 MB; 100,000 headers; a path of 300 MB; trailers without end."""
    trailer = request("/v2/repository/index", b"2\r\n{}\r\n0\r\nX-T: ", "Transfer-Encoding: chunked", length=False)
    extension = request("/v2/repository/index", b"2;", "Transfer-Encoding: chunked", length=False)
    many = b"a" * 65536
    for start, piece in (
        (b"GET /v2 HTTP/1.1\r\nHost: a\r\nX-A: ", many), (b"GET /v2 HTTP/1.1\r\n", b"X-A: b\r\n" * 8192),
        (b"GET /", many), (b"GET /v2 HTTP/1.1\r\n", many), (trailer, many), (extension, many), (b"", many),
    ):  # fmt: skip
        with connect(port) as connection:
            send(connection, start)
            for _ in range(300 * 2**20 // len(piece)):
                if not send(connection, piece):
                    break
            yield answer(connection)


def pipelining(port: int) -> Outcome:
    """Many thousand requests in one go on 20 connections, none of whose answers are read at first."""
    held = [connect(port) for _ in range(20)]
    many = b"GET /v2 HTTP/1.1\r\n\r\n" * 40_000
    for connection in held:
        connection.setblocking(False)
        at = 0
        while at < len(many) and select.select([], [connection], [], 0.2)[1]:
            taken = some(connection, many[at : at + 262_144])
            if taken == 0:
                break
            at += taken
    time.sleep(TIMEOUT_S)
    for connection in held:
        connection.settimeout(1.0)
        yield answer(connection)
        connection.close()


def answers_unread(port: int) -> Outcome:
    """100 clients that ask for the metrics 200 times and never read."""
    held = []
    for _ in range(100):
        connection = connect(port)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(0.2)
        send(connection, request("/metrics", method="GET", length=False) * 200)
        held.append(connection)
    time.sleep(2 * TIMEOUT_S)
    for connection in held:
        connection.close()
    yield "unread", b""


def compressed(port: int) -> Outcome:
    """Bodies that unpack to gigabytes, whole, cut and with something behind them; unknown and doubled encodings."""
    bomb = gzip.compress(b"[" + b" " * (1 << 28), 9)
    for body, encoding in (
        (bomb, "gzip"), (bomb[: len(bomb) // 2], "gzip"), (gzip.compress(body_of()) + b"x", "gzip"),
        (gzip.compress(bomb), "gzip"), (gzip.compress(bomb), "gzip, gzip"), (b"x" * 100, "gzip"), (bomb, "br"),
        (bomb, "deflate"), (b"", "gzip"),
    ):  # fmt: skip
        for _ in range(4):
            yield ask(port, request(INFER, body, f"Content-Encoding: {encoding}"))


def lying_lengths(port: int) -> Outcome:
    """Chunks and lengths that do not say what comes."""
    chunked = "Transfer-Encoding: chunked"
    for headers, body in (
        ((chunked,), b"FFFFFFFFFFFFFFFF\r\n{}"), ((chunked,), b"-1\r\n{}\r\n0\r\n\r\n"), ((chunked,), b"zz\r\n{}\r\n"),
        ((chunked,), b"2\r\n{}}}\r\n0\r\n\r\n"), ((chunked,), b"2;" + b"a" * 200_000 + b"\r\n{}\r\n0\r\n\r\n"),
        ((chunked, "Content-Length: 2"), b"2\r\n{}\r\n0\r\n\r\n"), (("Content-Length: 2", "Content-Length: 3"), b"{} "),
        (("Content-Length: -1",), b"{}"), (("Content-Length: 99999999999999999999",), b"{}"),
        (("Content-Length: 9223372036854775807",), b"{}"), (("Content-Length: 0x2",), b"{}"),
        (("Content-Length: 2 ",), b"{}"), (("Transfer-Encoding: gzip, chunked",), b"2\r\n{}\r\n0\r\n\r\n"),
        (("Transfer-Encoding: identity",), b"{}"), (("Content-Length: 1000000",), b"{}"),
        (("Content-Length: 2", "Inference-Header-Content-Length: 3"), b"{}"),
        (("Content-Length: 2", "Inference-Header-Content-Length: -1"), b"{}"),
        (("Content-Length: 2", "Inference-Header-Content-Length: 99999999999999999999999"), b"{}"),
        (("Content-Length: 268435457", "Inference-Header-Content-Length: 2"), b"{}"),
        (("Content-Length: 2", "Expect: 100-continue"), b""), ((chunked,), b"1\r\n{\r\n" * 5000),
    ):  # fmt: skip
        with connect(port, 4 * TIMEOUT_S) as connection:
            send(connection, request(INFER, body, *headers, length=False))
            yield answer(connection)


def tensors(port: int) -> Outcome:
    """Shapes, values, names and types that no tensor has, in JSON and behind it."""
    big, small = 2**63 - 1, [0.0] * 8
    shapes: list[object] = [
        [-1, 8], [1, -8], [0, 8], [2**32, 2**32], [2**31, 2**33], [big, big], [big, 0], [2**64, 1], [1, 8.0], [1, "8"],
        [True, 8], None, "1,8", {}, [[1, 8]], [1] * 40, [1e308, 8], [2**62, 4], [3037000500, 3037000500], [],
    ]  # fmt: skip
    for shape in shapes:
        yield ask(port, request(INFER, body_of(shape=shape)))
        yield ask(port, raw_request(shape, 32))
    raw = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,8],"data":[%s]}]}'
    values = (
        b"NaN", b"Infinity", b"-Infinity", b"1e999", b"1" * 5000, b"0x10", b"null", b'"0"', b"[[0]]", b"true", b"{}",
    )  # fmt: skip
    for value in values:
        yield ask(port, request(INFER, raw % b",".join([value] * 8)))
    for name in ("", "\0", "x\u202e", "ｘ", "x" * 5000, "../x", "\ud800", "😀" * 300, None, 7, ["x"]):
        yield ask(port, request(INFER, body_of(name=name)))
    for kind in ("fp32", "FP33", "BYTES", "FP64", None, 32, "object", "BF16", "O", "U8\0"):
        yield ask(port, request(INFER, body_of(datatype=kind)))
    for data in (None, 7, "abc", {}, [small], [[small]], small * 1000, [small, 1], [[]] * 8, [{}] * 8):
        yield ask(port, request(INFER, body_of(data=data)))
    for size in (-1, 2**63, 31, 33, "32", 1.5, None, True):
        yield ask(port, raw_request([1, 8], size))
    doubled = json.loads(body_of())
    doubled["inputs"] *= 2
    for document in (
        b"[]", b"null", b"7", b'"x"', b"{", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe{}", b"{}", b'{"inputs":{}}',
        b'{"inputs":[]}', b'{"inputs":[7]}', b'{"inputs":' + b"[{}," * 50_000, json.dumps(doubled).encode(),
        b'{"inputs":[],"id":7}', body_of()[:-1] + b',"parameters":{"timeout":-1}}',
        body_of()[:-1] + b',"parameters":{"timeout":1e400}}', body_of()[:-1] + b',"parameters":7}',
        body_of()[:-1] + b',"outputs":[{"name":"nothing"}]}', body_of()[:-1] + b',"parameters":{"placement":"../cpu"}}',
    ):  # fmt: skip
        yield ask(port, request(INFER, document))
    for wait in ("-1", "nan", "inf", "1e999", "", "abc", "0"):
        yield ask(port, request(INFER, body_of(), f"X-Deadline-S: {wait}"))


def heavy_json(port: int) -> Outcome:
    """Bodies at the bound of JSON that cost the most when they are read: small lists, objects, long numbers."""
    bound = 2**20 - 200
    for piece in (b"[],", b"{},", b'"",', b"0,", b"1.5,", b'{"a":0},', b"9" * 4000 + b","):
        data = piece * (bound // len(piece))
        body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,8],"data":[' + data[:-1] + b"]}]}"
        yield ask(port, request(INFER, body))


def paths(port: int) -> Outcome:
    """Names of models and files that would lead elsewhere, and request lines that are none of ours."""
    for name in (
        "..", "../..", "..%2f..%2fetc%2fpasswd", "%2e%2e%2f%2e%2e", "..%5c..", "%00", "add1%00", "add1/../../x", "~",
        "add1;x", "add1%0d%0aX-A:%201", "%ff%fe", "a" * 5000, "add1?x=../", "add1%2f..%2fadd1", "%252e%252e", "add1.",
        "ADD1", "$(id)", "%E2%80%AE", "CON",
    ):  # fmt: skip
        for path in (
            f"/v2/models/{name}", f"/v2/models/{name}/infer", f"/v2/models/add1/versions/{name}", f"/dashboard/{name}",
            f"/v2/repository/models/{name}/load", f"/v1/models/{name}",
        ):  # fmt: skip
            reads = not path.endswith(("/infer", "/load"))
            yield ask(port, request(path, b"" if reads else b"{}", method="GET" if reads else "POST"))
    for line in (
        b"GET http://elsewhere.example/ HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /\r\n\r\n",
        b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"GET /../../etc/passwd HTTP/1.1\r\n\r\n",
        b"GET //etc/passwd HTTP/1.1\r\n\r\n", b"GET \\ HTTP/1.1\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0" * 1000, b"\n" * 10_000, b"SSH-2.0-x\r\n", b"get / http/1.1\r\n\r\n",
        b"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET /v2 HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", b"GET /v2 HTTP/1.1\nHost: a\n\n",
        b"GET /v2 HTTP/1.1\r\n X-A: folded\r\n\r\n", b"GET /v2 HTTP/1.1\r\nX\0A: b\r\n\r\n",
        b"GET /v2 HTTP/1.0\r\n\r\n",
        b"POST /v2/repository/models/add1/unload HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://evil.example\r\n\r\n",
    ):  # fmt: skip
        with connect(port, 4 * TIMEOUT_S) as connection:
            send(connection, line)
            yield answer(connection)


def streams(port: int) -> Outcome:
    """100 subscribers of /events, most of whom never read."""
    held = [connect(port) for _ in range(100)]
    for connection in held:
        send(connection, request("/events", method="GET", length=False))
    time.sleep(TIMEOUT_S)
    for connection in held:
        connection.settimeout(0.1)
        status, _ = answer(connection)
        yield status, b""
        connection.close()


ATTACKS: tuple[Callable[[int], Outcome], ...] = (
    tensors, paths, lying_lengths, compressed, heavy_json, endless_header, pipelining, answers_unread, half_closed,
    resets, slow_headers, slow_bodies, streams, idle_connections,
)  # fmt: skip
CROWDED = {"slow_headers", "slow_bodies", "idle_connections"}
"""Those that take all connections, where the honest client may be told to come back."""


# ---------------------------------------------------------------------------------------------- judging


@dataclass
class Result:
    """How one attack went."""

    name: str
    outcomes: dict[str, int]
    honest: dict[str, int]
    honest_slowest_s: float
    seconds: float
    peak_mib: float
    left_mib: float
    bad: list[str] = field(default_factory=list)


def one_line(body: bytes) -> bool:
    """Whether an error is JSON with one sentence of bounded length."""
    try:
        error = json.loads(body)["error"]
    except (ValueError, LookupError, TypeError):
        return False
    sentence = error["message"] if isinstance(error, dict) else error
    return 0 < len(sentence) <= 800 and "\n" not in sentence


def attack(agent: Agent, what: Callable[[int], Outcome]) -> Result:
    before, honest, peak = agent.rss_bytes(), Honest(agent.port), Peak(agent)
    honest.start()
    peak.start()
    outcomes, bad, begun_s = Counter[str](), [], time.monotonic()
    for status, body in what(agent.port):
        outcomes[status] += 1
        if status == "hang" or (status.startswith("5") and status not in {"501", "503", "505"}):
            bad.append(f"{status}: {body[:200]!r}")
        if status.startswith("4") and not one_line(body):
            bad.append(f"{status} without one line: {body[:200]!r}")
    seconds = time.monotonic() - begun_s
    for thread in (honest, peak):
        thread.over.set()
        thread.join(15.0)
    if agent.process.poll() is not None:
        bad.append(f"the agent ended with {agent.process.returncode}")
        return Result(what.__name__, dict(outcomes), dict(honest.outcomes), honest.slowest_s, seconds, 0, 0, bad)
    allowed = {"200", "503"} if what.__name__ in CROWDED else {"200"}
    bad += [f"the honest client got {s} {n} times" for s, n in honest.outcomes.items() if s not in allowed]
    time.sleep(1.0)
    after = ask(agent.port, request(INFER, body_of()))[0]
    if after != "200":
        bad.append(f"afterwards a good request gets {after}")
    grown, left = peak.most_bytes - before, agent.rss_bytes() - before
    if grown > PEAK_BYTES:
        bad.append(f"memory grew by {grown / 2**20:.0f} MiB at its peak")
    if left > REST_BYTES:
        bad.append(f"{left / 2**20:.0f} MiB were not given back")
    return Result(
        what.__name__, dict(outcomes.most_common()), dict(honest.outcomes), round(honest.slowest_s, 3),
        round(seconds, 1), round(grown / 2**20, 1), round(left / 2**20, 1), bad,
    )  # fmt: skip


QUICK = frozenset({"paths", "lying_lengths", "compressed", "resets"})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(sorted(QUICK))} alone; memory is told only")
    parser.add_argument("--only", choices=[a.__name__ for a in ATTACKS])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory(prefix="qeil-abuse-") as folder:
        agent = Agent(Path(folder), {"receive_timeout_s": TIMEOUT_S})
        try:
            for number, what in enumerate(ATTACKS):
                if given.only in {None, what.__name__} and (not given.quick or what.__name__ in QUICK):
                    if not number:
                        list(tensors(agent.port))  # what is made once is there before memory is compared
                    result = attack(agent, what)
                    results.append(result)
                    print(
                        f"{result.name:17} {result.seconds:5.1f} s  {result.outcomes}  honest {result.honest}, "
                        f"slowest {result.honest_slowest_s:.2f} s  "
                        f"memory {result.peak_mib:+.1f} MiB, then {result.left_mib:+.1f}",
                        flush=True,
                    )
                    for line in result.bad[:8]:
                        print(f"  BAD {line}", flush=True)
                    if agent.process.poll() is not None:
                        break
        finally:
            agent.stop()
        if "Traceback" in agent.log.read_text(errors="replace"):
            results[-1].bad.append("a traceback in the log")
            print(f"  BAD {agent.log.read_text(errors='replace')[-3000:]}")
    if given.json:
        given.json.write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")
    bad = sum(not given.quick or "MiB" not in line for r in results for line in r.bad)
    print(f"{len(results)} attacks, {sum(sum(r.outcomes.values()) for r in results)} hostile exchanges, {bad} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
