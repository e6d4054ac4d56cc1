"""CSV files that users bring: read within a bound, as text, with one line for whatever keeps them from being one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from agent.errors import ConfigError


class NumberedRows(Protocol):
    """What `csv.reader` makes; its own type has no public name."""

    @property
    def line_num(self) -> int:
        """Lines read so far."""

    def __iter__(self) -> Iterator[list[str]]: ...


def read_text(path: Path, max_bytes: int, advice: str) -> str:
    """The text of a file of at most `max_bytes`; `advice` ends the line on a larger one. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            # A device or pipe has no size, so what is read is bounded, not what the file claims to be.
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(content) > max_bytes:
        raise ConfigError(f"{path}: is larger than {max_bytes / 1e6:.0f} MB{advice}")
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: contains a NUL byte, so it is not text; save it as CSV in UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}); save it as CSV in UTF-8") from error
