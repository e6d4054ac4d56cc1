"""Profile file: writes a device profile as YAML that explains itself and that `qeil check` accepts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from agent.errors import StorageError
from agent.schema.device import DeviceProfile

COMMENTS = {
    "version": "Version of this file's layout.",
    "name": "Name in settings, telemetry and calibration.",
    "match": "How detection recognises the board; every pattern given must match (* and ? as in the shell).",
    "price_usd": "For performance per price and watt.",
    "idle_power_w": "Whole board at the wall with nothing running.",
    "memory_domains": "Pools of memory; accelerators that name the same one share its capacity and bandwidth.",
    "accelerators": "Units that models can be placed on, each with the ways (runtimes) to use it.",
    "links": "Paths a tensor takes between memory domains or to an accelerator.",
    "zones": "Temperature sensors, found by type or label. critical: absent or stale counts as hot.",
    "rails": "Power sensors and the accelerators they cover. Without one, joules are modelled.",
    "thermal": "Lumped network of heat capacities and conductances, until the sensors have taught a better one.",
}


def profile_yaml(profile: DeviceProfile, notes: Sequence[str]) -> str:
    """The profile as commented YAML; `notes` become part of the header."""
    header = [
        f"{profile.name} – {profile.title}",
        "",
        "Written by `qeil detect`. Every number says where it comes from: measured, fitted, published, datasheet or",
        "assumed. Edit freely, check with `qeil check FILE`, and name the file in the settings (profile: PATH).",
        *(("", "What detection noticed:") if notes else ()),
        *(f"- {' '.join(note.split())}" for note in notes),
    ]
    data: dict[str, Any] = profile.model_dump(mode="json", exclude_defaults=True)
    for key in ("zones", "rails"):
        data.setdefault(key, [])
    parts = ["\n".join(f"# {line}".rstrip() for line in header)]
    for key, value in data.items():
        comment = f"# {COMMENTS[key]}\n" if key in COMMENTS else ""
        parts.append(comment + yaml.safe_dump({key: value}, sort_keys=False, allow_unicode=True, width=110).rstrip())
    return "\n\n".join(parts) + "\n"


def write_profile(path: Path, profile: DeviceProfile, notes: Sequence[str]) -> None:
    """Write through a temporary file, so that a full disk leaves the old one. Raises StorageError."""
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_text(profile_yaml(profile, notes), encoding="utf-8")
        os.replace(temporary, path)  # noqa: PTH105  (same as Path.replace, said as what it is: atomic)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(f"{path} cannot be written: {error.strerror or error}; choose another place") from error
