"""File facts: what a guard must know of a model file before a runtime opens it, read in a process of its own.

`python -m agent.workload.file_facts PATH FORMAT` prints JSON: operator set, operators with their domains, size
with the weights beside the file, the files in which those are, and every place outside its folder where some should be.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from agent.control.model_guard import ModelFacts
from agent.errors import ModelLoadFailed
from agent.runtimes import registry
from agent.runtimes.entry import resolve
from agent.workload.reading_child import answer, ask

TIMEOUT_S = 60.0


def facts_in_child(path: Path, format_: str, digest: str) -> ModelFacts:
    """The facts of a file. ModelLoadFailed with one line where it cannot be read."""
    return from_json(json.loads(ask("agent.workload.file_facts", [str(path), format_], path, TIMEOUT_S)), digest)


def from_json(document: dict[str, Any], digest: str) -> ModelFacts:
    """Facts as they were printed."""
    operators = frozenset((str(domain), str(name)) for domain, name in document["operators"])
    return ModelFacts(
        digest, document["size_bytes"], document["opset"], operators, tuple(document["outside"]),
        tuple((str(name), int(size)) for name, size in document["beside"]),
    )  # fmt: skip


def to_json(facts: ModelFacts) -> dict[str, Any]:
    """Undo `from_json`."""
    return {
        "size_bytes": facts.size_bytes, "opset": facts.opset, "operators": sorted(facts.operators),
        "outside": list(facts.outside), "beside": [list(item) for item in facts.beside],
    }  # fmt: skip


def read(path: Path, format_: str) -> ModelFacts:
    """Read in this process (which then holds protobuf for ONNX)."""
    backend = registry.of_format(format_)
    if backend is None:
        raise ModelLoadFailed(f"nothing here reads {format_} files: expected {registry.endings()}")
    facts: ModelFacts = resolve(backend.facts)(path)
    return facts


def main(arguments: list[str]) -> int:
    """Entry of the child process: JSON on success, else one line on standard error and code 1."""
    path, format_ = Path(arguments[0]), arguments[1]
    return answer(lambda: to_json(read(path, format_)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
