"""How many messages a second the fleet's side takes from a broker into its database, and the board's outbox to disk.

`python benchmarks/fleet_store.py [--quick] [--postgres] [--consumers N] [--rounds N] [--messages N]`: the real link,
consumer and store, each consumer a process of its own, against a real mosquitto (and a PostgreSQL) on loopback;
messages of one 1 KB row wait in the broker until the consumers begin. Where consumers, database and broker share the
cores, the processor seconds of each per 1,000 messages say more than the rate. `--core-share 0.5` gives each consumer
half of a core (stopped and continued fifty times a second), so that two of them, broker and database fit on two cores:
what is then missing to twice the rate is what consumers wait for each other. `--rounds` runs one consumer and N of them
in turn, as a host's pace may change within minutes, and tells how many times as fast they are. The outbox takes batches
of 100 rows of 1 KB, each on disk before the next.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.child import end_with_parent
from agent.mqtt.topics import ControllerTopics
from agent.schema.fleet import FleetSettings
from agent.schema.settings import MqttSettings
from agent.service import logs
from agent.service.clock import SystemClock
from agent.storage.outbox import Outbox
from benchmarks.needed import needed

with needed():
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    from agent.fleet.consumer import Consumer
    from agent.fleet.store import Store, open_engine
    from agent.fleet.writers import Writers
    from agent.mqtt.link import Link
    from tests.broker import Broker
    from tests.fleet.databases import Postgres

PADDING = "x" * 900
RECEIVE_MAXIMUM = 2000


def publish(port: int, messages: int, boards: list[str]) -> None:
    """Everything at QoS 1, from one client."""
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.max_inflight_messages_set(1000)
    client.connect("127.0.0.1", port)
    client.loop_start()
    last = None
    for i in range(messages):
        row = {"ts": time.time(), "p": PADDING}
        document = {"v": 1, "boot": 1, "cls": "tlm", "seq0": i // len(boards), "rows": [row]}
        last = client.publish(f"qeil/v1/acme/{boards[i % len(boards)]}/up/tlm/agent", json.dumps(document), 1)
    if last is not None:
        last.wait_for_publish(120)
    client.disconnect()
    client.loop_stop()


def link_to(port: int, name: str, consumer: Writers) -> Link:
    settings = MqttSettings(host="127.0.0.1", port=port, session_expiry_s=3600, max_inflight=1000)
    return Link(
        settings, ControllerTopics(name), 1, SystemClock(), dict, lambda *_: None, lambda _: None, lambda: None,
        consumer.on_request,
    )  # fmt: skip


def wait(condition: Callable[[], bool], timeout_s: float = 300.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_s:
            raise SystemExit("did not happen in time")
        time.sleep(0.01)


def consumer_process(port: int, database: str, name: str, ready: Any, go: Any, rows: Any, wanted: int) -> None:
    """Connects, waits for the start, stores, counts."""
    end_with_parent()  # it may be stopped at that moment
    logs.configure("error")
    engine = open_engine(database)
    links: list[Link] = []
    store, clock = Store(engine), SystemClock()
    made = [
        Consumer(store, lambda topic, payload: links[0].send(topic, payload, False), clock, RECEIVE_MAXIMUM)
        for _ in range(1 if database.startswith("sqlite") else FleetSettings.model_fields["writers"].default)
    ]
    consumer = Writers(made)
    links.append(link_to(port, name, consumer))
    links[0].start()
    wait(lambda: links[0].connected)
    time.sleep(0.5)  # the subscription's acknowledgement, which the link does not wait for
    ready.release()
    go.wait()
    consumer.start()
    counted = 0
    while sum(rows) < wanted and links[0].alive():
        counted, rows[int(name[-1])] = consumer.counters["rows"], consumer.counters["rows"]
        time.sleep(0.005)
    links[0].stop()
    consumer.stop()
    engine.dispose()
    rows[int(name[-1])] = max(counted, consumer.counters["rows"])


def cpu_s(pid: int) -> float:
    """Processor seconds of a process, and of its children that live or were waited for; 0 where it is gone."""
    total, ticks = 0.0, os.sysconf("SC_CLK_TCK")
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        own, parent = int(path.parent.name), int(fields[1])
        if own == pid:
            total += sum(map(int, fields[11:15])) / ticks
        elif parent == pid:
            total += sum(map(int, fields[11:13])) / ticks
    return total


@contextmanager
def held_to(core_share: float, pids: list[int]) -> Iterator[None]:
    """Each process runs for this share of the time, in turns of 10 to 30 ms that no other's are in step with."""
    over = threading.Event()

    def hold(pid: int) -> None:
        turns = random.Random(pid)
        while not over.is_set():
            turn_s = turns.uniform(0.01, 0.03)
            time.sleep(core_share * turn_s)
            os.kill(pid, signal.SIGSTOP)
            time.sleep((1.0 - core_share) * turn_s)
            os.kill(pid, signal.SIGCONT)

    holding = [threading.Thread(target=hold, args=(pid,)) for pid in pids if core_share < 1.0]
    for thread in holding:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in holding:
            thread.join()


