"""Policy watch: notices that the policy file changed and reads it; the last good one stays where it cannot be used."""

from __future__ import annotations

from pathlib import Path

from agent.errors import ConfigError
from agent.records import record
from agent.schema.policy import Policy
from agent.storage import yaml_files


@record(frozen=True)
class PolicyEdit:
    """A changed file: a policy, or the reason why it is none."""

    policy: Policy | None
    error: str | None


class PolicyWatch:
    """Polled by the sampler; a file that is being written shows up as one or two edits."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen = self._stamp()

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            stat = self.path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def poll(self, force: bool = False) -> PolicyEdit | None:
        """The edit since the last poll, None if there was none; `force` reads the file in any case (SIGHUP)."""
        stamp = self._stamp()
        if stamp == self._seen and not force:
            return None
        self._seen = stamp
        if stamp is None:
            return PolicyEdit(None, f"{self.path}: the file is gone")
        try:
            return PolicyEdit(yaml_files.load_policy(self.path), None)
        except ConfigError as error:
            return PolicyEdit(None, error.message)
