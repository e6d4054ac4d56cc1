"""Catalogue: where the tables of hardware and architectures and the fitted coefficients are found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent.errors import ConfigError
from agent.evaluation.architectures import Architectures, load_architectures
from agent.evaluation.hardware import Hardware, load_hardware
from agent.records import record
from agent.storage import share

TABLES = Path(__file__).resolve().parent / "data"
COEFFICIENTS = Path("device_profiles") / "fitted" / "efficiencies.json"


@record(frozen=True, slots=True)
class Catalogue:
    """What rows are mapped with."""

    hardware: Hardware
    architectures: Architectures


def find_coefficients(places: Sequence[Path] | None = None) -> Path:
    """File of the fitted coefficients, the owner's copy first. Raises ConfigError where no copy is installed."""
    for root in share.roots() if places is None else places:
        path = root / COEFFICIENTS
        if path.is_file():
            return path
    raise ConfigError(f"{COEFFICIENTS} is not installed; reinstall the package, or run from a checkout")


def load_catalogue() -> Catalogue:
    """The hardware and architectures of the package. Raises ConfigError."""
    return Catalogue(load_hardware(TABLES / "hardware.yaml"), load_architectures(TABLES / "architectures.yaml"))
