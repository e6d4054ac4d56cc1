"""Commands over fake parts, without threads."""

from __future__ import annotations

import json

from agent.mqtt.inbound import Inbound
from agent.mqtt.topics import Topics
from agent.schema.command import KINDS
from agent.service.remote.command_intake import CommandIntake
from agent.service.remote.command_reports import CommandReports
from agent.service.remote.commands import Commands
from agent.storage.command_table import CommandTable
from tests.fakes import FakeClock
from tests.mqtt.signed import KEY, command_text, signed

TOPICS = Topics("acme", "b1")


class FakeRecorder:
    """An outbox whose disk can refuse: what it holds in memory until then goes with the process."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict]] = []
        self.safe = True
        self.durable = 0

    def record(self, kind, fields) -> bool:
        self.events.append((kind, dict(fields)))
        return True

    def flushed(self) -> bool:
        if self.safe:
            self.durable = len(self.events)
        return self.safe

    def stamp(self) -> dict:
        return {"ts": 1.0, "mono": 1.0, "tq": "ntp"}


class World:
    """Commands without threads: `send` takes in, `work` runs."""

    def __init__(self, folder, actions=None) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.recorder = FakeRecorder()
        self.sent: list[tuple[str, dict, bytes | None]] = []
        self.linked = True
        self.largest_bytes = 1 << 20
        self.acknowledged = self.again = 0
        self.ran: list[str] = []
        self.actions = actions or {}
        self.boot()

    def boot(self) -> None:
        """As after a start, with whatever is on disk."""
        self.table = CommandTable(self.folder / "commands.db", self.clock.wall_s())
        self.reports = CommandReports(TOPICS, 1, self.recorder, self._send, self.clock)
        actions = {name: self._action(name) for name, kind in KINDS.items() if kind.supported}
        self.commands = Commands(
            self.table, CommandIntake(self.table, TOPICS, [KEY.public]), self.reports, {**actions, **self.actions},
            self.clock, self._again,
        )  # fmt: skip

    def _action(self, name):
        def act(args, run):
            self.ran.append(name)
            return {"did": name}

        return act

    def _send(self, topic, payload, correlation) -> bool:
        if taken := self.linked and len(payload) <= self.largest_bytes:
            self.sent.append((topic, json.loads(payload), correlation))
        return taken

    def _again(self) -> None:
        self.again += 1

    def _acknowledge(self) -> None:
        self.acknowledged += 1

    def text(self, name="plan", **fields) -> str:
        return command_text(name, self.clock.wall_s(), **fields)

    def send(self, text, payload=None, **options) -> str:
        inbound = Inbound(
            TOPICS.command("x"), payload or signed(text), options.get("topic"), options.get("correlation"),
            self._acknowledge,
        )  # fmt: skip
        self.commands.take(inbound)
        return json.loads(text)["id"] if payload is None else ""

    def work(self) -> None:
        self.commands.recover()
        self.commands.round()

    def crash(self) -> None:
        """The process is gone; the disk is not."""
        self.table.close()
        del self.recorder.events[self.recorder.durable :]
        self.boot()

    def statuses(self, command_id) -> list[str]:
        return [d["status"] for _, d, _ in self.sent if d["id"] == command_id]

    def ends(self, command_id) -> list[dict]:
        return [fields for kind, fields in self.recorder.events if kind == "command" and fields["id"] == command_id]
