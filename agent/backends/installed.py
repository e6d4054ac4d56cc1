"""Installed: the versions of the runtimes that the agent brings code for, asked in the process that looks at them."""

from __future__ import annotations

import importlib
from typing import Final

LITERT_DISTRIBUTIONS: Final = ("ai-edge-litert", "tflite-runtime")


def onnxruntime(notes: list[str]) -> str | None:
    """Its version; None where it is not here."""
    problem = _import_problem("onnxruntime")
    if problem is None:
        return str(importlib.import_module("onnxruntime").__version__)
    notes.append(f"onnxruntime is not usable: {problem}")
    return None


def litert(notes: list[str]) -> str | None:
    """Version of the first of its packages that works; None where there is none."""
    problems: list[str] = []
    for distribution in LITERT_DISTRIBUTIONS:
        problem = _import_problem(_module(distribution))
        if problem is None:
            from importlib.metadata import version  # noqa: PLC0415 - takes time that boards without it need not spend

            return version(distribution)
        problems.append(problem)
    notes.append(f"LiteRT is not usable: {'; '.join(problems)}")
    return None


def litert_module() -> str | None:
    """Name of the module with its interpreter; None where there is none."""
    modules = map(_module, LITERT_DISTRIBUTIONS)
    return next((module for module in modules if _import_problem(module) is None), None)


def _module(distribution: str) -> str:
    return f"{distribution.replace('-', '_')}.interpreter"


def _import_problem(module: str) -> str | None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        return str(error)
    return None
