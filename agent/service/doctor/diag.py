"""Diag: one bounded tar.gz in the state folder with what helps to find a fault, and no secrets."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import sys
import tarfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from agent import __version__
from agent.errors import QeilError
from agent.ports import OutboxRow
from agent.records import record
from agent.schema.policy import Policy
from agent.schema.settings import Settings
from agent.schema.snapshot import AgentSnapshot
from agent.service.doctor import diag_runs
from agent.service.doctor.redaction import redacted, redacted_text
from agent.storage.spool_file import recent_rows
from agent.storage.state_file import unusable

FOLDER = "diag"
MAX_PART_BYTES, MAX_BYTES = 512 * 1024, 4 * 1024 * 1024
KEPT = 3
PATIENCE = diag_runs.Patience()
OUTBOX_ROWS = 200
_PROC = ("meminfo", "loadavg", "uptime", "version", "self/status", "self/limits", "mounts")
_STATE_FILES = ("calibration.json", "boot.json", "last-good-policy.json")


@record(frozen=True)
class Bundle:
    """What was made. `missing` says what could not be read and why."""

    path: Path
    size_bytes: int
    sha256: str
    files: tuple[str, ...]
    missing: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For results."""
        return {**asdict(self), "path": str(self.path), "files": list(self.files), "missing": list(self.missing)}


def collect(
    settings: Settings,
    wall_s: float,
    status: AgentSnapshot | dict[str, Any] | None,
    policy: Policy | None,
    recent: Callable[[int], Sequence[OutboxRow]] | None = None,
    config: Path | None = None,
    patience: diag_runs.Patience = PATIENCE,
) -> Bundle:
    """Write the bundle and drop the oldest beyond KEPT. StorageError if the state folder takes nothing.

    `status` is the agent's own snapshot, what it answered from outside, or None where it does not answer. `recent(n)`
    are the outbox's newest rows where this is the agent's process, which must not open its file a second time.
    `config` is the settings' file for the doctor, whose canaries stay away from lanes that serve.
    What takes longer than `patience` is left out and named among `missing`.
    """
    parts: dict[str, Callable[[], str]] = {
        "journal.txt": lambda: diag_runs.journal(patience),
        "doctor.json": lambda: diag_runs.doctor(config, canary=status is None, patience=patience),
        "about.json": lambda: _pretty(_about(wall_s)),
        "settings.json": lambda: _pretty(redacted(settings.model_dump(mode="json"))),
        "outbox.json": lambda: _pretty(_outbox(settings.state_dir, recent)),
        "state-folder.txt": lambda: _listing(settings.state_dir),
        **{f"proc/{name.replace('/', '-')}.txt": _reader(Path("/proc") / name) for name in _PROC},
        **{f"state/{name}": _reader(settings.state_dir / name) for name in _STATE_FILES},
    }
    if isinstance(status, AgentSnapshot):
        parts["status.json"] = lambda: _pretty(redacted(asdict(status)))
        parts["threads.txt"] = _threads
    elif status is not None:
        parts["status.json"] = lambda: _pretty(redacted(status))
    if policy is not None:
        parts["policy.json"] = lambda: _pretty(policy.model_dump(mode="json"))
    contents, missing = _gather(parts)
    return _write(settings.state_dir / FOLDER, contents, missing, wall_s)


def _gather(parts: dict[str, Callable[[], str]]) -> tuple[dict[str, bytes], tuple[str, ...]]:
    contents: dict[str, bytes] = {}
    missing = []
    room = MAX_BYTES
    for name, read in sorted(parts.items()):
        try:
            data = read().encode(errors="replace")
        except (OSError, QeilError) as error:
            missing.append(f"{name}: {_why(name, error)}")
            continue
        if len(data) > MAX_PART_BYTES:
            missing.append(f"{name}: all but the last {MAX_PART_BYTES} of {len(data)} bytes")
            data = data[-MAX_PART_BYTES:]
        if len(data) > room:
            missing.append(f"{name}: no room left in the bundle")
            continue
        room -= len(data)
        contents[name] = data
    contents["missing.txt"] = "\n".join(missing).encode()
    return contents, tuple(missing)


def _why(name: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "this board is not calibrated (qeil calibrate)" if name == "state/calibration.json" else "not there"
    return str(error)


def _write(folder: Path, contents: dict[str, bytes], missing: tuple[str, ...], wall_s: float) -> Bundle:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(wall_s))
    path = folder / f"qeil-diag-{stamp}.tar.gz"
    raw = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=raw, mode="wb", mtime=int(wall_s)) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, data in contents.items():
            entry = tarfile.TarInfo(f"qeil-diag-{stamp}/{name}")
            entry.size, entry.mtime, entry.mode = len(data), int(wall_s), 0o600
            archive.addfile(entry, io.BytesIO(data))
    data = raw.getvalue()
    partial = path.with_name(f".{path.name}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in sorted(folder.glob("qeil-diag-*.tar.gz"))[: -KEPT + 1]:
            old.unlink()
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)
    except OSError as error:
        raise unusable(error.filename or path, str(error.strerror)) from error
    return Bundle(path, len(data), hashlib.sha256(data).hexdigest(), tuple(contents), missing)


def _pretty(document: Any) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False, default=str)


def _reader(path: Path) -> Callable[[], str]:
    def read() -> str:
        with path.open("rb") as stream:
            return redacted_text(stream.read(MAX_PART_BYTES).decode(errors="replace"))

    return read


def _about(wall_s: float) -> dict[str, Any]:
    packages = {d.metadata["Name"]: d.version for d in metadata.distributions() if d.metadata["Name"]}
    return {
        "agent": __version__, "python": sys.version, "platform": platform.platform(), "machine": platform.machine(),
        "cpus": os.cpu_count(), "wall_s": wall_s, "monotonic_s": time.monotonic(),
        "packages": dict(sorted(packages.items())),
    }  # fmt: skip


def _outbox(state_dir: Path, recent: Callable[[int], Sequence[OutboxRow]] | None) -> list[dict[str, Any]]:
    rows = recent(OUTBOX_ROWS) if recent is not None else recent_rows(state_dir / "outbox.db", OUTBOX_ROWS)
    return [{"cls": r.cls, "boot": r.boot, "seq": r.seq, **redacted(r.payload)} for r in rows]


def _listing(folder: Path) -> str:
    """Names, sizes and modes, two levels deep, without contents."""
    lines = []
    for path in sorted([*folder.glob("*"), *folder.glob("*/*")])[:2000]:
        stat = path.lstat()
        lines.append(f"{stat.st_mode:o} {stat.st_size:>12} {int(stat.st_mtime)} {path.relative_to(folder)}")
    return "\n".join(lines)


def _threads() -> str:
    """Where every thread is at the moment."""
    frames = sys._current_frames()  # noqa: SLF001  (the only way to see other threads)
    return "\n".join(f"thread {number}\n{''.join(traceback.format_stack(frame))}" for number, frame in frames.items())
