"""What the agent and its planning process say to each other: frames of a length and a pickled message.

What is in them comes from the agent or the process that it started itself, nobody else.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.placement.state import State
from agent.records import record
from agent.schema.policy import Policy
from agent.schema.settings import ModelEntry
from agent.service.board import Board
from agent.service.planning.kept import APART_BYTES
from agent.service.planning.plan import ModelPlan, Plan
from agent.service.serving.split_meter import Handover

_LENGTH = struct.Struct("<Q")


@record(frozen=True)
class Setup:
    """What never changes: the first frame."""

    board: Board
    state_dir: Path
    apart_bytes: int = APART_BYTES


@record(frozen=True)
class Order:
    """A plan that is wanted, arguments as of `Planner.plan`. `running` is without graphs; handovers: as measured."""

    policy: Policy
    digest: str
    models: tuple[ModelEntry, ...]
    state: State | None
    running: Plan | None
    known: frozenset[tuple[str, str]]
    """Names and digests of models whose graphs the agent has; they are not sent back to it."""
    handovers: Mapping[tuple[str, str], Handover]


class Alive:
    """The answer follows later."""


@record(frozen=True)
class Failed:
    """Why there is no plan. told: an error of ours, whose message is for users."""

    message: str
    told: bool


def send(write: Callable[[bytes], object], message: object) -> None:
    """One frame: length, then the pickled message."""
    write(framed(message))


def without_graph(model: ModelPlan, known: frozenset[tuple[str, str]]) -> ModelPlan:
    """The model without its graph, if that is among the known ones."""
    return replace(model, workload=None) if (model.name, model.digest) in known else model


def framed(message: object) -> bytes:
    """The bytes of a frame."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


def receive(read: Callable[[int], bytes]) -> Any:
    """One frame; `read(n)` gives n bytes. EOFError at the end."""
    (length,) = _LENGTH.unpack(read(_LENGTH.size))
    return pickle.loads(read(length))  # noqa: S301  (our own process at the other end of a private pipe)
