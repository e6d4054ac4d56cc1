"""Journal: every sample of an evaluation on disk as it comes, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent.errors import BadInput, StorageError
from agent.evaluation.questions.endpoint import Drawn

HEADER = "header"
MAX_BYTES = 2 * 2**30


class Journal:
    """samples.jsonl of a run: a header that says what the run is, then a line per batch of samples."""

    def __init__(self, folder: Path, header: dict[str, Any]) -> None:
        self._path = folder / "samples.jsonl"
        self._drawn: dict[str, list[Drawn]] = {}
        self.greedy: dict[str, Drawn] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            found = self._load(header)
            self._file = self._path.open("ab")
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror or error}") from error
        if not found:
            self._write({HEADER: header})

    def samples(self, question: str) -> list[Drawn]:
        """Samples of a question so far, in the order they were drawn."""
        return self._drawn.get(question, [])

    def add(self, question: str, drawn: list[Drawn], greedy: bool = False) -> None:
        """Keep a batch: on disk when this returns. Raises StorageError."""
        self._write({"question": question, "greedy": greedy, "samples": [asdict(d) for d in drawn]})
        self._keep(question, drawn, greedy)

    def provenance(self) -> str:
        """The weakest provenance of all samples: unknown, then modelled, then measured."""
        seen = {d.provenance for drawn in self._drawn.values() for d in drawn}
        return next((p for p in ("unknown", "modelled", "measured") if p in seen), "unknown")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _keep(self, question: str, drawn: list[Drawn], greedy: bool) -> None:
        if greedy:
            self.greedy[question] = drawn[0]
        else:
            self._drawn.setdefault(question, []).extend(drawn)

    def _write(self, document: dict[str, Any]) -> None:
        try:
            self._file.write(json.dumps(document, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror or error}; the run can be resumed") from error

    def _load(self, header: dict[str, Any]) -> bool:
        """Read what is there; a last line cut off by a kill is taken away. Returns whether there was a header."""
        if not self._path.exists():
            return False
        if self._path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{self._path}: larger than {MAX_BYTES // 2**30} GiB")
        raw = self._path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        if len(whole) < len(raw):
            os.truncate(self._path, len(whole))
        lines = whole.split(b"\n")[:-1]
        for number, line in enumerate(lines, start=1):
            try:
                document = json.loads(line)
                if number == 1:
                    self._same(document[HEADER], header)
                    continue
                drawn = [Drawn(**d) for d in document["samples"]]
                self._keep(document["question"], drawn, bool(document["greedy"]))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise BadInput(
                    f"{self._path}:{number}: no line of an evaluation ({error}); choose another --out"
                ) from error
        return bool(lines)

    def _same(self, there: dict[str, Any], wanted: dict[str, Any]) -> None:
        differing = [key for key in {**wanted, **there} if there.get(key) != wanted.get(key)]
        if differing:
            key = differing[0]
            raise BadInput(
                f"{self._path.parent} holds a run with {key} {there.get(key)!r}, not {wanted.get(key)!r}: "
                "resume it with the same options or choose another --out"
            )
