"""`qeil plan --problem FILE.npz`: the optimiser on the user's own cost tables."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import ConfigError
from agent.placement.problem import Problem
from agent.placement.solve import Result, solve

MAX_FILE_BYTES = 64 * 2**20
MAX_ARRAY_BYTES = 256 * 2**20
"""Bounds on the file and on what its arrays unpack to."""
_ARRAYS = frozenset(
    {
        "latency",
        "energy",
        "busy_util_num",
        "busy_den",
        "transfer_latency",
        "transfer_energy",
        "memory",
        "capacity",
        "allowed",
        "memory_domain",
    }
)


def load_problem(file: Path) -> Problem:
    """Read cost tables; arrays that a problem does not have are ignored. Pickled objects are refused.

    Raises:
        ConfigError: the file cannot be read, is too large, or holds wrong tables (array and index are named).
    """
    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ConfigError(f"{file}: {size} bytes, at most {MAX_FILE_BYTES} are read")
        return Problem.from_arrays(_read(file))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}") from error
    except (ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise ConfigError(f"{file}: {error}") from error


def _read(file: Path) -> dict[str, Any]:
    if not zipfile.is_zipfile(file):
        raise ValueError("not an .npz file; write one with numpy.savez")
    with zipfile.ZipFile(file) as archive:
        wanted = [info for info in archive.infolist() if info.filename.removesuffix(".npy") in _ARRAYS]
        unpacked = sum(info.file_size for info in wanted)
    if unpacked > MAX_ARRAY_BYTES:
        raise ValueError(f"arrays of {unpacked} bytes, at most {MAX_ARRAY_BYTES} are read")
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files if name in _ARRAYS}


def plan_problem(file: Path, seed: int = 1, method: str = "pgsam", budget_ms: float | None = None) -> dict[str, Any]:
    """The front of a problem file, as `qeil plan --problem FILE --json` prints it.

    Without `budget_ms` the budget is a count, and equal seeds give equal fronts byte for byte.

    Raises:
        ConfigError: the file, the method or the budget is wrong.
        PlacementError: nothing fits, or an unknown accelerator was asked for.
    """
    if budget_ms is not None and not 0.0 < budget_ms <= 3_600_000.0:
        raise ConfigError(f"budget is {budget_ms:g} ms, expected more than 0 and at most 3600000")
    problem = load_problem(file)
    begun_s = time.perf_counter()
    budget_s = None if budget_ms is None else budget_ms / 1000.0
    try:
        result = solve(problem, method, seed, budget_s=budget_s, clock=time.perf_counter)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return as_json(result, elapsed_ms=1000.0 * (time.perf_counter() - begun_s))


def as_json(result: Result, elapsed_ms: float) -> dict[str, Any]:
    """The contract of `qeil plan --problem`."""
    return {
        "method": result.method,
        "seed": result.seed,
        "elapsed_ms": round(elapsed_ms, 3),
        "evaluations": result.evaluations,
        "exact": result.exact,
        "front": [
            {"objectives": list(point.objectives), "assignment": list(point.assignment)} for point in result.front
        ],
    }
