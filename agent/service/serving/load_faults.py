"""Load faults: what a runtime says when it cannot load a model, in one line that names what to do. Text only."""

from __future__ import annotations

import re

from agent.control.memory_words import says_no_memory
from agent.ports import LaneSpec, LoadSpec

MAX_QUOTED = 160
"""Characters of the runtime's own words."""

_LIBRARY = re.compile(
    r"file too short|invalid ELF header|undefined symbol|shared object|wrong ELF class|Failed to get symbol"
)


def told(sentence: str, lane: LaneSpec, load: LoadSpec) -> str:
    """The sentence as it is, unless it is about memory or about a library: then with the cause first and what to do."""
    if says_no_memory(sentence):
        return (
            f"{load.model}: {lane.accelerator} has too little memory for it; {_more(lane)} ({_quoted(sentence, load)})"
        )
    plugin = load.runtime.plugin
    if plugin is not None and _LIBRARY.search(sentence):
        return (
            f"{load.model}: {plugin} is no library that {load.runtime.backend} can load; correct `plugin` of "
            f"{lane.accelerator} in the device profile ({_quoted(sentence, load)})"
        )
    return sentence


def ended(cause: str, lane: LaneSpec) -> str:
    """Why a model is refused whose loads end the lane's process."""
    limit = lane.memory_limit_bytes
    hint = "" if limit is None else f"; it may need more than lanes.{lane.accelerator}.memory_limit_bytes ({limit})"
    return f"loading it ends the lane: {cause}{hint}"


def _more(lane: LaneSpec) -> str:
    limit = lane.memory_limit_bytes
    if limit is None:
        return "free some, or take a smaller model"
    return f"raise lanes.{lane.accelerator}.memory_limit_bytes ({limit}), or take a smaller model"


def _quoted(sentence: str, load: LoadSpec) -> str:
    words = " ".join(sentence.removeprefix(f"{load.model}: ").split())
    return words if len(words) <= MAX_QUOTED else f"{words[:MAX_QUOTED]}…"
