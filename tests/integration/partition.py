"""Run inside a network namespace: a board and its backend while the network is gone, or loses every third packet.

`python -m tests.integration.partition down|loss SECONDS`: prints one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.broker import Broker
from tests.fleet.boards import STAMP, Board
from tests.integration.fleet_client import FleetClient
from tests.mqtt.stack import until

LOSS = """table inet faults {
  chain input {
    type filter hook input priority 0;
    tcp dport %d numgen random mod 100 < 30 drop
    tcp sport %d numgen random mod 100 < 30 drop
  }
}
"""


def network(kind: str, broken: bool, port: int) -> None:
    if kind == "down":
        subprocess.run(["ip", "link", "set", "lo", "down" if broken else "up"], check=True)
    elif broken:
        subprocess.run(["nft", "-f", "-"], input=LOSS % (port, port), text=True, check=True)
    else:
        subprocess.run(["nft", "delete", "table", "inet", "faults"], check=True)


def main(kind: str, seconds: float) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broker = Broker(folder)
        fleet = FleetClient(broker.port)
        board = Board(folder, broker.port, "b1")
        try:
            watch(kind, seconds, broker.port, fleet, board)
        finally:
            board.stop()
            fleet.close()
            broker.stop()


def watch(kind: str, seconds: float, port: int, fleet: FleetClient, board: Board) -> None:
    def happen() -> None:
        board.outbox.append("evt", {**STAMP, "event": "test"})

    until(lambda: board.link.connected)
    for _ in range(20):
        happen()
    until(lambda: len(fleet.rows) == 20)
    network(kind, True, port)
    begun_s, seen_s = time.monotonic(), None
    while time.monotonic() - begun_s < seconds:
        happen()
        if seen_s is None and not board.link.connected:
            seen_s = time.monotonic() - begun_s
        time.sleep(0.1)
    network(kind, False, port)
    until(lambda: board.link.connected, 90)
    until(lambda: board.outbox.counters["committed"] == len(fleet.rows), 120)
    found = {"rows": board.outbox.counters["committed"], "stored": len(fleet.rows), "seen_s": seen_s}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
