"""Desired state: takes a newer one, tries it, keeps it or stays with the last that worked, and reports which it is.

The highest version that was ever taken is on disk before anything is tried: an older one is refused for good. A start
that finds one untried tries it once more; a start that finds one kept brings it into force again, with or without a
connection.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import structlog

from agent.errors import ConfigError, StorageError
from agent.mqtt import envelope
from agent.mqtt.inbound import Inbound
from agent.mqtt.minisign import PublicKey, SignatureRefused
from agent.mqtt.topics import Topics
from agent.ports import Clock
from agent.schema.base import FileModel
from agent.schema.desired import Desired
from agent.service.remote.command_intake import Refusal
from agent.service.remote.commands import Interrupted, Run
from agent.service.remote.desired_apply import Applied
from agent.service.remote.follower import Follower
from agent.storage import state_file, yaml_files
from agent.storage.problem import problems_of
from agent.storage.yaml_text import Document

FILE = "desired.json"
LIMIT_S = 600.0
MAX_ATTEMPTS = 2

Status = Literal["none", "pending", "applied", "rejected"]

_log = structlog.get_logger("desired")


class Record(FileModel):
    """What is on disk. `text` is the latest that was taken, `kept` the last that worked."""

    version: Literal[1] = 1
    ver: int = 0
    digest: str = ""
    status: Status = "none"
    attempts: int = 0
    text: str | None = None
    kept: str | None = None
    kept_ver: int | None = None
    error: str | None = None
    keys: dict[str, dict[str, Any]] = {}  # noqa: RUF012  (pydantic copies defaults)


class Outlet(Protocol):
    """Where it is told."""

    def refused(self, refusal: Refusal) -> None:
        """A message that was not taken."""
        ...

    def report(self, fields: dict[str, Any]) -> bool:
        """The retained reported state; False if the link cannot take it now."""
        ...

    def event(self, fields: dict[str, Any]) -> None:
        """What became of a version, for sure."""
        ...


class DesiredState(Follower):
    """The methods of other threads only leave notes for its own."""

    def __init__(
        self,
        state_dir: Path,
        topics: Topics,
        keys: Sequence[PublicKey],
        apply: Callable[[Desired | None, Run], Applied],
        outlet: Outlet,
        facts: Callable[[], dict[str, Any]],
        clock: Clock,
    ) -> None:
        """`facts()` says what is in force, for the report. StorageError if the record cannot be read."""
        super().__init__("desired")
        self._path = state_dir / FILE
        self._topics = topics
        self._keys = tuple(keys)
        self._apply = apply
        self._outlet = outlet
        self._facts = facts
        self._clock = clock
        self._lock = threading.Lock()
        self._latest: Inbound | None = None
        self._refused: bytes | None = None
        found = state_file.read_json(self._path)
        self.record = Record() if found is None else Record.model_validate(found)
        self.in_force: Desired | None = None
        """What the board follows now."""

    # ------------------------------------------------------------------ any thread

    def on_request(self, inbound: Inbound) -> None:
        """The newest message counts; one that it overtakes was replaced by its sender."""
        with self._lock:
            overtaken, self._latest = self._latest, inbound
        if overtaken is not None:
            overtaken.acknowledge()
        self._wake.set()

    def overrules_policy(self) -> str | None:
        """Why the policy file is not in force; None where it is."""
        wanted = self.in_force
        if wanted is None or (wanted.policy is None and wanted.inline_policy is None):
            return None
        return f"the fleet's desired state (version {wanted.ver}) sets the policy"

    # ------------------------------------------------------------------ own thread

    def resume(self) -> None:
        """As after a start."""
        record = self.record
        if record.kept is not None:
            kept = Desired.model_validate_json(record.kept)
            outcome = self._applied(kept)
            self.in_force = kept if outcome.error is None else None
            if outcome.error is not None:
                _log.warning("kept desired state cannot be had any more", ver=record.kept_ver, cause=outcome.error)
                if record.status == "applied":
                    self._save(status="rejected", error=outcome.error, keys=_plain(outcome))
        if record.status == "pending" and record.text is not None:
            if record.attempts >= MAX_ATTEMPTS:
                self._settled(Applied("the agent ended while it was tried, twice"), None)
            else:
                self._try(Desired.model_validate_json(record.text))

    def round(self) -> None:
        """Judge the newest message, and report where anything changed."""
        with self._lock:
            inbound, self._latest = self._latest, None
        if inbound is not None:
            self._take(inbound)
        fields = self.report()
        if fields != self._reported and self._outlet.report(fields):
            self._reported = fields

    def _take(self, inbound: Inbound) -> None:
        if not inbound.payload:  # the retained message was deleted; only a signed newer version withdraws anything
            inbound.acknowledge()
            return
        wanted = self._judge(inbound)
        inbound.acknowledge()
        if isinstance(wanted, Desired):
            _log.info("desired state", ver=wanted.ver)
            self._try(wanted)
        elif wanted is not None and self._refused != inbound.payload:  # retained, it comes with every connection
            self._refused = inbound.payload if wanted.code != "storage" else None
            self._outlet.refused(wanted)

    def _judge(self, inbound: Inbound) -> Desired | Refusal | None:
        """A newer state, on disk as pending; None where it is the one that is known."""
        try:
            document, text = envelope.opened(inbound.payload, self._keys)
            wanted = yaml_files.validate(Document(document, {}), Desired, "desired")
        except SignatureRefused as refused:
            return Refusal(refused.code, refused.message, None, "desired")
        except ConfigError as error:
            problems = "; ".join(p.text().removeprefix("desired: ") for p in problems_of(error)[:8])
            return Refusal("invalid", problems, _version(document), "desired")
        ver, digest = str(wanted.ver), hashlib.sha256(text.encode()).hexdigest()
        if (wanted.tenant, wanted.board) != (self._topics.tenant, self._topics.board):
            message = f"for {wanted.tenant}/{wanted.board}; this is {self._topics.tenant}/{self._topics.board}"
            return Refusal("wrong_board", message, ver, "desired")
        if wanted.ver < self.record.ver:
            message = f"version {ver} is older than {self.record.ver}; give the old content a new version"
            return Refusal("old_version", message, ver, "desired")
        if wanted.ver == self.record.ver:
            if digest == self.record.digest:
                return None
            return Refusal("version_reused", f"version {ver} said something else before", ver, "desired")
        try:
            fresh = {"ver": wanted.ver, "digest": digest, "status": "pending", "attempts": 0, "text": text}
            self._write(self.record.model_copy(update={**fresh, "error": None, "keys": {}}))
        except StorageError as error:
            return Refusal("storage", error.message, ver, "desired")
        return wanted

    def _try(self, wanted: Desired) -> None:
        self._save(attempts=self.record.attempts + 1)
        self._outlet.report(self.report())
        self._settled(self._applied(wanted), wanted)

    def _settled(self, outcome: Applied, wanted: Desired | None) -> None:
        """Keep it, or say why not; what was in force then still is."""
        if outcome.error is None and wanted is not None:
            self.in_force = wanted
            changes: dict[str, Any] = {"status": "applied", "kept": self.record.text, "kept_ver": wanted.ver}
        else:
            changes = {"status": "rejected", "error": outcome.error}
        self._save(text=None, keys=_plain(outcome), **changes)
        _log.info("desired state settled", ver=self.record.ver, status=self.record.status, cause=self.record.error)
        fields = {"ver": self.record.ver, "status": self.record.status, "digest": self.record.digest}
        if self.record.error is not None:
            fields["message"] = self.record.error
        self._outlet.event(fields)

    def _applied(self, wanted: Desired) -> Applied:
        """The outcome of applying it. A bug in there is one, too: it must not end this thread and with it the agent."""
        run = Run(self._clock, LIMIT_S, self._stopping, lambda _text, _share: None)
        try:
            return self._apply(wanted, run)
        except Interrupted:
            raise
        except Exception as error:  # noqa: BLE001  (root of what a desired state does)
            _log.exception("desired state failed", ver=wanted.ver)
            return Applied(f"{type(error).__name__}: {error}")

    def _save(self, **changes: Any) -> None:
        """Remember; where the disk refuses, the next start tries anew what was being tried."""
        made = self.record.model_copy(update=changes)
        try:
            self._write(made)
        except StorageError as error:
            _log.warning("desired state not remembered", cause=error.message)
            self.record = made

    def _write(self, record: Record) -> None:
        state_file.write_json(self._path, record.model_dump(mode="json"))
        self.record = record

    def report(self) -> dict[str, Any]:
        """The reported state, without time stamps."""
        record = self.record
        fields: dict[str, Any] = {
            "des_ver": record.ver, "status": record.status, "err": record.error, "digest": record.digest,
            "in_force_ver": self.in_force.ver if self.in_force else None, "keys": record.keys, "doc": self._facts(),
        }  # fmt: skip
        return json.loads(json.dumps(fields))  # type: ignore[no-any-return]  # a copy in wire form, to compare later


def _plain(outcome: Applied) -> dict[str, dict[str, Any]]:
    return {key: dict(result) for key, result in outcome.keys.items()}


def _version(document: Any) -> str | None:
    value = document.get("ver") if isinstance(document, dict) else None
    return str(value) if isinstance(value, int) else None
