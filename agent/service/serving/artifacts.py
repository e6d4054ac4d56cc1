"""Artifacts: model files as they lie on disk – format, digest, and the workload read from the graph (cached)."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import field
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError

from agent.control import model_guard
from agent.control.model_guard import ModelFacts
from agent.errors import ModelLoadFailed, StorageError
from agent.records import record
from agent.runtimes import registry
from agent.schema.guard import ModelGuard
from agent.schema.workload import Workload
from agent.service.serving.admitted import Stamp, read_whole
from agent.storage import state_file
from agent.storage.state_file import StorageFull
from agent.workload import file_facts
from agent.workload.examine import Examined, examine_in_child
from agent.workload.inspect import inspect_in_child
from agent.workload.read_ahead import DIGITS, MOST_BYTES, ReadAhead

_log = structlog.get_logger("artifacts")

INSPECT_TIMEOUT_S = 120.0
_CACHE_VERSION = 3
MAX_MODEL_BYTES = 2**31
"""A protobuf or FlatBuffer cannot be longer."""


@record(frozen=True)
class Artifact:
    """A model file."""

    path: Path
    format: str
    digest: str
    stamp: Stamp | None = field(default=None, compare=False)
    """Of the file when it was hashed."""


def open_artifact(path: Path) -> Artifact:
    """Format by suffix, digest by content; ModelLoadFailed with the reason in one line."""
    backend = registry.of_file(path)
    if backend is None:
        raise ModelLoadFailed(f"{path}: expected a {registry.endings()} file")
    try:
        kind = path.stat()  # a pipe or a device would be read for ever
        if not stat.S_ISREG(kind.st_mode):
            raise ModelLoadFailed(f"{path}: expected a {registry.endings()} file, this is no regular file")
        if kind.st_size > MAX_MODEL_BYTES:
            raise ModelLoadFailed(
                f"{path}: {kind.st_size / 1e9:.1f} GB in one file; a graph ends at 2 GB, more weights are external data"
            )
        with path.open("rb") as stream:
            digest, stamp = read_whole(stream)
    except OSError as error:
        raise ModelLoadFailed(f"{path}: {error.strerror or error}") from error
    return Artifact(path, backend.format, digest, stamp)


def read_once(artifact: Artifact, cache_dir: Path, apart: Path | None) -> None:
    """Fill the caches that `workload_of` and `facts_of` ask, by one child process where something is missing.

    apart: folder for the weights of the file (`examine.put_apart`). What cannot be read is told by those two.
    """
    facts, workload = _facts_file(artifact, cache_dir), _workload_file(artifact, cache_dir)
    if facts.is_file() and workload.is_file() and (apart is None or apart.is_dir()):
        return
    try:
        seen = examine_in_child(artifact.path, artifact.format, artifact.digest, INSPECT_TIMEOUT_S, apart)
    except ModelLoadFailed:
        return
    _keep(artifact, cache_dir, seen)


def keep_ahead(paths: Iterable[Path], cache_dir: Path, ahead: ReadAhead) -> None:
    """Fill the same caches with what was read ahead of these files."""
    for path in paths:
        with suppress(ModelLoadFailed, StorageError, OSError):  # told by whoever reads it in the usual way
            if path.stat().st_size <= MOST_BYTES:
                artifact = open_artifact(path)
                seen = ahead.take(artifact.digest, INSPECT_TIMEOUT_S)
                if seen is not None:
                    _keep(artifact, cache_dir, seen)


def _keep(artifact: Artifact, cache_dir: Path, seen: Examined) -> None:
    _cache(_facts_file(artifact, cache_dir), file_facts.to_json(seen.facts))
    if seen.workload is not None:
        document = seen.workload.model_copy(update={"digest": artifact.digest}).model_dump(mode="json")
        _cache(_workload_file(artifact, cache_dir), document)


def _cache(path: Path, document: Any) -> None:
    """Keep what was read of a file; on a full disk it is read again when it is asked for."""
    try:
        state_file.write_json(path, document)
    except StorageFull as error:
        _log.warning("not remembered what was read of a model", cause=error.message)


def workload_of(artifact: Artifact, name: str, cache_dir: Path | None) -> Workload:
    """The forward workload of the graph at default sizes; read in a child process once per digest."""
    cached = _workload_file(artifact, cache_dir) if cache_dir else None
    if cached is not None and cached.is_file():
        try:
            return Workload.model_validate(json.loads(cached.read_text())).model_copy(update={"model": name})
        except (OSError, ValueError, ValidationError):
            pass  # a damaged cache entry is rebuilt below
    workload = inspect_in_child(artifact.path, artifact.format, {}, INSPECT_TIMEOUT_S)[0]
    workload = workload.model_copy(update={"model": name, "digest": artifact.digest})
    if cached is not None:
        _cache(cached, workload.model_dump(mode="json"))
    return workload


def check_guard(artifact: Artifact, limits: ModelGuard, cache_dir: Path | None) -> tuple[str, ...]:
    """What the policy's guard only flags about a file. ModelLoadFailed with the reason where it may not be served.

    Also where its weights are not beside it, in one line instead of what each runtime makes of that.
    """
    facts = facts_of(artifact, cache_dir)
    verdict = model_guard.judge(facts, limits)
    if verdict.action in {"reject", "quarantine"}:
        word = "quarantined" if verdict.action == "quarantine" else "refused"
        raise ModelLoadFailed(f"{artifact.path}: {word} by the policy's guard: {verdict.sentence}")
    check_weights(artifact.path, facts)
    return tuple(f.sentence for f in verdict.findings)


def check_weights(path: Path, facts: ModelFacts) -> None:
    """ModelLoadFailed where weights beside the file are missing or cut off.

    Looked at every time: they may come, or go, while the file stays as it is.
    """
    for name, least_bytes in facts.beside:
        try:
            size_bytes = (path.parent / name).stat().st_size
        except OSError as error:
            why = error.strerror or str(error)
            raise ModelLoadFailed(f"{path}: its weights are in {name!r}: {why}; put that file beside it") from error
        if size_bytes < least_bytes:
            raise ModelLoadFailed(
                f"{path}: its weights take {least_bytes} bytes of {name!r}, which has {size_bytes}; copy it again"
            )


def facts_of(artifact: Artifact, cache_dir: Path | None) -> ModelFacts:
    """Facts of the file; read in a child process once per digest and folder."""
    cached = _facts_file(artifact, cache_dir) if cache_dir else None
    if cached is not None and cached.is_file():
        try:
            return file_facts.from_json(json.loads(cached.read_text()), artifact.digest)
        except (OSError, ValueError, KeyError, TypeError):
            pass  # a damaged cache entry is rebuilt below
    facts = file_facts.facts_in_child(artifact.path, artifact.format, artifact.digest)
    if cached is not None:
        _cache(cached, file_facts.to_json(facts))
    return facts


def _workload_file(artifact: Artifact, cache_dir: Path) -> Path:
    return cache_dir / f"{artifact.digest[:DIGITS]}.v{_CACHE_VERSION}.json"


def _facts_file(artifact: Artifact, cache_dir: Path) -> Path:
    return cache_dir / f"{artifact.digest[:DIGITS]}-{_place(artifact.path)}.facts.json"


def _place(path: Path) -> str:
    """Where a file lies decides which weights beside it are meant."""
    return hashlib.sha256(str(path.parent).encode()).hexdigest()[:8]
