"""What a benchmark needs beside the agent: one line instead of a traceback where it is not installed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

PIP = {"paho": "paho-mqtt"}
"""Packages that pip calls otherwise."""
OURS = frozenset({"agent", "benchmarks", "tests"})


@contextlib.contextmanager
def needed() -> Iterator[None]:
    """Around imports: ends with one line and the pip command where a package is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name in OURS or not name:
            raise
        package = PIP.get(name, name)
        raise SystemExit(f"this benchmark needs {package}: pip install {package}") from error
