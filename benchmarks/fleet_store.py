"""How many messages a second the fleet's side takes from a broker into its database, and the board's outbox to disk.

`python benchmarks/fleet_store.py [--quick] [--database URL] [--messages N]`: the real link, consumer and store against
a real mosquitto on loopback; messages of one 1 KB row wait in the broker until the consumer begins. The outbox takes
batches of 100 rows of 1 KB, each on disk before the next.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from agent.fleet.consumer import Consumer
from agent.fleet.store import Store, open_engine
from agent.mqtt.link import Link
from agent.mqtt.topics import ControllerTopics
from agent.schema.settings import MqttSettings
from agent.service import logs
from agent.service.clock import SystemClock
from agent.storage.outbox import Outbox
from tests.broker import Broker

PADDING = "x" * 900
RECEIVE_MAXIMUM = 2000


def publish(port: int, messages: int, boards: int) -> None:
    """Everything at QoS 1, from one client."""
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.max_inflight_messages_set(1000)
    client.connect("127.0.0.1", port)
    client.loop_start()
    last = None
    for i in range(messages):
        document = {"v": 1, "boot": 1, "cls": "tlm", "seq0": i // boards, "rows": [{"ts": 1.0, "p": PADDING}]}
        last = client.publish(f"qeil/v1/acme/b{i % boards}/up/tlm/agent", json.dumps(document), 1)
    if last is not None:
        last.wait_for_publish(120)
    client.disconnect()
    client.loop_stop()


def link_to(port: int, consumer: Consumer) -> Link:
    settings = MqttSettings(host="127.0.0.1", port=port, session_expiry_s=3600, max_inflight=1000)
    return Link(
        settings, ControllerTopics("bench"), 1, SystemClock(), dict, lambda *_: None, lambda _: None, lambda: None,
        consumer.on_request,
    )  # fmt: skip


def wait(condition: Callable[[], bool], timeout_s: float = 300.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_s:
            raise SystemExit("did not happen in time")
        time.sleep(0.01)


def consume(database: str, messages: int, boards: int, folder: Path) -> dict[str, float]:
    """Messages wait in the broker while the consumer is connected; its thread starts with the clock."""
    broker = Broker(folder, "max_queued_messages 1000000\nmax_inflight_messages 2000")
    engine = open_engine(database)
    links: list[Link] = []
    consumer = Consumer(
        Store(engine), lambda topic, payload: links[0].send(topic, payload, False), SystemClock(), RECEIVE_MAXIMUM
    )
    links.append(link_to(broker.port, consumer))
    try:
        links[0].start()
        wait(lambda: links[0].connected)
        time.sleep(0.5)
        publish(broker.port, messages, boards)
        begun_s = time.monotonic()
        consumer.start()
        wait(lambda: consumer.counters["rows"] >= messages)
        elapsed_s = time.monotonic() - begun_s
    finally:
        links[0].stop()
        consumer.stop()
        engine.dispose()
        broker.stop()
    found = {"messages": messages, "messages_per_s": round(messages / elapsed_s)}
    return {**found, "batches": consumer.counters["batches"]}


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
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--boards", type=int, default=500)
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="a few hundred messages: shows that everything runs")
    given = parser.parse_args()
    if given.quick:
        given.messages, given.batches = 500, 20
    logs.configure("error")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        database = given.database or f"sqlite:///{folder}/fleet.db"
        print(json.dumps({"outbox": outbox(folder, given.batches)}))
        print(json.dumps({"consumer": consume(database, given.messages, given.boards, folder)}))


if __name__ == "__main__":
    main()
