"""Weights apart: large ONNX models as a graph beside a file of weights that lanes map instead of copying.

A lane that loads such a graph holds no second copy while it loads, two versions or two lanes share what they have in
common with the page cache, and a lane that restarts finds its weights in memory. Bounded by `weights_apart_bytes`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import structlog

from agent.service.planning.kept import APART_BYTES
from agent.service.serving.artifacts import Artifact
from agent.workload.examine import GRAPH_FILE

_log = structlog.get_logger("models")

LEAST_BYTES = 8 * 1024 * 1024
"""Of a model file; of smaller ones the copy that loading makes is not worth a file."""


class WeightsApart:
    """See module. Owned by the planner's thread."""

    def __init__(self, folder: Path, most_bytes: int = APART_BYTES) -> None:
        """most_bytes: disk for all of them; 0: none."""
        self._folder = folder
        self._most_bytes = most_bytes

    def folder_for(self, artifact: Artifact) -> Path | None:
        """Where the weights of this file go or are, None where it is not worth it or there is no room."""
        if artifact.format != "onnx" or self._most_bytes == 0:
            return None
        size_bytes = artifact.path.stat().st_size
        folder = self._folder / artifact.digest[:32]
        if size_bytes < LEAST_BYTES or folder.is_dir():
            return folder if folder.is_dir() else None
        if size_bytes + self._used_bytes() > self._most_bytes:
            _log.info("weights stay in the model file", model=str(artifact.path), cause="weights_apart_bytes")
            return None
        if not self._has_room(2 * size_bytes):
            _log.info("weights stay in the model file", model=str(artifact.path), cause="the disk is nearly full")
            return None
        return folder

    def _has_room(self, size_bytes: int) -> bool:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return size_bytes <= shutil.disk_usage(self._folder).free
        except OSError:  # not even for the folder
            return False

    def path_of(self, digest: str, otherwise: Path) -> Path:
        """The graph whose weights lie apart, or the model file."""
        graph = self._folder / digest[:32] / GRAPH_FILE
        return graph if graph.is_file() else otherwise

    def keep_only(self, digests: Iterable[str]) -> None:
        """Forget those of all other files; a lane that has one mapped keeps it until it unloads the model."""
        kept = {digest[:32] for digest in digests}
        if self._folder.is_dir():
            for folder in self._folder.iterdir():
                if folder.name not in kept:
                    shutil.rmtree(folder, ignore_errors=True)

    def _used_bytes(self) -> int:
        if not self._folder.is_dir():
            return 0
        return sum(file.stat().st_size for file in self._folder.glob("*/*") if file.is_file())