def consume(
    database: str, messages: int, boards: list[str], consumers: int, folder: Path, server: int | None = None,
    core_share: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
    """Messages wait in the broker while the consumers are connected; they start with the clock.

    `server`: the database's process, whose processor seconds are told too; `core_share`: of a core, for each consumer.
    """
    broker = Broker(folder, "max_queued_messages 1000000\nmax_inflight_messages 2000")
    open_engine(database).dispose()
    start = multiprocessing.get_context("spawn")
    ready, go, rows = start.Semaphore(0), start.Event(), start.Array("q", consumers, lock=False)
    running = [
        start.Process(target=consumer_process, args=(broker.port, database, f"bench-{i}", ready, go, rows, messages))
        for i in range(consumers)
    ]
    try:
        for process in running:
            process.start()
        for _ in running:
            if not ready.acquire(timeout=60):
                raise SystemExit("a consumer did not connect")
        publish(broker.port, messages, boards)
        pids = {"consumers": [p.pid or 0 for p in running], "broker": [broker.process.pid if broker.process else 0]}
        pids["database"] = [server] if server is not None else []
        before = {name: sum(map(cpu_s, found)) for name, found in pids.items()}
        begun_s = time.monotonic()
        with held_to(core_share, pids["consumers"]):
            go.set()
            wait(lambda: sum(rows) >= messages)
            elapsed_s = time.monotonic() - begun_s
        used = {
            f"{name}_cpu_s_per_1000": round(1e3 * (sum(map(cpu_s, found)) - before[name]) / messages, 3)
            for name, found in pids.items() if found
        }  # fmt: skip
    finally:
        go.set()
        for process in running:
            process.join(20)
            process.kill()
        broker.stop()
    rate = round(messages / elapsed_s)
    found = {"consumers": consumers, "messages": messages, "messages_per_s": rate, **used, "load": os.getloadavg()[0]}
    if core_share < 1.0:
        found["core_share"] = core_share
        found["core_share_taken"] = round(used["consumers_cpu_s_per_1000"] * messages / 1e3 / elapsed_s / consumers, 2)
    if server is not None:
        found["two_consumers_at_most_times"] = at_most(used, core_share=core_share)
    return found


def at_most(used: dict[str, float], cores: int | None = None, core_share: float = 1.0) -> float:
    """How many times as fast as one consumer two could be at most.

    One takes `core_share` of a core, all together these cores.
    """
    cores = cores or len(os.sched_getaffinity(0))
    one, all_s = used["consumers_cpu_s_per_1000"] / core_share, sum(used.values())
    alone = min(1 / one, cores / all_s)
    return round(min(2 / one, cores / all_s) / alone, 2)


def share(text: str) -> float:
    """A share of a core, over 0 and at most 1."""
    value = float(text)
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f"'{text}' is not over 0 and at most 1")
    return value


def outbox(folder: Path, batches: int) -> dict[str, float]:
    made = Outbox(folder / "outbox.db", 1, 1 << 30, 300.0, SystemClock())
    made.start()
    row = {"p": PADDING}
    begun_s = time.monotonic()
    for _ in range(batches):
        for _ in range(100):
            made.append("tlm", row)
        made.flush()
    elapsed_s = time.monotonic() - begun_s
    committed = made.counters["committed"]
    made.stop()
    return {"rows": committed, "rows_per_s": round(committed / elapsed_s)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", help="default: SQLite in a temporary folder")
    parser.add_argument("--postgres", action="store_true", help="a PostgreSQL of its own")
    parser.add_argument("--consumers", type=int, default=1)
    parser.add_argument("--core-share", type=share, default=1.0, help="of a core, for each consumer")
    parser.add_argument("--rounds", type=int, default=0, help="of one consumer and all of them in turn, to compare")
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--boards", type=int, default=500)
    parser.add_argument("--batches", type=int, default=300, help="of the outbox; 0 leaves it out")
    parser.add_argument("--quick", action="store_true", help="a few hundred messages: shows that everything runs")
    given = parser.parse_args()
    if given.quick:
        given.messages, given.batches = 500, 20
    logs.configure("error")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # consumers that are held back must not stay stopped
    with tempfile.TemporaryDirectory(prefix="qeil-bench-") as name:
        folder = Path(name)
        if given.batches:
            print(json.dumps({"outbox": outbox(folder, given.batches)}), flush=True)
        server = Postgres(folder) if given.postgres else None
        database = server.url if server is not None else given.database or f"sqlite:///{folder}/fleet.db"
        try:
            pid = server.pid if server is not None else None
            counts = [1, given.consumers] * given.rounds or [given.consumers]
            rates: list[int] = []
            for number, consumers in enumerate(counts):
                boards = [f"b{number}-{i}" for i in range(given.boards)]  # whose rows no earlier round has stored
                found = consume(database, given.messages, boards, consumers, folder, pid, given.core_share)
                rates.append(found["messages_per_s"])
                print(json.dumps({"consumer": {"database": database.partition(":")[0], **found}}), flush=True)
        finally:
            if server is not None:
                server.stop()
        if given.rounds:
            times = [round(many / one, 2) for one, many in zip(rates[::2], rates[1::2], strict=True)]
            print(json.dumps({"times_as_fast": statistics.median(times), "of_rounds": times}))


if __name__ == "__main__":
    main()
