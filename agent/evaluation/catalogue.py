"""Catalogue: where the shipped tables of hardware, architectures and fitted coefficients are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.errors import ConfigError
from agent.evaluation.architectures import Architectures, load_architectures
from agent.evaluation.hardware import Hardware, load_hardware
from agent.storage import share

FOLDER = Path("device_profiles") / "fitted"


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What rows are mapped with."""

    hardware: Hardware
    architectures: Architectures


def find(name: str, places: Sequence[Path] | None = None) -> Path:
    """File of the shipped data, the owner's copy first. Raises ConfigError where no copy is installed."""
    for root in share.roots() if places is None else places:
        path = root / FOLDER / name
        if path.is_file():
            return path
    raise ConfigError(f"{FOLDER / name} is not installed; reinstall the package, or run from a checkout")


def load_catalogue() -> Catalogue:
    """The shipped hardware and architectures. Raises ConfigError."""
    return Catalogue(load_hardware(find("hardware.yaml")), load_architectures(find("architectures.yaml")))
