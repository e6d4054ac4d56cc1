"""Share: finds policies, device profiles and scenarios by name – the owner's copies first, then what was shipped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from agent.errors import ConfigError
from agent.schema.nearest import listed
from agent.storage.schema_problems import closest
from agent.storage.yaml_files import expanded, names_a_file

OWNER_DIR = Path("/etc/qeil")
SYSTEM_DIR = Path("/usr/share/qeil")
_PACKAGE = Path(__file__).resolve().parent.parent

Collection = Literal["policies", "device_profiles", "scenarios", "scenarios/boards"]


def roots() -> tuple[Path, ...]:
    """Folders that may hold the collections, the first one wins: owner, checkout, wheel, system."""
    return (OWNER_DIR, _PACKAGE.parent, _PACKAGE / "share", SYSTEM_DIR)


def list_files(collection: Collection, places: Sequence[Path] | None = None) -> dict[str, Path]:
    """Name → file of everything in the collection, by name; a folder that cannot be read counts as empty."""
    found: dict[str, Path] = {}
    for root in roots() if places is None else places:
        folder = root / collection
        if not folder.is_dir():
            continue
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def find_policy(name_or_path: str, places: Sequence[Path] | None = None) -> Path:
    """File of a policy. Raises ConfigError for an unknown name, with the closest one."""
    return _find("policies", "policy", name_or_path, places)


def find_profile(name_or_path: str, places: Sequence[Path] | None = None) -> Path:
    """File of a device profile. Raises ConfigError for an unknown name, with the closest one."""
    return _find("device_profiles", "device profile", name_or_path, places)


def find_scenario(name_or_path: str, places: Sequence[Path] | None = None) -> Path:
    """File of a scenario. Raises ConfigError for an unknown name, with the closest one."""
    return _find("scenarios", "scenario", name_or_path, places)


def find_simulated_board(name_or_path: str, places: Sequence[Path] | None = None) -> Path:
    """File of a simulated board. Raises ConfigError for an unknown name, with the closest one."""
    return _find("scenarios/boards", "simulated board", name_or_path, places)


def list_profiles(places: Sequence[Path] | None = None) -> dict[str, Path]:
    """Name → file of every device profile."""
    return list_files("device_profiles", places)


def list_policies(places: Sequence[Path] | None = None) -> dict[str, Path]:
    """Name → file of every policy."""
    return list_files("policies", places)


def _find(collection: Collection, noun: str, name_or_path: str, places: Sequence[Path] | None) -> Path:
    if names_a_file(name_or_path):
        path = expanded(Path(name_or_path))
        if not path.is_file():
            raise ConfigError(f"{path}: there is no such {noun} file")
        return path
    known = list_files(collection, places)
    if name_or_path in known:
        return known[name_or_path]
    near = closest(name_or_path, list(known))
    hint = f" (did you mean {near}?)" if near else ""
    names = listed(name_or_path, known)
    raise ConfigError(f"there is no {noun} {name_or_path!r}{hint}; {names}; or give the path of a file")
