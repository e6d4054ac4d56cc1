"""An agent that is killed again and again while telemetry and commands flow; what must hold afterwards is counted."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from agent.schema.command import KINDS
from agent.storage import share
from tests.broker import Broker
from tests.integration.agent_process import MAGIKA, ROOT, models
from tests.integration.fleet_client import FleetClient
from tests.mqtt.signed import KEY

MENU = (
    ("plan", {}), ("set-log-level", {"level": "info"}), ("restart-lane", {"accelerator": "cpu"}), ("collect-diag", {}),
    ("drain", {"wait_s": 1}), ("drain", {"on": False}), ("model-remove", {"name": "magika"}),
    ("model-add", {"name": "magika"}), ("reload", {}), ("evaluate", {"window_s": 0.5}),
    ("model-add", {"name": "nothing"}),
)  # fmt: skip
QUIET_S = 60.0 + max(KINDS[name].limit_s for name, _ in MENU if name != "evaluate")
"""Nothing moves for as long as the slowest command may take, while others wait; evaluate's limit is for windows of
an hour, here it has half a second."""
MAX_START_S = 60.0
BURST, BURST_SHARE = 100, 0.05
"""Commands for an agent that is not there, and how often."""


@dataclass
class Outcome:
    """Everything that was found; the lists must be empty."""

    kills: int = 0
    in_flight_kills: int = 0
    """Kills while a command was running or waiting."""
    commands: int = 0
    rows: int = 0
    duplicates: int = 0
    interrupted: int = 0
    begun_again: int = 0
    lost_rows: list = field(default_factory=list)
    holes: list = field(default_factory=list)
    run_twice: list = field(default_factory=list)
    without_end: list = field(default_factory=list)
    contradictory: list = field(default_factory=list)


class Killing:
    """One broker, one fleet, one state folder, many lives of an agent."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.rng = random.Random(seed)
        self.broker = Broker(folder, "max_queued_messages 100000")  # as the shipped configuration
        self.fleet = FleetClient(self.broker.port)
        self.sent: dict[str, str] = {}
        self.committed: set[tuple] = set()
        self.outcome = Outcome()
        policy = folder / "policy.yaml"
        text = share.find_policy("balanced").read_text()
        policy.write_text(text.replace("window_s: 10", "window_s: 0.2").replace("sample_s: 1", "sample_s: 0.2"))
        mqtt = {
            "host": "127.0.0.1", "port": self.broker.port, "tenant": "acme", "resend_s": 5,
            "trusted_keys": [KEY.public.text()],
        }  # fmt: skip
        document = {
            "version": 1, "state_dir": str(folder / "state"), "board": "b1", "profile": "generic-x86",
            "policy": str(policy), "http": {"port": 0}, "outbox": {"flush_s": 0.05}, "models": models(MAGIKA),
            "mqtt": mqtt,
        }  # fmt: skip
        (folder / "agent.yaml").write_text(yaml.safe_dump(document))

    def start(self) -> subprocess.Popen:
        with (self.folder / "agent.log").open("ab") as log:
            command = [sys.executable, "-m", "agent.cli.main", "run", "--config", str(self.folder / "agent.yaml")]
            return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, cwd=ROOT, start_new_session=True)

    def first(self) -> None:
        """A first life in which the broker learns that the board listens: before that it would keep nothing for it."""
        process = self.start()
        end_s = time.monotonic() + 60.0
        while not self.fleet.rows:
            assert time.monotonic() < end_s, (self.folder / "agent.log").read_text()[-3000:]
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        process.wait(30)

    def send(self) -> None:
        name, args = self.rng.choice(MENU)
        now_s = time.time()
        command = self.fleet.command(name, args, iat=now_s, exp=now_s + 3600)
        self.sent[command] = name

    def burst(self) -> None:
        """More commands while there is no agent than a broker sends it at once, or it has room for."""
        for _ in range(BURST):
            self.send()

    def life(self, seconds: float) -> None:
        """Start, send commands at random moments, kill; a busy machine takes long before there is an agent at all."""
        process = self.start()
        begun_s = time.monotonic()
        while not self._claimed(process.pid) and time.monotonic() - begun_s < MAX_START_S:
            time.sleep(0.02)
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            if self.rng.random() < 0.5:
                self.send()
            time.sleep(self.rng.uniform(0.02, 0.3))
        assert process.poll() is None, (self.folder / "agent.log").read_text()[-3000:]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.outcome.kills += 1
        self._look()

    def _claimed(self, pid: int) -> bool:
        """Whether that process has its state folder: kills from here on find something."""
        with contextlib.suppress(OSError):
            return (self.folder / "state" / "agent.lock").read_text().strip() == str(pid)
        return False

    def _look(self) -> None:
        """What was on disk at the moment of death."""
        state = self.folder / "state"
        if (state / "outbox.db").exists():
            db = sqlite3.connect(state / "outbox.db")
            self.committed |= set(db.execute("SELECT boot, cls, seq FROM rows WHERE payload IS NOT NULL"))
            db.close()
        if (state / "commands.db").exists():
            db = sqlite3.connect(state / "commands.db")
            query = "SELECT COUNT(*) FROM commands WHERE state IN ('accepted', 'running')"
            self.outcome.in_flight_kills += db.execute(query).fetchone()[0] > 0
            db.close()

    def settle(self, quiet_s: float = QUIET_S, longest_s: float = 3600.0) -> None:
        """A last life that ends in order, once everything that waits is through or nothing has moved for so long."""
        process = self.start()
        seen, moved_s = (0, 0), time.monotonic()
        end_s = moved_s + longest_s
        while time.monotonic() < min(moved_s + quiet_s, end_s) and not (self._all_ended() and self._delivered()):
            ended = (len(self.ends()), sum(key in self.fleet.rows for key in self.committed))
            if ended != seen:
                seen, moved_s = ended, time.monotonic()
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        process.wait(30)

    def ends(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        with self.fleet.lock:
            for row in self.fleet.rows.values():
                if row.get("event") == "command":
                    found.setdefault(row["id"], []).append(f"{row['status']} {row.get('code', '')}")
        return found

    def _all_ended(self) -> bool:
        return self.sent.keys() <= self.ends().keys()

    def _delivered(self) -> bool:
        with self.fleet.lock:
            return self.committed <= self.fleet.rows.keys()

    def judge(self) -> Outcome:
        made, ends = self.outcome, self.ends()
        made.commands, made.rows, made.duplicates = len(self.sent), len(self.fleet.rows), self.fleet.duplicates
        made.lost_rows = sorted(self.committed - self.fleet.rows.keys())
        last: Counter = Counter()
        for boot, cls, seq in self.fleet.rows:
            last[boot, cls] = max(last[boot, cls], seq)
        made.holes = [
            (boot, cls, seq)
            for (boot, cls), top in last.items()
            for seq in range(top)
            if (boot, cls, seq) not in self.fleet.rows
        ]
        made.without_end = sorted(self.sent.keys() - ends.keys())
        made.contradictory = [(c, e) for c, e in ends.items() if len(set(e)) > 1]
        made.interrupted = sum(e[0] == "failed interrupted" for e in ends.values())
        begun, done = self._from_log()
        made.begun_again = sum(n > 1 for n in begun.values())
        for command, times in begun.items():
            kind = KINDS[self.sent[command]]
            if times > (2 if kind.repeatable else 1):
                made.run_twice.append((command, self.sent[command], times))
        made.run_twice += [(command, "ended", n) for command, n in done.items() if n > 1]
        return made

    def _from_log(self) -> tuple[Counter, Counter]:
        """How often each command was begun, and how often it came to an end of its own: the log is the witness."""
        begun: Counter = Counter()
        done: Counter = Counter()
        for line in (self.folder / "agent.log").read_text(errors="replace").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # a kill in the middle of a line
            if event.get("event") == "command begins":
                begun[event["id"]] += 1
            elif event.get("event") == "command ended" and event.get("code") != "interrupted":
                done[event["id"]] += event["id"] in begun
        return begun, done

    def close(self) -> None:
        self.fleet.close()
        self.broker.stop()


def run(folder: Path, kills: int, seed: int) -> Outcome:
    killing = Killing(folder, seed)
    try:
        killing.first()
        for _ in range(kills):
            if killing.rng.random() < BURST_SHARE:
                killing.burst()
            killing.life(killing.rng.uniform(0.5, 5.0))
        killing.settle()
        return killing.judge()
    finally:
        killing.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kills", type=int, nargs="?", default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for the agent's log, its state and the broker's log")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qeil-kills-") as made:
        folder = given.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        begun_s = time.monotonic()
        outcome = run(folder, given.kills, given.seed)
    sys.stdout.write(f"{outcome}\nseed {given.seed}, {time.monotonic() - begun_s:.0f} s\n")
    bad = (outcome.lost_rows, outcome.holes, outcome.run_twice, outcome.without_end, outcome.contradictory)
    return int(any(bad))


if __name__ == "__main__":
    sys.exit(main())
