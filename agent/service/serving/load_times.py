"""Load times: what every load on every accelerator took, kept in the state folder for the next start's expectation."""

from __future__ import annotations

import threading
from dataclasses import asdict
from pathlib import Path

import structlog

from agent.backends.engine_cache import engines_in
from agent.control.load_estimate import Estimate, Subject, estimate
from agent.errors import StorageError
from agent.ports import Clock, LoadSpec
from agent.records import record
from agent.storage import state_file

_log = structlog.get_logger("models")

MOST_REMEMBERED = 256
"""Loads; beyond them the oldest is forgotten."""
FILE = "load_times.json"


@record(frozen=True)
class Loading:
    """A load under way."""

    subject: Subject
    since_s: float
    told: Estimate


class LoadTimes:
    """Thread-safe. A file that cannot be read or written costs expectations, nothing else."""

    def __init__(self, state_dir: Path, clock: Clock) -> None:
        self._path = state_dir / FILE
        self._clock = clock
        self._lock = threading.Lock()
        self._changed = False
        self._seen = self._read()

    def begin(self, accelerator: str, load: LoadSpec) -> Loading:
        """A load begins now."""
        path = load.source or load.path
        try:
            stat = path.stat()
            file, size_bytes = f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}", stat.st_size
        except OSError:
            file, size_bytes = str(path), 0
        unit = f"{accelerator}/{load.runtime.provider}"
        with self._lock:
            before = any((s.unit, s.file) == (unit, file) for s in self._seen)
            kept = before and load.engines is not None and bool(engines_in(load.engines))
            subject = Subject(unit, file, kept, size_bytes)
            return Loading(subject, self._clock.monotonic_s(), estimate(subject, self._seen))

    def end(self, loading: Loading) -> None:
        """It has succeeded now."""
        with self._lock:
            self._seen.pop(loading.subject, None)
            self._seen[loading.subject] = self._clock.monotonic_s() - loading.since_s
            while len(self._seen) > MOST_REMEMBERED:
                del self._seen[next(iter(self._seen))]
            self._changed = True

    def elapsed_s(self, loading: Loading) -> float:
        """Since it began."""
        return self._clock.monotonic_s() - loading.since_s

    def save(self) -> None:
        """Write what is new."""
        with self._lock:
            if not self._changed:
                return
            self._changed = False
            rows = [{**asdict(subject), "seconds": round(seconds, 3)} for subject, seconds in self._seen.items()]
        try:
            state_file.write_json(self._path, {"loads": rows})
        except StorageError as error:
            _log.warning("load times not kept", cause=error.message)

    def _read(self) -> dict[Subject, float]:
        try:
            document = state_file.read_json(self._path) or {"loads": []}
            return {
                Subject(str(r["unit"]), str(r["file"]), bool(r["kept"]), int(r["size_bytes"])): float(r["seconds"])
                for r in document["loads"][-MOST_REMEMBERED:]
            }
        except (StorageError, KeyError, TypeError, ValueError):
            return {}
