"""Examination: everything the agent wants from a model file, read by one child process that gives way to all others.

`python -m agent.workload.examine PATH FORMAT [FOLDER]` prints JSON: the facts a guard judges and the workload.
With a folder, the large weights of an ONNX file are put there beside a graph that names them, to be mapped into memory
by every lane instead of being copied by each.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from agent.errors import ModelLoadFailed
from agent.workload.reading_child import answer, ask

if TYPE_CHECKING:
    from agent.control.model_guard import ModelFacts
    from agent.schema.workload import Workload

NICENESS: Final = 15
"""Of the child: requests that are served meanwhile go first."""
GRAPH_FILE, WEIGHTS_FILE = "model.onnx", "weights.bin"
ALIGNMENT_BYTES: Final = 4096
"""Of each weight in its file: a page, which is what can be mapped."""


class Examined(NamedTuple):
    """What was read. `workload` is None where the graph cannot be costed; asking for it alone tells why."""

    facts: ModelFacts
    workload: Workload | None


def examine_in_child(path: Path, format_: str, digest: str, timeout_s: float, folder: Path | None = None) -> Examined:
    """Read a file in a child process. ModelLoadFailed with one line where that is impossible.

    folder: where the weights go, made whole or not at all; it stays without a graph where there is nothing to gain.
    """
    arguments = [str(path), format_, *([str(folder)] if folder else [])]
    return parsed(json.loads(ask("agent.workload.examine", arguments, path, timeout_s)), digest)


def parsed(document: dict[str, Any], digest: str) -> Examined:
    """What the child printed about the file of that digest. Raises what a wrong document raises."""
    from agent.schema.workload import Workload  # noqa: PLC0415 - the child begins without it, to give way at once
    from agent.workload import file_facts  # noqa: PLC0415

    read = document["workload"]
    return Examined(
        file_facts.from_json(document["facts"], digest), None if read is None else Workload.model_validate(read)
    )


def read(path: Path, format_: str) -> dict[str, Any]:
    """The document about a file, read in this process (which then holds protobuf for ONNX).

    Raises ModelLoadFailed, ImportError, MemoryError, OSError, RecursionError.
    """
    from agent.workload import file_facts, inspect  # noqa: PLC0415

    document: dict[str, Any] = {"facts": file_facts.to_json(file_facts.read(path, format_)), "workload": None}
    try:
        workload = inspect.read(path, format_, {})[0]
        document["workload"] = workload.model_dump(mode="json")
    except ModelLoadFailed:
        pass  # whoever wants it asks again and gets the reason
    return document


def put_apart(path: Path, folder: Path) -> bool:
    """Put the large weights of an ONNX file into `folder`, a page each at least; whether there were any.

    What the graph in the folder says is the file's own, to the bit. Raises OSError.
    """
    from agent.workload import onnx_light  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    places: list[tuple[int, int]] = []
    at = 0

    def instead(offset: int, length: int) -> bytes:
        nonlocal at
        places.append((offset, length))
        begin, at = at, -(-(at + length) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        return onnx_light.external(WEIGHTS_FILE, begin, length)

    graph = onnx_light.read_light(path, instead)
    if not places:
        return False
    with path.open("rb") as source, (folder / WEIGHTS_FILE).open("wb") as target:
        for offset, length in places:
            target.seek(-(-target.tell() // ALIGNMENT_BYTES) * ALIGNMENT_BYTES)
            source.seek(offset)
            _copy(source.fileno(), target, length)
        target.flush()
        os.fsync(target.fileno())
    partial = folder / f".{GRAPH_FILE}.partial"
    partial.write_bytes(graph)
    partial.replace(folder / GRAPH_FILE)
    return True


def _copy(source: int, target: Any, length: int) -> None:
    while length > 0:
        data = os.read(source, min(length, 1 << 20))
        if not data:
            raise OSError("the file ended while it was read")
        target.write(data)
        length -= len(data)


def main(arguments: list[str]) -> int:
    """Entry of the child process: JSON on success, else one line on standard error and code 1."""
    os.nice(NICENESS)
    path, format_ = Path(arguments[0]), arguments[1]

    def examined() -> dict[str, Any]:
        document = read(path, format_)
        if len(arguments) > 2:
            put_apart(path, Path(arguments[2]))
        return document

    return answer(examined)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
