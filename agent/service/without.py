"""Imports of a package without one of the packages that it uses only where it finds them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def without(package: str) -> Iterator[None]:
    """Inside, `package` cannot be imported unless it has been already; afterwards it can."""
    modules: dict[str, Any] = sys.modules
    if package in modules:
        yield
        return
    modules[package] = None
    try:
        yield
    finally:
        del modules[package]
