"""Backend entry: everything the agent asks about a way to run models, as names of functions to call when needed.

A function is written `module:name` and imported where it is used: in a lane, in a reader of files, in a probe of its
own. The agent's process reads the entry alone and never a runtime.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

from agent.errors import ConfigError
from agent.records import record

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_SUFFIX = re.compile(r"\.[a-z0-9][a-z0-9_-]{0,15}")
_FUNCTION = re.compile(r"[\w.]+:\w+")


@record(frozen=True)
class Backend:
    """One way to run models. A profile's `runtimes` name it by `name`.

    Raises ConfigError where an entry is none.
    """

    name: str
    """`runtimes[].backend` of a profile: a–z, 0–9 and dashes."""
    title: str
    """What people call the runtime."""
    format: str
    """Of the model files it reads; each format has one backend."""
    suffixes: tuple[str, ...]
    """Of those files, in lower case with the dot."""
    host_provider: str
    """The provider that computes on the CPU: it stands in for simulated accelerators and is added to a generic CPU."""
    open: str
    """`(LoadOrder) -> Session` of `agent.backends.artifact`, in the lane's process; raises ModelLoadFailed."""
    graph: str
    """`(Path, dims, max_stages) -> tuple[Workload, ...]`, in a reader's process: the work that the planner costs."""
    facts: str
    """`(Path) -> ModelFacts`, in a reader's process: what the guard judges before the runtime opens a file."""
    probe: str
    """`(notes) -> version or None`, in the probe's process; what is absent is a sentence in notes."""
    canary: str
    """`(folder) -> Path` of a model that it wrote there, with float32 inputs, which `qeil doctor` runs."""
    micros: str
    """`(folder) -> list[MicroModel]` that it wrote there, in a process of its own: what `qeil calibrate` times."""
    lacking: str | None = None
    """`(Runtime, kind of accelerator, RuntimeInventory, root) -> why it cannot be used here or None`; None: the version
    that the probe found decides."""
    extra: str | None = None
    """Of `pip install 'qeil-agent[EXTRA]'`, which brings it."""

    def __post_init__(self) -> None:
        functions = (self.open, self.graph, self.facts, self.probe, self.canary, self.micros, self.lacking or "m:f")
        wrong = [f"name {self.name!r}"] * (not _NAME.fullmatch(self.name))
        wrong += [f"suffix {s!r}" for s in self.suffixes if not _SUFFIX.fullmatch(s)]
        wrong += [f"function {f!r} (write MODULE:FUNCTION)" for f in functions if not _FUNCTION.fullmatch(f)]
        if wrong or not self.suffixes:
            raise ConfigError(f"the backend {self.name!r} is described wrongly: {', '.join(wrong) or 'no suffix'}")

    @property
    def platform(self) -> str:
        """How the inference protocol names it."""
        return f"{self.title.lower().replace(' ', '')}_{self.format}"

    @property
    def endings(self) -> str:
        """Its suffixes for a sentence."""
        return " or ".join(self.suffixes)


def resolve(function: str) -> Any:
    """The function behind `module:name`. Raises ImportError or AttributeError."""
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)
