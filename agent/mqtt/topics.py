"""Topics: the tree under qeil/v1/TENANT/BOARD, what a board publishes (up) and what it listens to (down)."""

from __future__ import annotations

from dataclasses import dataclass

ROOT = "qeil/v1"


@dataclass(frozen=True)
class Topics:
    """Topics of one board."""

    tenant: str
    board: str

    @property
    def _base(self) -> str:
        return f"{ROOT}/{self.tenant}/{self.board}"

    @property
    def state(self) -> str:
        """Retained: birth message and last will."""
        return f"{self._base}/up/state"

    def rows(self, cls: str) -> str:
        """Telemetry (`tlm`), events (`evt`) and gaps (`gap`)."""
        return f"{self._base}/up/{cls}/agent" if cls != "gap" else f"{self._base}/up/gap"

    @property
    def ack(self) -> str:
        """The backend's acknowledgement after its commit."""
        return f"{self._base}/down/ack"
