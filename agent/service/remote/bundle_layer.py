"""Bundle layer: what a bundle puts between the board's own files and the fleet's desired state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.schema.settings import ModelEntry

if TYPE_CHECKING:
    from agent.service.remote.bundle_offer import Content


class BundleLayer:
    """Replaced as a whole by one assignment; read from any thread."""

    def __init__(self) -> None:
        self.content: Content | None = None

    @property
    def policy(self) -> Policy | None:
        """The policy in place of the board's policy file, where the bundle has one."""
        return self.content.policy if self.content is not None else None

    @property
    def profile(self) -> DeviceProfile | None:
        """The figures in place of the board's own, where the bundle has some."""
        return self.content.profile if self.content is not None else None

    @property
    def models(self) -> tuple[ModelEntry, ...]:
        """Models beside those of the settings and the store."""
        return self.content.models if self.content is not None else ()

    def overrules_policy(self) -> str | None:
        """Why the policy file is not in force; None where it is."""
        found = self.content
        if found is None or found.policy is None:
            return None
        return f"the bundle {found.name} (version {found.ver}) sets the policy"
