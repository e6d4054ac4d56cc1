"""Remote: what the fleet may ask of this board, wired to the agent – present only where a broker is configured."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import structlog
from pydantic import ValidationError

from agent import __version__
from agent.errors import StorageError
from agent.mqtt.inbound import Inbound
from agent.mqtt.minisign import parse_public_key
from agent.mqtt.topics import Topics
from agent.schema.settings import MqttSettings
from agent.service import logs
from agent.service.mail import ConditionEvent
from agent.service.policy_watch import PolicyEdit
from agent.service.remote import bundle_offer, bundle_probes
from agent.service.remote.bundle_offer import Judged
from agent.service.remote.bundles import Bundles, Ties, open_bundles
from agent.service.remote.command_actions import Actions, Agent
from agent.service.remote.command_intake import CommandIntake, Refusal
from agent.service.remote.command_reports import CommandReports
from agent.service.remote.commands import Commands
from agent.service.remote.desired import FILE as DESIRED_FILE
from agent.service.remote.desired import DesiredState
from agent.service.remote.desired_apply import DesiredApplier
from agent.service.remote.reporting import Reporting
from agent.service.serving import model_store
from agent.storage.bundle_store import Record
from agent.storage.command_table import CommandTable
from agent.storage.state_file import StorageFull

TABLE_FILE = "commands.db"

_log = structlog.get_logger("remote")


class Remote:
    """Life and wiring. What cannot read its files is left out: the agent serves on and says that it is."""

    def __init__(self, mqtt: MqttSettings, board: str, boot: int, agent: Agent, reporting: Reporting) -> None:
        """StorageFull where something finds no room: nothing is begun, and another one may be made later."""
        self._agent = agent
        self._reporting = reporting
        self._topics = Topics(mqtt.tenant, board)
        self._boot = boot
        self._keys = [parse_public_key(key) for key in mqtt.trusted_keys]
        self._reports = CommandReports(
            self._topics, boot, reporting, lambda *m: reporting.send(m[0], m[1], False, m[2]), agent.clock
        )
        self._actions = Actions(replace(agent, local_policy=self.overrules_policy))
        self._applier = DesiredApplier(agent, self._actions)
        self.commands = self._make_commands()
        self.desired = self._make_desired()
        try:
            self.bundles = self._make_bundles()
        except StorageFull:
            if self.commands is not None:
                self.commands.stop()
            raise
        reporting.listen(self._request, self._connected, agent.rejections.on_event)

    def _make_commands(self) -> Commands | None:
        agent = self._agent
        try:
            table = CommandTable(agent.settings.state_dir / TABLE_FILE, agent.clock.wall_s())
        except StorageFull:
            raise
        except StorageError as error:
            self._condition("commands_unavailable", error.message, "nothing can be commanded", "repair state_dir")
            return None
        if table.recovered is not None:
            mend = "send commands that were issued before anew; delete the damaged file"
            self._condition("commands_recovered", table.recovered, "older commands are refused", mend)
        intake = CommandIntake(table, self._topics, self._keys)
        return Commands(table, intake, self._reports, self._actions.table(), agent.clock, self._reporting.renew)

    def _make_desired(self) -> DesiredState | None:
        agent = self._agent
        try:
            return DesiredState(
                agent.settings.state_dir, self._topics, self._keys, self._applier.apply, self, self._facts, agent.clock
            )
        except (StorageError, ValidationError) as error:
            cause = error.message if isinstance(error, StorageError) else f"{DESIRED_FILE} is not one of ours"
            mend = f"remove {agent.settings.state_dir / DESIRED_FILE}; the next version is then taken, whichever it is"
            self._condition("desired_unavailable", cause, "the desired state is not followed", mend)
            return None

    def _make_bundles(self) -> Bundles | None:
        agent = self._agent
        ties = Ties(
            self._judge_bundle, self._applier.again, self._taken_names, self._desired_policy,
            lambda unpacked, run: bundle_probes.failed(unpacked, agent.dispatcher, self._is_ready, run),
            self._reports.refused, self._report_bundle, lambda fields: self._record("bundle", fields), agent.unfit,
        )  # fmt: skip
        try:
            return open_bundles(agent, ties)
        except StorageFull:
            raise
        except StorageError as error:
            self._condition("bundles_unavailable", error.message, "no bundle can be taken", "repair state_dir")
            return None

    def _judge_bundle(self, payload: bytes, record: Record) -> Judged | Refusal | None:
        profile = self._agent.snapshot().agent.profile
        wall_s = self._agent.clock.wall_s()
        return bundle_offer.judge(payload, self._keys, self._topics, profile, __version__, record, wall_s)

    def _taken_names(self) -> frozenset[str]:
        return frozenset(m.name for m in model_store.configured(self._agent.settings))

    def _is_ready(self, model: str) -> bool:
        return any(m.name == model and m.state == "ready" for m in self._agent.snapshot().models)

    def _report_bundle(self, fields: dict[str, Any]) -> bool:
        document = {"v": 1, "boot": self._boot, **self._reporting.stamp(), **fields}
        payload = json.dumps(document, separators=(",", ":")).encode()
        return self._reporting.send(self._topics.bundle_state, payload, retain=True)

    def _record(self, kind: str, fields: dict[str, Any]) -> None:
        self._reporting.record_safely(kind, fields)

    def _condition(self, kind: str, cause: str, consequence: str, mend: str) -> None:
        _log.warning(kind, cause=cause)
        self._agent.post(ConditionEvent(kind, cause, consequence, mend))

    # ------------------------------------------------------------------ from the link's thread

    def _request(self, inbound: Inbound) -> None:
        piece = self._topics.piece_of(inbound.topic)
        parts = {self._topics.desired: self.desired, self._topics.bundle: self.bundles}
        part = parts.get(inbound.topic, self.commands)
        if piece is not None and self.bundles is not None:
            self.bundles.on_piece(*piece, inbound)
            return
        if part is not None and piece is None:
            part.on_request(inbound)
            return
        inbound.acknowledge()
        self._reports.refused(Refusal("storage", "this board cannot keep what it is told; its conditions say why"))

    def _connected(self) -> None:
        if self.desired is not None:
            self.desired.on_connected()
        if self.bundles is not None:
            self.bundles.on_connected()

    # ------------------------------------------------------------------ what the desired state changes here

    def window_s(self) -> float | None:
        """Telemetry window that the fleet wants, None where it is the policy's."""
        return self._applier.window_s

    def overrules_policy(self) -> str | None:
        """Why the policy file is not in force."""
        return self._desired_policy() or self._agent.layer.overrules_policy()

    def _desired_policy(self) -> str | None:
        return None if self.desired is None else self.desired.overrules_policy()

    def edited(self, edit: PolicyEdit) -> None:
        """The policy file changed: it counts unless the fleet sets the policy."""
        overruled = self.overrules_policy()
        if overruled is None:
            self._agent.post(ConditionEvent("policy_overruled", None))
            self._agent.models.edited(edit)
        else:
            mend = "change the desired state, or offer a bundle without a policy"
            self._condition("policy_overruled", overruled, "the changed policy file is not in force", mend)

    # ------------------------------------------------------------------ the desired state's outlet

    def refused(self, refusal: Refusal) -> None:
        """A message that was not taken."""
        self._reports.refused(refusal)

    def report(self, fields: dict[str, Any]) -> bool:
        """The retained reported state."""
        document = {"v": 1, "boot": self._boot, **self._reporting.stamp(), **fields}
        payload = json.dumps(document, separators=(",", ":")).encode()
        return self._reporting.send(self._topics.reported, payload, retain=True)

    def event(self, fields: dict[str, Any]) -> None:
        """What became of a version."""
        self._record("desired", fields)

    def _facts(self) -> dict[str, Any]:
        snapshot, policy = self._agent.snapshot(), self._agent.in_force()
        return {
            "policy": policy.policy.name, "policy_digest": policy.digest,
            "models": {m.name: m.state for m in snapshot.models}, "log_level": logs.level(),
            "window_s": self._applier.window_s or policy.policy.telemetry.window_s,
        }  # fmt: skip

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Go on with what was left, then with what comes."""
        for part in self._parts():
            part.start()

    def alive(self) -> bool:
        """Whether its threads run."""
        return all(part.alive() for part in self._parts())

    def stop(self) -> None:
        """End."""
        for part in self._parts():
            part.stop()

    def _parts(self) -> tuple[Commands | DesiredState | Bundles, ...]:
        return tuple(part for part in (self.commands, self.bundles, self.desired) if part is not None)
