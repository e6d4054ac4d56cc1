"""Sealed memory: anonymous segments that two processes map and neither can shrink under the other. Without numpy."""

from __future__ import annotations

import fcntl
import mmap
import os

from agent.errors import BackendError


def create(name: str, nbytes: int) -> tuple[int, mmap.mmap]:
    """A new segment: (file descriptor to send and close, its bytes). Raises OSError."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, nbytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        return fd, mmap.mmap(fd, nbytes)
    except OSError:
        os.close(fd)
        raise


def attach(fd: int, nbytes: int) -> mmap.mmap:
    """The bytes of a received segment; closes `fd`. Raises BackendError when it is smaller than said or unsealed.

    A segment that the sender could shrink would end the receiver with SIGBUS at some later access.
    """
    try:
        is_sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
        if not is_sealed or os.fstat(fd).st_size < nbytes or nbytes <= 0:
            raise BackendError(f"a shared segment is not the {nbytes} sealed bytes it should be")
        return mmap.mmap(fd, nbytes)
    finally:
        os.close(fd)
