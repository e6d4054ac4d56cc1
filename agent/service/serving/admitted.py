"""Admitted: what a model file was when its plan was made, and whether a lane that loads it now would load just that.

Files are not hashed at every load: one whose size, times and inode are those of the moment when it was hashed is the
same. Only where they differ is it hashed again, off the caller's thread, because a large one takes seconds.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from agent.errors import ModelLoadFailed

_CHUNK_BYTES = 1 << 20
SHOWN_DIGITS = 12


@dataclass(frozen=True)
class Stamp:
    """Of a file. The change time tells a write that sets the other time back: no call sets it."""

    size_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int
    device: int


@dataclass(frozen=True)
class Admitted:
    """The file that was read, judged and planned: its sha256, and its stamp then."""

    path: Path
    digest: str
    stamp: Stamp
    draws: str = ""
    """An operator of its graph that draws at random, so that no answer of it is the known one; empty: none."""


def stamp_of(path: Path) -> Stamp | None:
    """None where there is no such file."""
    try:
        return _stamp(path.stat())
    except OSError:
        return None


def _stamp(stat: os.stat_result) -> Stamp:
    return Stamp(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev)


def read_whole(stream: BinaryIO) -> tuple[str, Stamp]:
    """sha256 of an open file in hexadecimal, and its stamp before it was read: a write meanwhile shows afterwards."""
    stamp, digest = _stamp(os.fstat(stream.fileno())), hashlib.sha256()
    while chunk := stream.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest(), stamp


def recognise(admitted: Admitted) -> Stamp:
    """The stamp under which the file is what was admitted; ModelLoadFailed says what it is instead. Reads the file."""
    try:
        with admitted.path.open("rb") as stream:
            digest, stamp = read_whole(stream)
    except OSError as error:
        raise ModelLoadFailed(f"{admitted.path}, admitted before: {error.strerror or error}") from error
    if digest != admitted.digest:
        was, now = admitted.digest[:SHOWN_DIGITS], digest[:SHOWN_DIGITS]
        raise ModelLoadFailed(f"{admitted.path} changed since it was admitted (sha256 {was}… then, {now}… now)")
    return stamp


def when_recognised(admitted: Admitted, then: Callable[[Stamp], None], otherwise: Callable[[str], None]) -> None:
    """Call `then` with the stamp the file has, at once where it is that of its admission, else from a thread."""
    if stamp_of(admitted.path) == admitted.stamp:
        then(admitted.stamp)
        return

    def look() -> None:
        try:
            stamp = recognise(admitted)
        except ModelLoadFailed as error:
            otherwise(error.message)
            return
        then(stamp)

    threading.Thread(target=look, name="model-file", daemon=True).start()
