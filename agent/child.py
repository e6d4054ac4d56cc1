"""Child: how this program starts modules of its own as processes, and the script that such a process begins with.

`python -m` looks for the module, and for all that it imports, in the folder where the program runs, before Python 3.11
whatever one asks: a `json.py` that lies in a folder of downloads would be run, by root where root runs the program
there. This script is named by its full path instead; nothing is imported before it has put the search path right.

    python …/agent/child.py MODULE ARGUMENT…
"""

from __future__ import annotations

import os
import sys

_PR_SET_PDEATHSIG = 1
NICENESS = 5
"""Of children that look at something while the agent still imports itself: on two cores its imports go first."""
YOUNG = 10_000
"""New objects before the youngest are looked through for garbage, in children as in the agent."""


def child_command(module: str, *arguments: str) -> list[str]:
    """What starts a module of this package as a process, with the same interpreter and the same package."""
    return [sys.executable, f"{_root()}/agent/child.py", module, *arguments]


def end_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends, however it does. Nothing but on Linux."""
    import ctypes  # noqa: PLC0415 - not from that folder either
    import signal  # noqa: PLC0415

    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _root() -> str:
    """The folder that this package lies in, which need not be on the search path of other processes."""
    return __file__.rpartition("/agent/")[0]


def _main() -> None:
    if sys.path and os.path.realpath(sys.path[0]) == os.path.realpath(f"{_root()}/agent"):
        del sys.path[0]  # where a script lies comes first; the modules there go by their full names
    if _root() not in sys.path:
        sys.path.insert(0, _root())
    import gc  # noqa: PLC0415 - not from that folder either
    import runpy  # noqa: PLC0415

    gc.set_threshold(YOUNG)  # imports make much and leave little behind
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
