"""Statistics store: what was learnt of each model's inputs, beside the model's file or in the state folder."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

from agent.control.input_statistics import FEATURES, Statistics
from agent.errors import StorageError
from agent.storage import state_file

_log = structlog.get_logger("guard")


class StatisticsStore:
    """Written on the supervisor's thread; `save_later` may be called from any."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._waiting: list[tuple[str, str, Mapping[str, Statistics]]] = []

    def load(self, model: str, digest: str) -> dict[str, Statistics] | None:
        """What is known of exactly this file; None where nothing is, or what is there is damaged."""
        try:
            document = state_file.read_json(self._path(model, digest))
            return None if document is None else {name: _from(value) for name, value in document["inputs"].items()}
        except (StorageError, KeyError, TypeError, ValueError, AttributeError) as error:
            _log.warning("statistics not read", model=model, cause=str(error))
            return None

    def save_later(self, model: str, digest: str, learnt: Mapping[str, Statistics]) -> None:
        """Write with the next look."""
        with self._lock:
            self._waiting.append((model, digest, learnt))

    def write_waiting(self) -> None:
        """Write what was handed over."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for model, digest, learnt in waiting:
            self._write(model, digest, learnt)

    def _write(self, model: str, digest: str, learnt: Mapping[str, Statistics]) -> None:
        document = {"model": model, "digest": digest, "inputs": {n: asdict(s) for n, s in learnt.items()}}
        try:
            state_file.write_json(self._path(model, digest), document)
        except StorageError as error:
            _log.warning("statistics not kept", model=model, cause=str(error))

    def _path(self, model: str, digest: str) -> Path:
        return self._folder / f"{model}-{digest[:16]}.json"


def _from(value: Mapping[str, Any]) -> Statistics:
    known = Statistics(
        int(value["count"]), tuple(map(float, value["mean"])),
        tuple(tuple(map(float, row)) for row in value["scatter"]),
        float(value["low"]), float(value["high"]),
    )  # fmt: skip
    if len(known.mean) != FEATURES or [len(row) for row in known.scatter] != [FEATURES] * FEATURES:
        raise ValueError("of another version")
    return known
