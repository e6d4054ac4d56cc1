"""Sysfs: the only opener of /sys and /proc. Every read is short and bounded, and its failure is a value.

Raw `os.open`/`os.read`, because the text layer turns the EAGAIN of a busy driver into a TypeError.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Literal

from agent.records import record

MAX_ATTRIBUTE_BYTES = 4096
"""Sysfs attributes are at most one page."""

Cause = Literal["absent", "denied", "not_ready", "failed", "garbage"]


@record(frozen=True)
class Missing:
    """Why there is no content."""

    cause: Cause
    path: str
    reason: str

    def text(self) -> str:
        """One sentence with the remedy where there is one."""
        mend = f"; allow it with: chmod a+r {self.path} (or a udev rule)" if self.cause == "denied" else ""
        return f"{self.path}: {self.reason}{mend}"


_CAUSES: dict[int, Cause] = {
    errno.ENOENT: "absent", errno.ENOTDIR: "absent", errno.ENODEV: "absent", errno.ENXIO: "absent",
    errno.EACCES: "denied", errno.EPERM: "denied",
    errno.EAGAIN: "not_ready", errno.ENODATA: "not_ready", errno.EBUSY: "not_ready", errno.ETIMEDOUT: "not_ready",
}  # fmt: skip


class SysfsReader:
    """Reads files below `root`; paths are relative to it (`sys/class/…`, `proc/…`). Never raises OSError."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._prefix = f"{root}/".replace("//", "/")  # a path joined as text costs a tenth of a Path

    def read_text(self, path: str, max_bytes: int = MAX_ATTRIBUTE_BYTES) -> str | Missing:
        """Content without surrounding white space and NULs, at most `max_bytes` of it."""
        raw = self._read_raw(path, max_bytes)
        return raw if isinstance(raw, Missing) else raw.decode("utf-8", "replace").strip(" \t\r\n\0")

    def read_int(self, path: str) -> int | Missing:
        """A whole number in decimal."""
        text = self.read_text(path)
        if isinstance(text, Missing):
            return text
        try:
            return int(text)
        except ValueError:
            return Missing("garbage", self._shown(path), f"expected a whole number, found {text[:40]!r}")

    def list_dir(self, path: str) -> tuple[str, ...]:
        """Names in a folder, sorted with numbers in order; empty where it is absent or unreadable."""
        try:
            names = os.listdir(self._prefix + path)  # noqa: PTH208  (names only: no Path per entry at every scan)
        except OSError:
            return ()
        return tuple(sorted(names, key=lambda name: (len(name), name)))

    def exists(self, path: str) -> bool:
        """Whether there is anything at the path."""
        return os.path.lexists(self.root / path)

    def _read_raw(self, path: str, max_bytes: int) -> bytes | Missing:
        parts: list[bytes] = []
        try:
            descriptor = os.open(self._prefix + path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                left = max_bytes
                while left > 0:
                    part = os.read(descriptor, left)
                    if not part:
                        break
                    parts.append(part)
                    left -= len(part)
            finally:
                os.close(descriptor)
        except OSError as error:
            cause = _CAUSES.get(error.errno or 0, "failed")
            return Missing(cause, self._shown(path), os.strerror(error.errno or 0).lower())
        return b"".join(parts)

    def _shown(self, path: str) -> str:
        return str(self.root / path)
