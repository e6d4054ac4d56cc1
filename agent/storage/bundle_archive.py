"""Bundle archive: a plain tar of a few known folders, read strictly – whatever else it could hold refuses it whole.

Nothing is unpacked before size and digest are what the signed offer says, nor before every member was looked at.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

from agent.errors import StorageError
from agent.records import record
from agent.runtimes import registry
from agent.storage.state_file import sync_folder

MAX_MEMBERS = 256
RESERVE_BYTES = 32 * 1024 * 1024
"""Left free on the disk after unpacking."""
_MEMBER = re.compile(r"(policies|profiles|models|probes)/([a-z0-9][a-z0-9._-]{0,63})")
_FOLDERS = frozenset({"policies", "profiles", "models", "probes"})
_BLOCK = 1024 * 1024
_NO_TAR = (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError)
"""What `tarfile` raises on damaged members; the last three on extended headers: their numbers, and chains of them."""


class BundleRefused(Exception):
    """The bundle is not installed; `code` says in one word why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@record(frozen=True)
class Unpacked:
    """A bundle on disk; names without suffix, as the schemas use them."""

    folder: Path

    def files(self, kind: str) -> dict[str, Path]:
        """Name → file of one kind: policies, profiles, models, probes."""
        found = self.folder / kind
        return {p.stem: p for p in sorted(found.iterdir())} if found.is_dir() else {}


def digest(path: Path) -> str:
    """sha256 of a file's content."""
    made = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            made.update(block)
    return made.hexdigest()


def check(path: Path, sha256: str, size_bytes: int) -> None:
    """BundleRefused unless the file is the one that was signed."""
    try:
        found = path.stat().st_size
        if found != size_bytes:
            raise BundleRefused("wrong_size", f"{found} bytes; the offer says {size_bytes}")
        if digest(path) != sha256:
            raise BundleRefused("wrong_digest", "the archive is not the one that was signed")
    except OSError as error:
        raise BundleRefused("storage", f"{path}: {error.strerror}") from error


def unpack(archive: Path, target: Path) -> Unpacked:
    """Unpack beside `target`, then move there in one step; what an earlier attempt left half done is thrown away.

    BundleRefused for anything but regular files of the known folders, with sizes that the archive really has.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        free = shutil.disk_usage(target.parent).free
        size_bytes = archive.stat().st_size
        if size_bytes + RESERVE_BYTES > free:
            raise BundleRefused("disk_full", f"{size_bytes} bytes to unpack, {free} are free")
        with tarfile.open(archive, "r:") as tar:
            for member in _members(tar, size_bytes):
                _write(tar, member, partial)
        sync_folder(partial)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        sync_folder(target.parent)
    except _NO_TAR as error:
        raise BundleRefused("malformed", f"no plain tar: {error}") from error
    except OSError as error:
        raise BundleRefused("storage", f"{error.filename or target}: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Unpacked(target)


def _suffixes(folder: str) -> tuple[str, ...]:
    """Of the files that a folder of the bundle holds; asked when needed, as added backends are somebody's code."""
    return {"models": registry.suffixes(), "probes": (".json",)}.get(folder, (".yaml",))


def _members(tar: tarfile.TarFile, size_bytes: int) -> list[tarfile.TarInfo]:
    """The files in it, all of them looked at."""
    found: dict[str, tarfile.TarInfo] = {}
    total = 0
    for count, member in enumerate(tar, 1):
        if count > MAX_MEMBERS:
            raise BundleRefused("too_many_files", f"more than {MAX_MEMBERS} files")
        name = member.name.removesuffix("/")
        if member.isdir() and name in _FOLDERS:
            continue
        fits = _MEMBER.fullmatch(name)
        if fits is None or not name.endswith(_suffixes(fits[1])):
            raise BundleRefused("bad_path", f"{member.name[:200]!r} is no place for a file of a bundle")
        if member.type not in {tarfile.REGTYPE, tarfile.AREGTYPE} or member.sparse is not None:
            raise BundleRefused("bad_member", f"{name} is no plain file")
        total += member.size
        if member.size < 0 or total > size_bytes:
            raise BundleRefused("too_large", f"the files claim {total} bytes in an archive of {size_bytes}")
        if name in found:
            raise BundleRefused("bad_member", f"{name} is there twice")
        found[name] = member
    if not found:
        raise BundleRefused("empty", "there is no file in it")
    return list(found.values())


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    path = folder / member.name
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    if source is None:
        raise BundleRefused("bad_member", f"{member.name} is no plain file")
    with source, path.open("xb") as stream:
        shutil.copyfileobj(source, stream, _BLOCK)
        if stream.tell() != member.size:
            raise BundleRefused("malformed", f"{member.name} ends early")
        stream.flush()
        os.fsync(stream.fileno())
    path.chmod(0o600)
    sync_folder(path.parent)


def pack(files: Mapping[str, Path], target: Path) -> None:
    """Write an archive: name inside → file. The same files make the same bytes. StorageError, BundleRefused."""
    for name in files:
        fits = _MEMBER.fullmatch(name)
        if fits is None or not name.endswith(_suffixes(fits[1])):
            raise BundleRefused("bad_path", f"{name!r} is no place for a file of a bundle")
    try:
        with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, path in sorted(files.items()):
                content = path.read_bytes()
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o600
                tar.addfile(member, io.BytesIO(content))
    except OSError as error:
        raise StorageError(f"{error.filename or target}: {error.strerror}") from error
