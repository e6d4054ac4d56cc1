"""File kinds: which schema a kind of file has. What the agent itself never reads is imported at need."""

from __future__ import annotations

import importlib
from typing import Final, Literal, cast, get_args

from agent.schema.base import FileModel

Kind = Literal["settings", "policy", "board", "scenario", "board-scenario", "simulated-board", "fleet"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
"""What a file can be."""

_PLACES: Final[dict[Kind, tuple[str, str]]] = {
    "settings": ("settings", "Settings"), "policy": ("policy", "Policy"), "board": ("device", "DeviceProfile"),
    "scenario": ("scenario", "Scenario"), "board-scenario": ("board_scenario", "BoardScenario"),
    "simulated-board": ("simulated_board", "SimulatedBoard"), "fleet": ("fleet", "FleetSettings"),
}  # fmt: skip
"""Module below agent.schema, and the name in it."""


def schema_of(kind: Kind) -> type[FileModel]:
    """The schema of a kind of file."""
    module, name = _PLACES[kind]
    return cast("type[FileModel]", getattr(importlib.import_module(f"agent.schema.{module}"), name))
