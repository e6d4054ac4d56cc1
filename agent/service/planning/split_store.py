"""Split store: stage models in the state folder, by what they were cut from; checked once, kept within a bound.

A folder holds the stages of one version of a model and of the runtime that checked them, with the weights they share.
Their digests are kept since they were cut: what is another file now is cut again, and a lane loads just what was cut.
What could not be cut is remembered as well, so that a plan does not try it again.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import Any

from agent.errors import ModelLoadFailed, StorageError
from agent.records import record
from agent.service.serving.admitted import Admitted, Weights, weights_of
from agent.service.serving.artifacts import Artifact
from agent.storage import state_file
from agent.workload.onnx_split import Boundary, Order, Split, split_in_child

TIMEOUT_S = 300.0
MAX_BYTES = 4 * 1024**3
"""Stage models that are kept; folders that were not used for longest go first, those in use never."""
_VERSION = 2
_SHARED = "*.bin"
"""Every file of weights in a folder of stages (`agent.workload.onnx_weights`)."""
_WEIGHTS = frozenset({".bin", ".data", ".onnx_data", ".weights"})
"""How files with a model's outside weights end, as exporters name them."""


LATER = "it has not been cut yet; that begins when the agent is ready"


class NotCutYet(ModelLoadFailed):
    """The stages are not there, and are not made now."""


@record(frozen=True)
class Stored:
    """A split and the name of its folder and boundaries, which is the same wherever the stages may be exchanged."""

    split: Split
    key: str
    files: tuple[Admitted, ...] = ()
    """Each stage's file, with the weights that they share, as they were cut."""


class SplitStore:
    """Owned by the planner's thread."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self.cuts = True
        """Whether what is not there is cut now, which takes seconds for each."""
        self._seen: dict[Path, Weights] = {}
        """Files that were read, as they were then."""

    def get(
        self, artifact: Artifact, threads: int, *, after: tuple[int, ...] = (), boundaries: tuple[Boundary, ...] = ()
    ) -> Stored:
        """The stages between those boundaries, or behind those stages of the workload; made and checked if need be.

        Raises ModelLoadFailed with the reason why it cannot be cut there, StorageError where it cannot be written,
        NotCutYet where nothing is cut now.
        """
        folder = self._folder / _name(artifact, threads)
        wanted = json.dumps({"after": after, "boundaries": boundaries})
        name = hashlib.sha256(wanted.encode()).hexdigest()[:12]
        manifest = folder / f"{name}.json"
        known = self._known(manifest)
        if known is None:
            if not self.cuts:
                raise NotCutYet(LATER)
            known = self._make(artifact, folder, name, threads, after, boundaries)
            state_file.write_json(manifest, known)
        if "refused" in known:
            raise ModelLoadFailed(known["refused"])
        _touch(folder)
        made = Split.from_json(known["split"])
        cut = hashlib.sha256(json.dumps(made.boundaries).encode()).hexdigest()[:12]
        return Stored(made, f"{folder.name[:12]}-{cut}", self._admitted(made))

    def _known(self, manifest: Path) -> dict[str, Any] | None:
        """The manifest of an earlier cut whose files are all there; anything else is made again."""
        try:
            document = state_file.read_json(manifest)
        except StorageError:
            return None
        if not isinstance(document, dict) or document.get("version") != _VERSION:
            return None
        if isinstance(document.get("refused"), str):
            return document
        try:
            made, kept = Split.from_json(document["split"]), dict(document["files"])
        except (KeyError, TypeError, ValueError):
            return None
        return document if self._as_cut(made, kept) else None

    def _as_cut(self, made: Split, kept: dict[str, str]) -> bool:
        """Whether all files of a split are what they were; the others are removed, to be made anew."""
        try:
            found = self._read(made)
        except ModelLoadFailed:
            return False
        others = [file for file in found if kept.get(file.path.name) != file.digest]
        for file in others:
            file.path.unlink(missing_ok=True)
        return not others and len(found) == len(kept)

    def _read(self, made: Split) -> tuple[Weights, ...]:
        """The stages of a split in order, then the weights beside them. ModelLoadFailed where one is not there."""
        first = made.stages[0].path
        names = [*(stage.path.name for stage in made.stages), *sorted(p.name for p in first.parent.glob(_SHARED))]
        return weights_of(first, names, self._seen)

    def _admitted(self, made: Split) -> tuple[Admitted, ...]:
        files, count = self._read(made), len(made.stages)
        return tuple(Admitted(s.path, s.digest, s.stamp, weights=files[count:]) for s in files[:count])

    def _make(
        self, artifact: Artifact, folder: Path, name: str, threads: int, after: tuple[int, ...],
        boundaries: tuple[Boundary, ...],
    ) -> dict[str, Any]:  # fmt: skip
        count = len(after or boundaries) + 1
        names = tuple(f"{name}-{index}of{count}" for index in range(1, count + 1))
        order = Order(artifact.path, folder, names, boundaries, after=after, threads=threads)
        try:
            made = split_in_child(order, TIMEOUT_S)
        except ModelLoadFailed as error:
            if not folder.is_dir():
                raise  # nothing was cut: the file itself is the trouble, and may be mended
            return {"version": _VERSION, "refused": error.message}
        kept = {file.path.name: file.digest for file in self._read(made)}
        return {"version": _VERSION, "split": made.to_json(), "files": kept}

    def prune(self, in_use: Collection[Path]) -> int:
        """Remove what was not used for longest until the rest fits; folders of files in use stay. Bytes removed."""
        if not self._folder.is_dir():
            return 0
        held = {path.parent for path in in_use}
        folders = sorted((p for p in self._folder.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime)
        sizes = {folder: _bytes(folder) for folder in folders}
        total, removed = sum(sizes.values()), 0
        for folder in folders:
            if total - removed <= self._max_bytes:
                break
            if folder not in held:
                shutil.rmtree(folder, ignore_errors=True)
                removed += sizes[folder]
        return removed


def _name(artifact: Artifact, threads: int) -> str:
    """Digest of everything that decides the stages and their bits: file, weights beside it, runtime, processor."""
    beside = sorted(
        (p.name, p.stat().st_size, p.stat().st_mtime_ns)
        for p in artifact.path.parent.iterdir()
        if p != artifact.path and (p.name.startswith(artifact.path.stem) or p.suffix in _WEIGHTS) and p.is_file()
    )
    facts = [artifact.digest, beside, _runtime(), platform.machine(), threads]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _runtime() -> str:
    try:
        return metadata.version("onnxruntime")
    except metadata.PackageNotFoundError:
        return "none"


def _touch(folder: Path) -> None:
    try:
        os.utime(folder)
    except OSError as error:
        raise StorageError(f"{folder}: {error.strerror}") from error


def _bytes(folder: Path) -> int:
    """Bytes on disk that are the folder's own: a linked file belongs to the model it came from."""
    found = (p.stat() for p in folder.iterdir() if p.is_file())
    return sum(s.st_blocks * 512 for s in found if s.st_nlink == 1)
