"""A fleet on one broker that is killed: rows lost, duplicates, time until everybody is back.

    python benchmarks/fleet_links.py [--quick] [--boards N] [--kills N] [--period S] [--seconds S] [--markdown FILE]

Every board is the agent's own outbox (SQLite, one file each), publisher and link over mutual TLS; an epoll loop turns
them in place of their threads. The backend stores rows by key and acknowledges after its commit; it is stopped for
0.7 s before every `kill -9` of mosquitto, so that the broker holds rows which it has acknowledged and nobody has.
"backend_ack" is what boards do. "puback" is the control: rows are deleted when the broker has acknowledged them, and
then some have to be lost, or the kills would prove nothing.

Outboxes lie in memory (/dev/shm) where that exists: in a fleet every board has a disk of its own. The broker runs the
shipped configuration but for identities: all boards share one certificate, because making thousands takes longer than
the run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import fleet_backend, fleet_boards
from benchmarks.fleet_boards import Load

DEPLOY = Path(__file__).resolve().parent.parent / "deploy" / "mosquitto"
MEMORY = Path("/dev/shm")  # noqa: S108  (a folder is made in it)
BOARDS_A_PROCESS = 1700
"""Eight descriptors a board, and 20,000 a process."""
FROZEN_S = 0.7
BACK_S, DRAIN_S = 180.0, 240.0


@dataclass(frozen=True)
class Result:
    """One row of the table."""

    mode: str
    boards: int
    kills: int
    rows: int
    lost: int
    duplicates: int
    back_s: list[float]
    callback_errors: int
    cpu_share: float
    rss_per_board_bytes: float


class Broker:
    """mosquitto as shipped, on a free port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificates = folder / "qeil"
        for what in (
            ["authority"],
            ["broker", "localhost", "127.0.0.1"],
            ["client", "boards"],
            ["client", "fleet-backend"],
        ):
            subprocess.run([DEPLOY / "make-certificates", self.certificates, *what], check=True, capture_output=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        left_out = ("use_identity_as_username", "use_username_as_clientid", "acl_file", "allow_anonymous")
        lines = [line for line in (DEPLOY / "qeil.conf").read_text().splitlines() if not line.startswith(left_out)]
        text = "\n".join(lines).replace("/etc/mosquitto/qeil", str(self.certificates))
        text = text.replace("listener 8883", f"listener {self.port} 127.0.0.1\nallow_anonymous true")
        (folder / "mosquitto.conf").write_text(f"user root\npersistence_location {folder}/\n{text}\n")

    def start(self) -> None:
        path = os.environ.get("PATH", "") + ":/usr/sbin"
        program = shutil.which("mosquitto", path=path)
        if program is None:
            raise SystemExit("mosquitto is not installed: apt-get install mosquitto")
        log = (self.folder / "mosquitto.log").open("ab")
        self.process = subprocess.Popen([program, "-c", self.folder / "mosquitto.conf"], stdout=log, stderr=log)
        log.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Fleet:
    """The processes of boards."""

    def __init__(self, folder: Path, broker: Broker, boards: int, period_s: float, mode: str) -> None:
        self._lines: list[Connection] = []
        self._processes = []
        context = multiprocessing.get_context("spawn")
        self.boards = boards
        first = 0
        while first < boards:
            count = min(BOARDS_A_PROCESS, boards - first)
            load = Load(first, count, str(folder), broker.port, str(broker.certificates), period_s, mode, 7 + first)
            near, far = context.Pipe()
            process = context.Process(target=fleet_boards.serve, args=(load, far), daemon=True)
            process.start()
            self._lines.append(near)
            self._processes.append(process)
            first += count
        for line in self._lines:
            line.recv()

    def order(self, word: str) -> None:
        for line in self._lines:
            line.send(word)

    def ask(self, word: str) -> list:
        self.order(word)
        return [line.recv() for line in self._lines]

    def facts(self) -> list[dict]:
        return [json.loads(text) for text in self.ask("facts")]

    def wait_connected(self) -> float:
        """Seconds until every board is connected."""
        begun_s = time.monotonic()
        while sum(self.ask("connected")) < self.boards:
            if time.monotonic() - begun_s > BACK_S:
                raise SystemExit(
                    f"only {sum(self.ask('connected'))} of {self.boards} boards are back after {BACK_S:g} s"
                )
            time.sleep(0.05)
        return time.monotonic() - begun_s

    def stop(self) -> None:
        self.order("stop")
        for process in self._processes:
            process.join(5)


def measure(folder: Path, mode: str, boards: int, kills: int, period_s: float, seconds: float) -> Result:
    """One run from an empty broker."""
    folder.mkdir()
    broker = Broker(folder)
    broker.start()
    context = multiprocessing.get_context("spawn")
    backend = context.Process(
        target=fleet_backend.serve, args=(str(folder), broker.port, str(broker.certificates)), daemon=True
    )
    backend.start()
    fleet = Fleet(folder, broker, boards, period_s, mode)
    try:
        fleet.wait_connected()
        fleet.order("produce")
        begun_s = time.monotonic()
        back_s = []
        for _ in range(kills):
            time.sleep(seconds / (kills + 1))
            os.kill(backend.pid, signal.SIGSTOP)
            time.sleep(FROZEN_S)
            broker.kill()
            os.kill(backend.pid, signal.SIGCONT)
            broker.start()
            time.sleep(0.2)  # boards have to notice before "connected" means anything
            back_s.append(round(0.2 + fleet.wait_connected(), 1))
        time.sleep(seconds / (kills + 1))
        fleet.order("rest")
        facts = _drained(fleet, folder)
        ran_s = time.monotonic() - begun_s
        return _judge(folder, mode, boards, kills, back_s, facts, ran_s)
    finally:
        fleet.stop()
        backend.kill()
        broker.kill()


def _drained(fleet: Fleet, folder: Path) -> list[dict]:
    """Facts once nothing is left in the outboxes, and nothing more arrives."""
    end_s = time.monotonic() + DRAIN_S
    seen, quiet = -1, 0
    while time.monotonic() < end_s and quiet < 3:
        time.sleep(1.0)
        facts = fleet.facts()
        count = _received(folder)[0]
        quiet = quiet + 1 if count == seen and sum(f["left"] for f in facts) == 0 else 0
        seen = count
    return fleet.facts()


def _received(folder: Path) -> tuple[int, int]:
    """Different rows, and all that came."""
    db = sqlite3.connect(folder / "backend.db")
    count, total = db.execute("SELECT COUNT(*), COALESCE(SUM(received), 0) FROM rows WHERE cls = 'tlm'").fetchone()
    db.close()
    return count, total


def _judge(
    folder: Path, mode: str, boards: int, kills: int, back_s: list[float], facts: list[dict], ran_s: float
) -> Result:
    committed = {name: count for f in facts for name, count in f["committed"].items()}
    db = sqlite3.connect(folder / "backend.db")
    got: dict[str, set[int]] = {name: set() for name in committed}
    for board, seq in db.execute("SELECT board, seq FROM rows WHERE cls = 'tlm'"):
        got[board].add(seq)
    db.close()
    lost = sum(len(set(range(count)) - got[name]) for name, count in committed.items())
    rows, total = _received(folder)
    return Result(
        mode, boards, kills, sum(committed.values()), lost, total - rows, back_s,
        sum(f["callback_errors"] for f in facts), sum(f["cpu_s"] for f in facts) / ran_s,
        sum(f["rss_bytes"] for f in facts) / boards,
    )  # fmt: skip


def table(results: list[Result]) -> str:
    lines = [
        "| rows deleted on | boards | broker kills | rows | lost | duplicates removed by key | everybody back after |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        back = ", ".join(f"{s:g} s" for s in r.back_s)
        lines.append(f"| {r.mode} | {r.boards} | {r.kills} | {r.rows} | {r.lost} | {r.duplicates} | {back} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 boards, two kills")
    parser.add_argument("--boards", type=int, default=500)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--period", type=float, default=1.0, help="seconds between two rows of a board")
    parser.add_argument("--seconds", type=float, default=24.0, help="of load, without the time that recovery takes")
    parser.add_argument("--no-control", action="store_true", help="leave the run with delete-on-PUBACK out")
    parser.add_argument("--folder", type=Path, default=MEMORY if MEMORY.is_dir() else None)
    parser.add_argument("--markdown", type=Path, help="also write the table here")
    options = parser.parse_args()
    boards, kills, seconds = (100, 2, 9.0) if options.quick else (options.boards, options.kills, options.seconds)
    modes = ["backend_ack"] if options.no_control else ["backend_ack", "puback"]
    results = []
    with tempfile.TemporaryDirectory(prefix="qeil-fleet-", dir=options.folder) as made:
        for mode in modes:
            result = measure(Path(made) / mode, mode, boards, kills, options.period, seconds)
            print(
                f"{mode}: {result.rows} rows, {result.lost} lost, {result.duplicates} duplicates, back after"
                f" {result.back_s} s, boards' CPU {result.cpu_share:.2f} of a core, callback errors"
                f" {result.callback_errors}, {result.rss_per_board_bytes / 1024:.0f} KiB a board",
                flush=True,
            )
            results.append(result)
    print(table(results))
    if options.markdown is not None:
        options.markdown.write_text(table(results) + "\n")
    if results[0].lost or results[0].callback_errors:
        raise SystemExit("rows were lost")
    if len(results) > 1 and not results[1].lost:
        raise SystemExit("the control lost nothing: this run proves nothing, make it longer")


if __name__ == "__main__":
    main()
