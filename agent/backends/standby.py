"""Main program of a spare process (`head_start.Spare`): imports the most usual runtime, then waits for its lane.

python -m agent.backends.standby FD PARENT
"""

from __future__ import annotations

import contextlib
import importlib
import json
import socket
import sys
from collections.abc import Sequence
from typing import Final

from agent.backends import waiting

MAX_ORDER_BYTES: Final = 16 * 1024


def main(argv: Sequence[str]) -> None:
    """Become a lane's worker when told, or end with the agent."""
    waiting.prepare(int(argv[1]), None, None)
    importlib.import_module("agent.backends.worker")
    with contextlib.suppress(ImportError):
        importlib.import_module("onnxruntime")
    with socket.socket(fileno=int(argv[0])) as channel:
        packet, fds, _, _ = socket.recv_fds(channel, MAX_ORDER_BYTES, 2)
    if not packet or len(fds) != 2:
        return
    waiting.main([*json.loads(packet), "--channel", str(fds[0]), "--vitals", str(fds[1])])


if __name__ == "__main__":
    main(sys.argv[1:])
