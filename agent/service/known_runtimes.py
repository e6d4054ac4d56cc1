"""Known runtimes: what the last look at this machine's runtimes found, for starts that nothing changed since.

A look costs as much computing as half the agent's start. Imports little on purpose: it is asked before anything else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any, Final

FILE: Final = "runtimes.json"
FOLDERS: Final = (
    "dev", "dev/dri", "dev/accel", "sys/bus/usb/devices", "sys/bus/pci/devices", "opt/qeil/runtimes",
    "usr/lib/python3/dist-packages",
)  # fmt: skip
"""Whose names change with a device or a package."""
ADDED: Final = "QEIL_BACKENDS"
"""The variable with folders of backends that were added (`agent.runtimes.registry`)."""
FACTS: Final = ("proc/sys/kernel/random/boot_id", "proc/driver/nvidia/version")
MAX_BYTES: Final = 1 << 20


def stamp(root: Path = Path("/"), packages: tuple[str, ...] | None = None) -> str:
    """What the runtimes found depend on, as a checksum: this boot, the interpreter, packages, devices, variables.

    packages: folders of packages; default: those that this interpreter imports from.
    """
    looked = hashlib.sha256(f"{sys.executable} {sys.version}".encode())
    for folder in FOLDERS:
        with contextlib.suppress(OSError):
            looked.update("\0".join((folder, *sorted(item.name for item in (root / folder).iterdir()))).encode())
    for fact in FACTS:
        with contextlib.suppress(OSError):
            looked.update((root / fact).read_bytes())
    added = [folder for folder in os.environ.get(ADDED, "").split(":") if folder]
    for folder in (*(sys.path if packages is None else packages), *added):
        with contextlib.suppress(OSError):  # a package that is added, replaced or taken away changes its folder
            looked.update(f"\0{folder} {Path(folder).stat().st_mtime_ns}".encode())
    for name in sorted(os.environ):
        if name.endswith("PATH") or name == ADDED:
            looked.update(f"\0{name}={os.environ[name]}".encode())
    return looked.hexdigest()


def take(state_dir: Path, now: str) -> dict[str, Any] | None:
    """What was found when the stamp was the same; None where something changed, or nothing was kept or can be read.

    It is taken away: after a start that came to nothing, whyever, the next one looks again.
    """
    path = state_dir / FILE
    try:
        with path.open("rb") as stream:
            kept = json.loads(stream.read(MAX_BYTES))
        path.unlink()
    except (OSError, ValueError):
        return None
    if not isinstance(kept, dict) or kept.get("stamp") != now or not isinstance(kept.get("found"), dict):
        return None
    return dict(kept["found"])
