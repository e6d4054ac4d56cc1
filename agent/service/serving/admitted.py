"""Admitted: what a model file was when its plan was made, and whether a lane that loads it now would load just that.

Files are not hashed at every load: one whose size, times and inode are those of the moment when it was hashed is the
same. Only where they differ is it hashed again, off the caller's thread, because a large one takes seconds.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from agent.errors import ModelLoadFailed
from agent.records import record

_CHUNK_BYTES = 1 << 20
SHOWN_DIGITS = 12


@record(frozen=True)
class Stamp:
    """Of a file. The change time tells a write that sets the other time back: no call sets it."""

    size_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int
    device: int


@record(frozen=True)
class Weights:
    """A file of weights beside a model file that names it, as it was then."""

    path: Path
    digest: str
    stamp: Stamp


@record(frozen=True)
class Admitted:
    """The file that was read, judged and planned: its sha256, and its stamp then."""

    path: Path
    digest: str
    stamp: Stamp
    draws: str = ""
    """An operator of its graph that draws at random, so that no answer of it is the known one; empty: none."""
    weights: tuple[Weights, ...] = ()

    @property
    def contents(self) -> tuple[str, ...]:
        """What tells two models apart: the digests of the file and of its weights."""
        return (self.digest, *(w.digest for w in self.weights))


Seen = tuple[Stamp | None, ...]
"""Stamps of a model file and of its weights; None for one that is not there."""


def seen(admitted: Admitted) -> Seen:
    """As they are now."""
    return tuple(stamp_of(path) for path in (admitted.path, *(w.path for w in admitted.weights)))


def weights_of(path: Path, names: Iterable[str], known: dict[Path, Weights]) -> tuple[Weights, ...]:
    """The files of weights that a model file names. Reads those that are not `known` as they are, and adds them there.

    ModelLoadFailed where one cannot be read.
    """
    found = []
    for file in (path.parent / name for name in names):
        before = known.get(file)
        if before is None or before.stamp != stamp_of(file):
            try:
                if file.exists() and not file.is_file():  # a pipe or a device would be read for ever
                    raise ModelLoadFailed(f"{path}: its weights are in {file.name!r}, which is no regular file")
                with file.open("rb") as stream:
                    before = known[file] = Weights(file, *read_whole(stream))
            except OSError as error:
                raise ModelLoadFailed(f"{path}: its weights are in {file.name!r}: {error.strerror or error}") from error
        found.append(before)
    return tuple(found)


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


def recognise(admitted: Admitted) -> Seen:
    """The stamps under which the files are what was admitted; ModelLoadFailed says what is not. Reads what was touched.

    The model file itself is always read.
    """
    stamps: list[Stamp | None] = []
    for path, digest, stamp in (
        (admitted.path, admitted.digest, None),
        *((w.path, w.digest, w.stamp) for w in admitted.weights),
    ):
        stamps.append(stamp if stamp is not None and stamp_of(path) == stamp else _same(path, digest))
    return tuple(stamps)


def _same(path: Path, admitted: str) -> Stamp:
    try:
        with path.open("rb") as stream:
            digest, stamp = read_whole(stream)
    except OSError as error:
        raise ModelLoadFailed(f"{path}, admitted before: {error.strerror or error}") from error
    if digest != admitted:
        was, now = admitted[:SHOWN_DIGITS], digest[:SHOWN_DIGITS]
        raise ModelLoadFailed(f"{path} changed since it was admitted (sha256 {was}… then, {now}… now)")
    return stamp


def when_recognised(admitted: Admitted, then: Callable[[Seen], None], otherwise: Callable[[str], None]) -> None:
    """Call `then` with the stamps the files have, at once where they are those of the admission, else from a thread."""
    stamps: Seen = (admitted.stamp, *(w.stamp for w in admitted.weights))
    if seen(admitted) == stamps:
        then(stamps)
        return

    def look() -> None:
        try:
            found = recognise(admitted)
        except ModelLoadFailed as error:
            otherwise(error.message)
            return
        then(found)

    threading.Thread(target=look, name="model-file", daemon=True).start()
