"""Remote: what the fleet may ask of this board, wired to the agent – present only where a broker is configured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from agent.errors import StorageError
from agent.mqtt.inbound import Inbound
from agent.mqtt.minisign import parse_public_key
from agent.mqtt.topics import Topics
from agent.schema.settings import MqttSettings
from agent.service.command_actions import Actions, Agent
from agent.service.command_intake import CommandIntake
from agent.service.command_reports import CommandReports
from agent.service.commands import Commands
from agent.service.reporting import Reporting
from agent.service.supervisor import ConditionEvent
from agent.storage.command_table import CommandTable

TABLE_FILE = "commands.db"

_log = structlog.get_logger("remote")


class Remote:
    """Life and wiring. Without a usable command table the agent serves on and says that nobody can command it."""

    def __init__(self, mqtt: MqttSettings, board: str, boot: int, agent: Agent, reporting: Reporting) -> None:
        self._agent = agent
        self._reporting = reporting
        self._topics = Topics(mqtt.tenant, board)
        self.commands: Commands | None = None
        try:
            table = CommandTable(agent.settings.state_dir / TABLE_FILE, agent.clock.wall_s())
        except StorageError as error:
            self._condition("commands_unavailable", error.message, "nothing can be commanded", "repair state_dir")
            return
        if table.recovered is not None:
            mend = "send commands that were issued before anew; delete the damaged file"
            self._condition("commands_recovered", table.recovered, "older commands are refused", mend)
        keys = [parse_public_key(key) for key in mqtt.trusted_keys]
        intake = CommandIntake(table, self._topics, keys)
        reports = CommandReports(
            self._topics, boot, reporting, lambda *m: reporting.send(m[0], m[1], False, m[2]), agent.clock
        )
        self.commands = Commands(table, intake, reports, Actions(agent).table(), agent.clock)
        reporting.listen(self._request, self._connected, self._event)

    def _condition(self, kind: str, cause: str, consequence: str, mend: str) -> None:
        _log.warning(kind, cause=cause)
        self._agent.post(ConditionEvent(kind, cause, consequence, mend))

    def _request(self, inbound: Inbound) -> None:
        if self.commands is not None:
            self.commands.on_request(inbound)

    def _connected(self) -> None:
        """Nothing to say yet."""

    def _event(self, kind: str, fields: Mapping[str, Any]) -> None:
        self._agent.rejections.on_event(kind, fields)

    def start(self) -> None:
        """Go on with what was left, then with what comes."""
        if self.commands is not None:
            self.commands.start()

    def alive(self) -> bool:
        """Whether its threads run."""
        return self.commands is None or self.commands.alive()

    def stop(self) -> None:
        """End."""
        if self.commands is not None:
            self.commands.stop()
