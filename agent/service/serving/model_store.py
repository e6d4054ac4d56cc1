"""Model store: the models kept in the state folder, beside those that the settings name."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from agent.errors import BadInput, StorageError
from agent.llm.sizes import is_decoder_folder
from agent.runtimes import registry
from agent.schema.settings import ModelEntry, Settings

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def folder(state_dir: Path) -> Path:
    """Where the store is."""
    return state_dir / "models"


def entries(state_dir: Path) -> tuple[ModelEntry, ...]:
    """Every model in the store; a file whose name is no model name is left alone."""
    store = folder(state_dir)
    if not store.is_dir():
        return ()
    files = sorted(p for p in store.iterdir() if p.suffix in registry.suffixes() and _NAME.fullmatch(p.stem))
    folders = sorted(p for p in store.iterdir() if _NAME.fullmatch(p.name) and is_decoder_folder(p))
    found = [ModelEntry(name=p.stem, path=p) for p in files]
    return (*found, *(ModelEntry(name=p.name, path=p) for p in folders if p.name not in {f.name for f in found}))


def configured(settings: Settings) -> tuple[ModelEntry, ...]:
    """The settings' models, then those of the store that they do not already name."""
    named = {m.name for m in settings.models}
    return (*settings.models, *(m for m in entries(settings.state_dir) if m.name not in named))


def tensor_models(settings: Settings) -> tuple[ModelEntry, ...]:
    """Those that take tensors and are placed by the planner."""
    return tuple(entry for entry in configured(settings) if not entry.path.is_dir())


def language_models(settings: Settings) -> tuple[ModelEntry, ...]:
    """Those that write text: decoder folders."""
    return tuple(entry for entry in configured(settings) if entry.path.is_dir())


def add(source: Path, name: str | None, state_dir: Path) -> ModelEntry:
    """Copy a model file into the store, whole or not at all. BadInput for a bad name or type, StorageError else."""
    name = name or (source.name if source.is_dir() else source.stem).lower().replace(" ", "-")
    decoder = is_decoder_folder(source)
    if not decoder and source.suffix not in registry.suffixes():
        raise BadInput(f"{source}: expected a {registry.endings()} file, or a decoder folder")
    if not _NAME.fullmatch(name):
        raise BadInput(f"{name!r} is no model name: use a–z, 0–9, dot, dash, underscore (--name)")
    target = folder(state_dir) / (name if decoder else f"{name}{source.suffix}")
    if decoder and target.exists():
        raise BadInput(f"{target}: there is a model of that name already; remove the folder or give another --name")
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if decoder:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(source, partial)
        else:
            shutil.copyfile(source, partial)
            with partial.open("rb") as stream:
                os.fsync(stream.fileno())
        partial.replace(target)
    except (OSError, shutil.Error) as error:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
        if not isinstance(error, OSError) or error.strerror is None:
            raise StorageError(f"{target}: {error}") from error
        raise StorageError(f"{error.filename or target}: {error.strerror}") from error
    return ModelEntry(name=name, path=target)
