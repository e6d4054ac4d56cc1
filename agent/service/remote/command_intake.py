"""Command intake: judges what came down the line – who signed it, for whom, since when, whether it was here before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from agent.errors import ConfigError, StorageError
from agent.mqtt import envelope
from agent.mqtt.inbound import Inbound
from agent.mqtt.minisign import PublicKey, SignatureRefused
from agent.mqtt.topics import Topics
from agent.records import record
from agent.schema.command import KINDS, Command, unknown
from agent.service.clock import CLOCK_SET_S
from agent.storage import yaml_files
from agent.storage.command_table import CommandRow, CommandTable
from agent.storage.yaml_text import Document

MAX_WAITING = 32
MAX_AHEAD_S = 3600.0
"""Clocks of board and sender may differ by this much."""


@record(frozen=True)
class Refusal:
    """Not taken on and not remembered: nothing proves that a signer of ours sent it to this board, or it may be sent
    again."""

    code: str
    message: str
    command_id: str | None = None
    name: str | None = None


@record(frozen=True)
class Verdict:
    """A command that has a row in the table; `new` unless it was here before."""

    row: CommandRow
    new: bool


class CommandIntake:
    """Decides and writes the decision down. Used by one thread."""

    def __init__(self, table: CommandTable, topics: Topics, keys: Sequence[PublicKey]) -> None:
        self._table = table
        self._topics = topics
        self._keys = tuple(keys)

    def judge(self, inbound: Inbound, wall_s: float) -> Verdict | Refusal:
        """The verdict; an accepted or finally refused command is on disk then.

        One that the disk does not take is refused and forgotten, here and by the broker: whoever sent it has to send it
        again, and then it is taken on, or refused, once.
        """
        try:
            document, text = envelope.opened(inbound.payload, self._keys)
        except SignatureRefused as refused:
            return Refusal(refused.code, refused.message)
        try:
            command = yaml_files.validate(Document(document, {}), Command, "command")
        except ConfigError as error:
            return Refusal("invalid", error.message, _text(document, "id"), _text(document, "command"))
        if (command.tenant, command.board) != (self._topics.tenant, self._topics.board):
            message = f"for {command.tenant}/{command.board}; this is {self._topics.tenant}/{self._topics.board}"
            return Refusal("wrong_board", message, command.id, command.command)
        try:
            return self._known_or_new(command, inbound, hashlib.sha256(text.encode()).hexdigest(), wall_s)
        except StorageError as error:
            return Refusal("storage", error.message, command.id, command.command)

    def _known_or_new(self, command: Command, inbound: Inbound, digest: str, wall_s: float) -> Verdict | Refusal:
        known = self._table.get(command.id)
        if known is not None and known.digest != digest:
            message = "another command had this id; ids are used once"
            return Refusal("id_reused", message, command.id, command.command)
        if known is not None:
            return Verdict(known, new=False)
        problem = self._unsafe(command, wall_s)
        if problem is not None:
            return Refusal(*problem, command.id, command.command)
        row = self._row(command, inbound, digest, wall_s)
        self._table.add(row, wall_s)
        return Verdict(row, new=True)

    def _unsafe(self, command: Command, wall_s: float) -> tuple[str, str] | None:
        if self._table.refuses(command.iat, command.exp):
            return "replayed", "it may have run before and been forgotten; send it anew with another id"
        if wall_s < CLOCK_SET_S:
            return "clock_unset", "the board does not know the time yet, so nothing can be checked for expiry"
        if command.iat > wall_s + MAX_AHEAD_S:
            return "not_yet", f"issued {command.iat - wall_s:.0f} s ahead of the board's clock"
        return None

    def _row(self, command: Command, inbound: Inbound, digest: str, wall_s: float) -> CommandRow:
        def row(state: Any, code: str | None = None, message: str | None = None) -> CommandRow:
            wanted = inbound.response_topic
            topic = wanted if wanted is not None and self._topics.takes_response(wanted) else None
            return CommandRow(
                command.id, digest, command.command, command.args, command.by, command.exp, state, code, message,
                response_topic=topic, correlation=inbound.correlation,
            )  # fmt: skip

        if command.exp <= wall_s:
            return row("expired", "expired", f"{wall_s - command.exp:.0f} s too late")
        kind = KINDS.get(command.command)
        if kind is None:
            return row("rejected", "unknown_command", unknown(command.command))
        if not kind.supported:
            return row("rejected", "unsupported", f"{command.command} is not there yet in this version")
        try:
            yaml_files.validate(Document(command.args, {}), kind.args, "args")
        except ConfigError as error:
            return row("rejected", "bad_args", error.message)
        if len(self._table.waiting()) >= MAX_WAITING:
            return row("rejected", "busy", f"{MAX_WAITING} commands wait already; send it anew later")
        return row("accepted")


def _text(document: Any, key: str) -> str | None:
    value = document.get(key) if isinstance(document, dict) else None
    return value[:64] if isinstance(value, str) else None
