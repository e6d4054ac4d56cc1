"""From publish to a committed row, with many connections: seconds, and what one machine carries.

`python benchmarks/fleet_scale.py [--boards 10000] [--period 10] [--for 60]`: mosquitto, PostgreSQL, one consumer and
10,000 connections on this machine, over loopback, without TLS; a row's time begins when it is published and ends after
the database's commit. The connections are plain ones (`fleet_sockets.py`), which say on the wire what boards say.
`--simulate` takes `qeil fleet simulate --memory` instead, the agent's own outbox and link for every board; a row's time
then begins when its board makes it, and the first `--connect` seconds are left out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.service import logs
from agent.service.clock import SystemClock
from benchmarks import fleet_sockets
from benchmarks.needed import needed

with needed():
    from agent.fleet.consumer import Consumer
    from agent.fleet.messages import Rows, Told
    from agent.fleet.store import Store, Stored, open_engine
    from agent.fleet.writers import Writers
    from benchmarks.fleet_store import RECEIVE_MAXIMUM, link_to
    from tests.broker import Broker
    from tests.fleet.databases import Postgres

MAX_SAMPLES = 1_000_000
SETTLE_S = 5.0
"""Left out at the beginning."""


class TimedStore(Store):
    """Notes how old rows are once they are committed."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self.samples: list[tuple[float, float]] = []

    def take(self, batch: Sequence[Rows | Told], now_s: float) -> Stored:
        stored = super().take(batch, now_s)
        done_s = time.time()
        if len(self.samples) < MAX_SAMPLES:
            rows = (row for m in batch if isinstance(m, Rows) and m.cls == "tlm" for row in m.documents)
            self.samples += [(done_s, done_s - row["ts"]) for row in rows]
        return stored


def consume(port: int, database: str, stop: Any, answer: Any) -> None:
    logs.configure("error")
    store, clock = TimedStore(open_engine(database)), SystemClock()
    links: list[Any] = []
    made = [Consumer(store, lambda t, p: links[0].send(t, p, False), clock, RECEIVE_MAXIMUM) for _ in range(2)]
    writers = Writers(made)
    links.append(link_to(port, "scale-0", writers))
    writers.start()
    links[0].start()
    begun_s = time.process_time()
    stop.wait()
    used_s = time.process_time() - begun_s
    writers.stop()
    links[0].stop()
    answer.put((store.samples, dict(writers.counters), used_s))


def simulate(given: argparse.Namespace, port: int) -> tuple[float, dict[str, Any]]:
    """Boards with all that they have; when the measured time begins, and what they say of themselves."""
    arguments = ["--boards", str(given.boards), "--port", str(port), "--period", str(given.period)]
    arguments += ["--for", str(given.connect + given.for_s), "--memory", "--json"]
    from_s = time.time() + given.connect
    command = [sys.executable, "-m", "agent.cli.main", "fleet", "simulate", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return from_s, json.loads(done.stdout.splitlines()[-1])


def wire(given: argparse.Namespace, port: int) -> tuple[float, dict[str, Any]]:
    """Plain connections in one process; as `simulate`. Everybody is connected before the time begins."""
    start = multiprocessing.get_context("spawn")
    orders, answer = start.Queue(), start.Queue()
    process = start.Process(target=fleet_sockets.serve, args=(0, given.boards, port, given.period, orders, answer))
    process.start()
    try:
        _, connect_s = answer.get(timeout=120)
        orders.put("publish")
        from_s = time.time() + SETTLE_S
        time.sleep(SETTLE_S + given.for_s)
        orders.put("stop")
        _, facts = answer.get(timeout=60)
        time.sleep(1.0)
    finally:
        process.join(10)
        process.kill()
    return from_s, {"connected": given.boards, "connect_s": round(connect_s, 1), **facts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boards", type=int, default=10_000)
    parser.add_argument("--period", type=float, default=10.0)
    parser.add_argument("--for", dest="for_s", type=float, default=60.0)
    parser.add_argument("--connect", type=float, default=30.0, help="seconds that are left out, with --simulate")
    parser.add_argument("--simulate", action="store_true", help="the agent's own outbox and link for every board")
    parser.add_argument("--quick", action="store_true", help="200 boards for ten seconds")
    given = parser.parse_args()
    if given.quick:
        given.boards, given.period, given.for_s, given.connect = 200, 2.0, 10.0, 5.0
    logs.configure("error")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    start = multiprocessing.get_context("spawn")
    stop, answer = start.Event(), start.Queue()
    with tempfile.TemporaryDirectory(prefix="qeil-scale-") as name:
        folder = Path(name)
        broker = Broker(folder, "max_queued_messages 1000000\nmax_inflight_messages 2000")
        server = Postgres(folder)
        open_engine(server.url).dispose()
        consumer = start.Process(target=consume, args=(broker.port, server.url, stop, answer))
        try:
            consumer.start()
            from_s, boards = (simulate if given.simulate else wire)(given, broker.port)
            stop.set()
            samples, counters, used_s = answer.get(timeout=60)
            broker_s = cpu_s(broker.process.pid) if broker.process is not None else 0.0
        finally:
            stop.set()
            consumer.join(20)
            server.stop()
            broker.stop()
    ages = sorted(age for at_s, age in samples if from_s <= at_s <= from_s + given.for_s)
    if not ages:
        raise SystemExit("no row came in time")
    found = {f"p{q}_ms": round(1e3 * ages[min(len(ages) - 1, len(ages) * q // 100)], 1) for q in (50, 95, 99)}
    print(json.dumps({"boards": boards, "rows_per_s": round(len(ages) / given.for_s), **found,
                      "max_ms": round(1e3 * ages[-1], 1), "consumer_cpu_s": round(used_s, 1),
                      "broker_cpu_s": broker_s, "load": os.getloadavg()[0], **counters}))  # fmt: skip


def cpu_s(pid: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return round((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), 1)


if __name__ == "__main__":
    main()
