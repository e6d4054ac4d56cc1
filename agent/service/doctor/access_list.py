"""Access lists of files (acl(5)): who may, beside owner, group and others. As Linux keeps them in an attribute."""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final, NamedTuple

ATTRIBUTE: Final = "system.posix_acl_access"
_VERSION: Final = 2
_HEAD, _ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
OWNER, USER, OWNING_GROUP, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
"""Kinds of entries, as of linux/posix_acl.h."""


class Entry(NamedTuple):
    """One line of a list; bits: as of os.R_OK and the others; number: of a named user or group."""

    kind: int
    bits: int
    number: int


def entries(path: Path) -> tuple[Entry, ...]:
    """The list of a file; empty where it has none, or its file system keeps none."""
    try:
        return parse(os.getxattr(path, ATTRIBUTE))
    except OSError:
        return ()


def parse(data: bytes) -> tuple[Entry, ...]:
    """The attribute's bytes; empty for a form that is not known."""
    if len(data) < _HEAD.size or (len(data) - _HEAD.size) % _ENTRY.size or _HEAD.unpack_from(data)[0] != _VERSION:
        return ()
    return tuple(Entry(*found) for found in _ENTRY.iter_unpack(data[_HEAD.size :]))


def grants(found: Sequence[Entry], uid: int, gids: Collection[int], owning_gid: int, wanted: int) -> bool:
    """Whether the list lets that user, who does not own the file, do all that is wanted, in acl(5)'s order."""
    mask = next((e.bits for e in found if e.kind == MASK), 0o7)
    for entry in found:
        if entry.kind == USER and entry.number == uid:
            return entry.bits & mask & wanted == wanted
    of_groups = [
        e for e in found if (e.kind == OWNING_GROUP and owning_gid in gids) or (e.kind == GROUP and e.number in gids)
    ]
    if of_groups:
        return any(e.bits & mask & wanted == wanted for e in of_groups)
    return any(e.bits & wanted == wanted for e in found if e.kind == OTHER)
