"""Registry: the shipped backends, and those in modules named `qeil_backend_…` beside them.

Such a module is one file on Python's path (a package that pip installed, too), or in a folder that QEIL_BACKENDS names,
with an entry `BACKEND`. A file with mistakes is told and left out: it takes nothing else with it.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

from agent.errors import ConfigError
from agent.runtimes.entry import Backend
from agent.runtimes.shipped import NATIVE, SHIPPED

PREFIX: Final = "qeil_backend_"
FOLDERS: Final = "QEIL_BACKENDS"
"""Environment variable: folders with such files, a colon between two."""


def backends() -> tuple[Backend, ...]:
    """Every backend, the shipped ones first."""
    return _known()[0]


def problems() -> tuple[str, ...]:
    """Files that are no backend, one sentence each."""
    return _known()[1]


def names() -> tuple[str, ...]:
    """What a profile's `backend` may be."""
    return (*(backend.name for backend in backends()), NATIVE)


def find(name: str) -> Backend | None:
    """The backend of that name. None for `native`, which serves nothing, and for one that is not known."""
    return next((backend for backend in backends() if backend.name == name), None)


def of_format(format_: str) -> Backend | None:
    """The backend that reads files of that format."""
    return next((backend for backend in backends() if backend.format == format_), None)


def of_file(path: Path) -> Backend | None:
    """The backend that reads a file with that suffix."""
    return next((backend for backend in backends() if path.suffix.lower() in backend.suffixes), None)


def suffixes() -> tuple[str, ...]:
    """Of every model file that can be served."""
    return tuple(suffix for backend in backends() for suffix in backend.suffixes)


def endings() -> str:
    """The same for a sentence: `.onnx or .tflite`."""
    *most, last = suffixes()
    return f"{', '.join(most)} or {last}"


@lru_cache(maxsize=1)
def _known() -> tuple[tuple[Backend, ...], tuple[str, ...]]:
    found: list[Backend] = list(SHIPPED)
    wrong: list[str] = []
    for module in _modules():
        read = _read(module, found)
        if isinstance(read, Backend):
            found.append(read)
        else:
            wrong.append(f"the backend file {module} is left out: {read}")
    return tuple(found), tuple(wrong)


def _read(module: str, known: Sequence[Backend]) -> Backend | str:
    """The entry of a module, or what is wrong with it."""
    try:
        return _checked(importlib.import_module(module).BACKEND, known)
    except ConfigError as error:
        return error.message
    except (Exception, SystemExit) as error:  # noqa: BLE001 - somebody's file: whatever it does, the others serve
        return f"{type(error).__name__}: {error}"


def _checked(new: object, known: Sequence[Backend]) -> Backend:
    if not isinstance(new, Backend):
        raise ConfigError(f"BACKEND is a {type(new).__name__}, not an agent.runtimes.entry.Backend")
    for other in known:
        shared = {new.name, new.format, *new.suffixes} & {other.name, other.format, *other.suffixes}
        if shared or new.name == NATIVE:
            raise ConfigError(f"{new.name}: {', '.join(sorted(shared)) or NATIVE} is taken by {other.title}")
    return new


def _modules() -> list[str]:
    """Names of the modules, in the order of their names."""
    own = [folder for folder in os.environ.get(FOLDERS, "").split(":") if folder]
    sys.path += [folder for folder in own if folder not in sys.path]
    return sorted({name for folder in sys.path for name in _in_folder(folder or ".")})


def _in_folder(folder: str) -> list[str]:
    try:
        entries = [entry.name for entry in Path(folder).iterdir()]
    except OSError:
        return []  # a path that is none, or a zip file
    stems = (name.removesuffix(".py") for name in entries if name.startswith(PREFIX))
    return [stem for stem in stems if stem.isidentifier()]
