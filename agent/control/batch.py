"""Batches: which requests can run as one call, how their tensors are joined and how the answers are cut apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from agent.schema.workload import TensorSpec

Array = npt.NDArray[Any]
Form = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Name, dtype and shape without the first axis of every input."""


def is_open(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """Whether the first axis of every input and output is free (-1), so that one call may hold several requests."""
    specs = (*inputs, *outputs)
    return bool(inputs) and bool(outputs) and all(s.shape and s.shape[0] == -1 for s in specs)


def form_of(inputs: Mapping[str, Array]) -> tuple[int, Form] | None:
    """Rows and form of a request; None where its inputs have no common number of rows, or none at all."""
    if not inputs or any(tensor.ndim == 0 for tensor in inputs.values()):
        return None
    rows = {tensor.shape[0] for tensor in inputs.values()}
    if len(rows) > 1 or 0 in rows:
        return None
    form = tuple((name, str(inputs[name].dtype), inputs[name].shape[1:]) for name in sorted(inputs))
    return rows.pop(), form


def join(requests: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Inputs of one call for requests of one form, in order; always copies."""
    return {name: np.concatenate([inputs[name] for inputs in requests]) for name in requests[0]}


def cut(outputs: Mapping[str, Array], rows: Sequence[int]) -> list[dict[str, Array]] | None:
    """Each request's part of a call's outputs, as views; None where an output does not follow the requests' rows."""
    total = sum(rows)
    if any(tensor.ndim == 0 or tensor.shape[0] != total for tensor in outputs.values()):
        return None
    ends = [0, *(int(end) for end in np.cumsum(rows))]
    return [{name: tensor[a:b] for name, tensor in outputs.items()} for a, b in pairwise(ends)]


def turned(inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Other inputs of the same form and range: every tensor reversed along its last axis; copies."""
    return {name: np.ascontiguousarray(tensor[..., ::-1]) for name, tensor in inputs.items()}
