"""Journal: every sample of an evaluation on disk as it comes, so that a killed run goes on where it was.

What is there can be read without a server, also while the run goes on: `recorded`.
"""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import threading
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from agent.errors import BadInput, StorageError
from agent.evaluation.questions import line as checked
from agent.evaluation.questions.endpoint import Drawn

HEADER = "header"
FILE = "samples.jsonl"
MAX_BYTES = 2 * 2**30
DIGEST = "questions_sha256"
LATER = (DIGEST, "url", "mode")
"""Keys that headers of earlier versions lack: a run without them is taken for the one that is asked for."""


class Samples:
    """The greedy answer and the samples of every question, in the order they were drawn."""

    def __init__(self) -> None:
        self.header: dict[str, Any] = {}
        self._drawn: dict[str, list[Drawn]] = {}
        self._sizes: dict[str, list[int]] = {}
        self.greedy: dict[str, Drawn] = {}

    def samples(self, question: str) -> list[Drawn]:
        """Samples of a question so far, in the order they were drawn."""
        return self._drawn.get(question, [])

    def batches(self, question: str, samples: int) -> list[int]:
        """Sizes of the batches that the first so many samples came in; none where they end within a batch."""
        found: list[int] = []
        for size in self._sizes.get(question, []):
            if sum(found) < samples:
                found.append(size)
        return found if sum(found) == samples else []

    def provenance(self) -> str:
        """The weakest provenance of all samples: unknown, then modelled, then measured."""
        seen = {d.provenance for drawn in self._drawn.values() for d in drawn}
        return next((p for p in ("unknown", "modelled", "measured") if p in seen), "unknown")

    def read(self, path: Path, lines: Iterable[bytes]) -> None:
        """Take the lines of a file. Raises BadInput for one that is no line of an evaluation."""
        for number, line in enumerate(lines, start=1):
            try:
                if number == 1:
                    self.header = checked.run_header(line)
                    continue
                batch = checked.parsed(line, checked.Batch)
                if batch.greedy and batch.question in self.greedy:
                    raise ValueError(f"question: the greedy answer of {batch.question!r} was there before")
                self._keep(batch.question, batch.drawn(), batch.greedy)
            except ValueError as error:
                raise BadInput(f"{path}:{number}: no line of an evaluation ({error})") from error

    def _keep(self, question: str, drawn: list[Drawn], greedy: bool) -> None:
        if greedy:
            self.greedy[question] = drawn[0]
        else:
            self._drawn.setdefault(question, []).extend(drawn)
            self._sizes.setdefault(question, []).append(len(drawn))


def recorded(path: Path) -> Samples:
    """The samples of a run: its folder, its samples.jsonl, or that file packed by gzip. Reads, never writes.

    Raises:
        BadInput: nothing there, too large, or no recording.
    """
    file = path / FILE if path.is_dir() else path
    raw = contents(file.parent, file.name)
    if raw is None:
        raise BadInput(f"{file}: there is no such file")
    lines = raw[: raw.rfind(b"\n") + 1].split(b"\n")[:-1]
    _once(file, lines)
    found = Samples()
    found.read(file, lines)
    if not found.header:
        raise BadInput(f"{file}: it is no recording of `qeil evaluate`, the line that says what it is of is missing")
    return found


def _once(file: Path, lines: Sequence[bytes]) -> None:
    """Raise BadInput for a line that is there twice: seconds differ, so no two batches are the same."""
    first: dict[bytes, int] = {}
    for number, line in enumerate(lines, start=1):
        if (before := first.setdefault(line, number)) != number:
            raise BadInput(f"{file}:{number}: no line of an evaluation (the same as line {before})")


def contents(folder: Path, name: str) -> bytes | None:
    """A file of a run, or the same packed by gzip; None where neither is there. Raises BadInput."""
    file = next((folder / n for n in (name, f"{name}.gz") if (folder / n).is_file()), None)
    if file is None:
        return None
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{file}: {getattr(error, 'strerror', None) or error}") from error
    if len(raw) > MAX_BYTES:
        raise BadInput(f"{file}: larger than {MAX_BYTES // 2**30} GiB")
    return raw


def opened(path: Path) -> BinaryIO:
    """The file of a run for adding to it, its folder made where it is not there; nobody else has it until it is closed.

    Raises:
        BadInput: another run has it.
        StorageError: it cannot be opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise BadInput(
                f"{path.parent}: another run is writing there; wait for it or choose another --out"
            ) from error
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    return file


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file that is open for adding; a last one cut off by a kill is taken away. Raises BadInput."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{path}: larger than {MAX_BYTES // 2**30} GiB")
        raw = path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) < len(raw):
            os.truncate(path, len(whole))
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}") from error
    return whole.split(b"\n")[:-1]


class Journal(Samples):
    """samples.jsonl of a run: a header that says what the run is, then a line per batch of samples."""

    def __init__(self, folder: Path, header: dict[str, Any]) -> None:
        super().__init__()
        self._path = folder / FILE
        self._adding = threading.Lock()
        """Questions may be drawn side by side."""
        self._file = opened(self._path)
        try:
            self._load(header)
            if not self.header:
                self._write({HEADER: header})
                self.header = header
        except BaseException:
            self._file.close()
            raise

    def add(self, question: str, drawn: list[Drawn], greedy: bool = False) -> None:
        """Keep a batch: on disk when this returns. Raises StorageError."""
        with self._adding:
            self._write({"question": question, "greedy": greedy, "samples": [asdict(d) for d in drawn]})
            self._keep(question, drawn, greedy)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, document: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(document, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror or error}; the run can be resumed") from error

    def _load(self, header: dict[str, Any]) -> None:
        """Read what is there."""
        try:
            self.read(self._path, whole_lines(self._path))
        except BadInput as error:
            raise BadInput(f"{error}; choose another --out") from error
        if self.header:
            self._same(self.header, header)

    def _same(self, there: dict[str, Any], wanted: dict[str, Any]) -> None:
        keys = [key for key in {**wanted, **there} if key in there or key not in LATER]
        differing = [key for key in keys if there.get(key) != wanted.get(key)]
        if differing == [DIGEST]:
            raise BadInput(f"{self._path.parent} holds a run of other questions: give its file, or another --out")
        if differing:
            key = next(key for key in differing if key != DIGEST)
            raise BadInput(
                f"{self._path.parent} holds a run with {key} {there.get(key)!r}, not {wanted.get(key)!r}: "
                "resume it with the same options or choose another --out"
            )
