"""Reads a problem file, an `.npz` of cost tables, whoever wrote it: bounded, never unpickled, one line for each fault.

The arrays are read here rather than by `numpy.load`, which believes what a header says about sizes before it has seen
the bytes. `docs/placement-problem.md` describes the format.
"""

from __future__ import annotations

import difflib
import lzma
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from agent.errors import ConfigError
from agent.placement.problem import Problem

MAX_FILE_BYTES = 100 * 2**20
MAX_ARRAY_BYTES = 96 * 2**20
"""Bounds on the file and on what its arrays unpack to; the search needs up to about six times the latter."""
MAX_ENTRIES = 256
MAX_NAME_LENGTH = 64
LEAST, MOST = 1e-30, 1e30
"""Costs outside are taken for mistakes; sums and products of those inside neither overflow nor vanish."""
_TABLES = (
    "latency", "energy", "busy_util_num", "busy_den", "transfer_latency", "transfer_energy", "memory", "capacity",
)  # fmt: skip
_OPTIONAL = ("allowed", "memory_domain", "accelerators", "stages")
_KINDS = dict.fromkeys(_TABLES, "fiub") | {
    "allowed": "biuf",
    "memory_domain": "iu",
    "accelerators": "US",
    "stages": "US",
}
_EXPECTED = {"fiub": "real numbers", "biuf": "booleans", "iu": "integers", "US": "text"}
_BROKEN = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError, RuntimeError, OSError,
    ValueError, SyntaxError, TypeError, KeyError, IndexError, OverflowError, MemoryError, tokenize.TokenError, Warning,
)  # fmt: skip


def load_problem(file: Path) -> Problem:
    """Read cost tables; arrays with names that no table resembles are ignored. Pickled objects are refused.

    Raises:
        ConfigError: the file cannot be read, is too large, or holds wrong tables (array and index are named).
    """
    try:
        size = file.stat().st_size
        if not file.is_file():
            raise ConfigError(f"{file}: no regular file")
        if size > MAX_FILE_BYTES:
            raise ConfigError(f"{file}: {size} bytes, at most {MAX_FILE_BYTES} are read")
        with file.open("rb") as stream:
            arrays = _read(stream)
        return _problem(arrays)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from error


def _problem(arrays: dict[str, NDArray[Any]]) -> Problem:
    for name in _TABLES:
        if name not in arrays:
            raise ValueError(f"array {name!r} is missing; a problem needs {', '.join(_TABLES)}")
        _check_range(name, arrays[name])
    arrays.setdefault("allowed", np.ones(arrays["latency"].shape, dtype=np.bool_))
    names = {key: _names(key, arrays.pop(key)) for key in ("accelerators", "stages") if key in arrays}
    return Problem.from_arrays(arrays, **names)


def _read(stream: IO[bytes]) -> dict[str, NDArray[Any]]:
    """The arrays of a problem by name; ValueError says which one is wrong."""
    try:
        archive = zipfile.ZipFile(stream)
    except _BROKEN as error:
        raise ValueError("not an .npz file, or a broken one; write one with numpy.savez") from error
    with archive:
        if len(archive.infolist()) > MAX_ENTRIES:
            raise ValueError(f"{len(archive.infolist())} arrays, at most {MAX_ENTRIES} are looked at")
        arrays: dict[str, NDArray[Any]] = {}
        strangers: list[str] = []
        left = MAX_ARRAY_BYTES
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if name not in _KINDS:
                strangers.append(name)
                continue
            if name in arrays:
                raise ValueError(f"{name}: there are two arrays of this name")
            arrays[name] = _array(archive, entry, name, left)
            left -= arrays[name].nbytes
    for name in strangers:
        close = difflib.get_close_matches(name, [known for known in _KINDS if known not in arrays], 1, 0.8)
        if close:
            raise ValueError(f"unknown array {name[:MAX_NAME_LENGTH]!r}, did you mean {close[0]!r}?")
    return arrays


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str, left: int) -> NDArray[Any]:
    if entry.flag_bits & 0x1:
        raise ValueError(f"{name}: is encrypted; write the file without a password")
    try:
        with archive.open(entry) as stream, warnings.catch_warnings():
            warnings.simplefilter("error")
            shape, columns_first, dtype = _header(stream)
            size = _checked_size(name, shape, dtype, left)
            content = stream.read(size + 1)
    except _Wrong as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError(f"{name}: its header is broken; write the file with numpy.savez") from error
    except _BROKEN as error:
        raise ValueError(f"{name}: cannot be unpacked; write the file with numpy.savez ({_short(error)})") from error
    if len(content) != size:
        has = "more" if len(content) > size else f"only {len(content)}"
        raise ValueError(f"{name}: {size} bytes belong to shape {shape} of {dtype}, the file has {has}")
    return np.frombuffer(content, dtype=dtype).reshape(shape, order="F" if columns_first else "C")


class _Wrong(Exception):
    """A fault that is already put into words."""


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"format version {version[0]}.{version[1]}")
    shape, columns_first, dtype = read(stream)
    return tuple(shape), bool(columns_first), dtype


def _checked_size(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], left: int) -> int:
    """Bytes of an array; _Wrong before any of them is asked for when it cannot be a table of that name."""
    if dtype.hasobject:
        raise _Wrong(f"{name}: holds pickled objects, which are never read; save plain {_EXPECTED[_KINDS[name]]}")
    if dtype.kind not in _KINDS[name] or (dtype.kind in "fiub" and dtype.itemsize > 8):
        raise _Wrong(f"{name}: type {dtype}, expected {_EXPECTED[_KINDS[name]]}")
    if len(shape) > 3 or any(length < 0 for length in shape):
        raise _Wrong(f"{name}: shape {shape}, expected at most three lengths of 0 or more")
    size = math.prod(shape) * dtype.itemsize
    if size > left:
        raise _Wrong(f"{name}: shape {shape} of {dtype} takes {size} bytes; all arrays together may take at most "
                     f"{MAX_ARRAY_BYTES}")  # fmt: skip
    return size


def _check_range(name: str, values: NDArray[Any]) -> None:
    """ValueError for what is finite and yet no cost; the rest is the problem's to check."""
    if values.dtype.kind != "f":
        return
    size = np.abs(values.astype(np.float64))
    wrong = np.argwhere(np.isfinite(size) & ((size > MOST) | ((size > 0.0) & (size < LEAST))))
    if len(wrong):
        at = ", ".join(str(int(index)) for index in wrong[0])
        value = values[tuple(wrong[0])]
        raise ValueError(f"{name}[{at}] is {value:g}, expected 0 or between {LEAST:g} and {MOST:g}")


def _names(key: str, values: NDArray[Any]) -> tuple[str, ...]:
    if values.ndim != 1:
        raise ValueError(f"{key}: shape {values.shape}, expected one name each")
    try:
        names = tuple(value.decode("utf-8") if isinstance(value, bytes) else str(value) for value in values.tolist())
    except UnicodeError as error:
        raise ValueError(f"{key}: holds bytes that are no UTF-8 text") from error
    for at, name in enumerate(names):
        if not name or len(name) > MAX_NAME_LENGTH:
            raise ValueError(f"{key}[{at}] has {len(name)} characters, expected 1 to {MAX_NAME_LENGTH}")
        if not name.isprintable():
            raise ValueError(f"{key}[{at}] is {name!r}, expected characters that can be printed")
        if name in names[:at]:
            raise ValueError(f"{key}[{at}] is {name!r}, like {key}[{names.index(name)}]; names must differ")
    return names


def _short(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:80] or type(error).__name__
