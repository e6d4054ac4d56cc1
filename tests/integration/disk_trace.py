"""What a process did to its files, in order, and what a power cut at any moment would leave of it.

Recorded with strace. A file holds what was written before its last fsync for sure; of what was written since then any
sector may have reached the disk or not, whatever the order. Files that were never synced may be missing altogether.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECTOR_BYTES = 512
CALLS = "pwrite64,write,fsync,fdatasync,ftruncate,unlink,unlinkat,openat"
_LINE = re.compile(r"(?:\[pid +\d+\] |\d+ +)?(\w+)\((.*)\) += (-?\d+)")
_FILE = re.compile(r"\d+<([^>]*)>")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True)
class Event:
    """`kind`: write, sync, truncate, remove, or say – a line on standard output, which is what others know."""

    kind: str
    path: str = ""
    at: int = 0
    data: bytes = b""


@dataclass
class Disk:
    """One file: what is there for sure, and what is on its way."""

    sure: bytearray = field(default_factory=bytearray)
    synced: bool = False
    pending: list[Event] = field(default_factory=list)

    def sync(self) -> None:
        for event in self.pending:
            _apply(self.sure, event)
        self.pending.clear()
        self.synced = True

    def after_cut(self, keeps: Callable[[], bool]) -> bytes | None:
        """None: the file is not there. `keeps` is asked for each sector and each change of length."""
        if not self.synced and not keeps():
            return None
        left = bytearray(self.sure)
        for event in self.pending:
            for part in _sectors(event):
                if keeps():
                    _apply(left, part)
        return bytes(left)


def record(arguments: Sequence[str], folder: Path, trace: Path) -> list[Event]:
    """Run a Python program under strace; what it did to files in the folder, and what it said."""
    command = ["strace", "-f", "-y", "-xx", "-s", "1000000", "-e", f"trace={CALLS}", "-o", str(trace)]
    done = subprocess.run([*command, sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with trace.open() as lines:
        return [event for line in lines if (event := _event(line, str(folder))) is not None]


def cut(events: Sequence[Event], rng: random.Random) -> tuple[dict[str, bytes], list[str]]:
    """Power goes after these events: the files as the next start finds them, and the lines said before."""
    disks: dict[str, Disk] = {}
    said = []
    for event in events:
        if event.kind == "say":
            said.append(event.data.decode())
        elif event.kind == "sync":
            disks.setdefault(event.path, Disk()).sync()
        elif event.kind == "remove":
            disks.pop(event.path, None)
        else:
            disks.setdefault(event.path, Disk()).pending.append(event)
    share = rng.choice((0.0, 1.0, rng.random(), rng.random()))  # nothing, everything, or some of what was on its way
    left = {path: disk.after_cut(lambda: rng.random() < share) for path, disk in disks.items()}
    return {path: data for path, data in left.items() if data is not None}, said


def _event(line: str, folder: str) -> Event | None:
    found = _LINE.match(line)
    if found is None or int(found[3]) < 0:
        return None
    call, text = found[1], found[2]
    if call in {"unlink", "unlinkat"}:
        path = _text(text).decode()
        return Event("remove", path) if path.startswith(folder) else None
    file = _FILE.match(text)
    path = _plain(file[1]) if file is not None else ""
    if call == "write" and text.startswith("1<"):
        return Event("say", data=_text(text).strip())
    if not path.startswith(folder) or path.endswith("-shm"):  # the index of the log is made anew by each start
        return None
    if call == "pwrite64":
        return Event("write", path, int(text.rpartition(", ")[2]), _text(text))
    if call == "ftruncate":
        return Event("truncate", path, int(text.rpartition(", ")[2]))
    if call in {"fsync", "fdatasync"}:
        return Event("sync", path)
    assert call == "openat" or "w" not in call, line
    return None


def _plain(path: str) -> str:
    return bytes.fromhex(path.replace("\\x", "")).decode() if path.startswith("\\x") else path


def _text(arguments: str) -> bytes:
    found = _TEXT.search(arguments)
    return b"" if found is None else bytes.fromhex(found[1].replace("\\x", ""))


def _apply(data: bytearray, event: Event) -> None:
    if event.kind == "truncate":
        data[event.at :] = bytes(max(0, event.at - len(data)))
        return
    if event.at > len(data):
        data.extend(bytes(event.at - len(data)))
    data[event.at : event.at + len(event.data)] = event.data


def _sectors(event: Event) -> list[Event]:
    """A write in the parts that the disk takes whole."""
    if event.kind == "truncate":
        return [event]
    parts, at, end = [], event.at, event.at + len(event.data)
    while at < end:
        until = min(end, (at // SECTOR_BYTES + 1) * SECTOR_BYTES)
        parts.append(Event("write", event.path, at, event.data[at - event.at : until - event.at]))
        at = until
    return parts
