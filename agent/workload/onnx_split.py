"""Stage models: an ONNX file cut into files that run on lanes of their own, written and checked by a child process.

`python -m agent.workload.onnx_split` reads a JSON order on standard input and prints one JSON line per step and one for
the result. All stages of a model lie in one folder and share its weights (`agent.workload.onnx_weights`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent import extras
from agent.child import child_command
from agent.errors import ModelLoadFailed
from agent.records import record
from agent.workload.reading_child import MAX_MESSAGE, MEMORY_LIMIT_BYTES, fail, limit_memory

Boundary = tuple[str, ...]
Told = Callable[[str], None]
ATTEMPTS = 8
"""Choices of boundaries that are tried before none is said to keep the bits."""
VARIANTS: tuple[Mapping[str, int], ...] = ({}, {"batch": 2, "sequence": 9, "past": 3})
"""Sizes of free dimensions on which a split is checked; a model that refuses the second is checked on the first."""


@record(frozen=True)
class StageFile:
    """A stage model on disk. `receives` are earlier stages' tensors, `given` and `answers` the whole model's."""

    path: Path
    given: tuple[str, ...]
    receives: tuple[str, ...]
    sends: tuple[str, ...]
    answers: tuple[str, ...]
    nodes: int
    copies: int
    weight_bytes: int


@record(frozen=True)
class Checked:
    """Figures of the check on the CPU provider: medians of single requests, all outputs the same to the bit."""

    inputs: int
    whole_s: float
    stage_s: tuple[float, ...]
    crossing_bytes: tuple[int, ...]


@record(frozen=True)
class Split:
    """A model in stages. `checked` is None where nobody asked for the check."""

    boundaries: tuple[Boundary, ...]
    stages: tuple[StageFile, ...]
    checked: Checked | None
    refused: tuple[str, ...] = ()
    """Boundaries that were tried first, and why not."""

    def to_json(self) -> dict[str, Any]:
        """As a document."""
        document = asdict(self)
        for row in document["stages"]:
            row["path"] = str(row["path"])
        return document

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Split:
        """Undo `to_json`. Raises KeyError, TypeError, ValueError for another document."""
        stages = tuple(
            StageFile(
                Path(row["path"]), tuple(row["given"]), tuple(row["receives"]), tuple(row["sends"]),
                tuple(row["answers"]), int(row["nodes"]), int(row["copies"]), int(row["weight_bytes"]),
            )
            for row in data["stages"]
        )  # fmt: skip
        checked = data["checked"]
        if checked is not None:
            checked = Checked(
                checked["inputs"], checked["whole_s"], tuple(checked["stage_s"]), tuple(checked["crossing_bytes"])
            )
        return Split(tuple(tuple(b) for b in data["boundaries"]), stages, checked, tuple(data["refused"]))


@record(frozen=True)
class Order:
    """What to cut where: exactly one of boundaries (by name), stages (a number), after (stages of the workload).

    folder: where the stage models go, as `names[i].onnx`; threads: of the check.
    """

    path: Path
    folder: Path
    names: tuple[str, ...]
    boundaries: tuple[Boundary, ...] = ()
    stages: int = 0
    after: tuple[int, ...] = ()
    check: bool = True
    threads: int = 1


def split_in_child(
    order: Order,
    timeout_s: float,
    told: Told = lambda _: None,
    memory_limit_bytes: int = MEMORY_LIMIT_BYTES,
) -> Split:
    """Write the stage models and check that they give the same bits; `told` hears of each step.

    Whatever goes wrong in the child, a hostile file included, is a ModelLoadFailed with the path and one line.
    """
    command = child_command("agent.workload.onnx_split", str(memory_limit_bytes))
    child = subprocess.Popen(  # its own lines only: stdin is small, stderr is drained by the thread below
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdin is not None and child.stdout is not None and child.stderr is not None  # noqa: S101, PT018
    errors: list[str] = []
    overdue = threading.Event()

    def stop() -> None:
        overdue.set()
        child.kill()

    timer = threading.Timer(timeout_s, stop)
    drain = threading.Thread(target=lambda: errors.extend(child.stderr or ()), daemon=True)
    timer.start()
    drain.start()
    result: Split | None = None
    try:
        document = {**asdict(order), "path": str(order.path), "folder": str(order.folder)}
        child.stdin.write(json.dumps(document))
        child.stdin.close()
        for line in child.stdout:
            row = json.loads(line)
            if "result" in row:
                result = Split.from_json(row["result"])
            else:
                told(row["step"])
    except (OSError, ValueError):
        result = None  # it ended in the middle; its last words follow
    finally:
        timer.cancel()
        if result is None:
            child.kill()
        code = child.wait()
        drain.join(1.0)
        child.stdout.close()
        child.stderr.close()
    if overdue.is_set():
        raise ModelLoadFailed(f"{order.path}: cutting the graph took longer than {timeout_s:g} s")
    if code != 0 or result is None:
        line = errors[-1].strip() if errors else f"the process that cuts it ended with code {code}"
        raise ModelLoadFailed(f"{order.path}: {line[:MAX_MESSAGE]}")
    return result


def split(order: Order, told: Told = lambda _: None) -> Split:
    """`split_in_child`, in this process (which then holds protobuf and a runtime)."""
    try:
        from agent.workload.onnx_splitter import Splitter  # noqa: PLC0415  (optional package)
    except ImportError as error:
        raise ModelLoadFailed(f"{error.name} is not installed: {extras.command('onnx')}") from error
    return Splitter(order, told).run()


def main(arguments: Sequence[str]) -> int:
    """Entry of the child process: JSON lines on success, else one line on standard error and code 1."""
    limit = limit_memory(int(arguments[0]))
    data = json.load(sys.stdin)
    order = Order(
        Path(data["path"]), Path(data["folder"]), tuple(data["names"]), tuple(tuple(b) for b in data["boundaries"]),
        data["stages"], tuple(data["after"]), data["check"], data["threads"],
    )  # fmt: skip
    try:
        result = split(order, lambda step: _say({"step": step}))
    except ModelLoadFailed as error:
        return fail(error.message)
    except OSError as error:
        return fail(f"stage models cannot be written: {error.strerror or error}")
    except MemoryError:
        return fail(f"cutting the graph needs more than {limit >> 20} MiB")
    except RecursionError:
        return fail("its subgraphs are nested too deeply")
    _say({"result": result.to_json()})
    return 0


def _say(row: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
