"""What a virtual machine runs as its first process: checks what the last power cut left, then works until the next.

The kernel's modules lie in /modules; /dev/vda is the disk that forgets, /dev/vdb has what was said before the cut.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from pathlib import Path

_FINIT_MODULE = 313
"""x86-64's number of finit_module(2)."""


def load_modules(libc: ctypes.CDLL) -> None:
    """In whatever order their needs allow."""
    left = sorted(Path("/modules").iterdir())
    while left:
        refused = []
        for path in left:
            with path.open("rb") as file:
                if libc.syscall(_FINIT_MODULE, file.fileno(), b"", 0):
                    refused.append(path)
        if len(refused) == len(left):
            break
        left = refused


def mount(libc: ctypes.CDLL, what: str, where: str, kind: str) -> None:
    Path(where).mkdir(parents=True, exist_ok=True)
    if libc.mount(what.encode(), where.encode(), kind.encode(), 0, None):
        raise OSError(ctypes.get_errno(), f"mount {where}")


def main() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for kind, where in (("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/tmp")):
        mount(libc, kind, where, kind)
    load_modules(libc)
    while not Path("/dev/vdb").exists():
        time.sleep(0.01)
    mount(libc, "/dev/vda", "/data", "ext4")
    from tests.integration import power_cuts

    before = json.loads(Path("/dev/vdb").read_bytes().rstrip(b"\0"))
    if before["said"]:
        found = power_cuts.faults(Path("/data/state"), before["said"])
        power_cuts.say("found", found)
        if found:
            return
        for path in Path("/data/state").iterdir():
            path.unlink()
    Path("/data/state").mkdir(exist_ok=True)
    os.sync()
    power_cuts.ROUNDS = 1_000_000
    power_cuts.say("begun")
    power_cuts.work(Path("/data/state"), before["seed"], careless=False)


if __name__ == "__main__":
    try:
        main()
    except Exception as error:  # noqa: BLE001  (whoever watches the console has to hear of it)
        os.write(1, (json.dumps(["guest", repr(error)]) + "\n").encode())
    sys.stdout.flush()
    time.sleep(1_000)
