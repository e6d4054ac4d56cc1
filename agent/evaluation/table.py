"""Table of measurements: reads the CSV, cell by cell, and says file, line and column of whatever is wrong."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType

from agent.errors import ConfigError
from agent.evaluation.csv_text import read_text
from agent.records import record

MAX_FILE_BYTES = 64 * 1024 * 1024
"""A table of MAX_ROWS rows is smaller; a larger file is not one."""

MAX_ROWS = 100_000
"""Rows of a table; each is predicted and kept."""

MAX_CELL_CHARS = 4096

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)

MAX_VALUE = 1e12
"""Beyond any number of a board, where no column says less."""

LIMITS: Mapping[str, float] = MappingProxyType({
    "batch": 65_536.0, "prompt_tokens": 10e6, "gen_tokens": 10e6, "power_w": 1e6, "derived_power_w": 1e6,
    "idle_power_w": 1e6, "latency_ms": 1e9, "mean_latency_ms": 1e9, "tokens_per_s": 1e9, "throughput_ips": 1e9,
})  # fmt: skip
"""Largest believable value of a column: a larger one is a slip of units."""

REQUIRED = ("row_id", "board", "device", "model", "task")
"""Columns without which no row means anything; every other column may be missing and counts as empty."""


@record(frozen=True, slots=True)
class Measurement:
    """One published or own measurement, as it stands in its row; None for an empty cell."""

    row_id: str
    board: str
    device: str
    model: str
    task: str
    tier: str = ""
    power_mode: str = ""
    precision: str = ""
    latency_stat: str = ""
    power_scope: str = ""
    energy_unit: str = ""
    clocks: str = ""
    source: str = ""
    notes: str = ""
    batch: float | None = None
    prompt_tokens: float | None = None
    gen_tokens: float | None = None
    latency_ms: float | None = None
    mean_latency_ms: float | None = None
    tokens_per_s: float | None = None
    throughput_ips: float | None = None
    power_w: float | None = None
    energy_j: float | None = None
    derived_power_w: float | None = None
    derived_energy_j: float | None = None
    idle_power_w: float | None = None

    @property
    def fingerprint(self) -> str:
        """What was measured and what came out, whatever number the row has: the same measurement in any table."""
        kept = [getattr(self, f.name) for f in fields(self) if f.name not in ("row_id", "tier", "source", "notes")]
        return hashlib.sha256("|".join("" if value is None else str(value) for value in kept).encode()).hexdigest()[:12]


NUMBERS = tuple(f.name for f in fields(Measurement) if f.name != "row_id" and f.default is None)
TEXTS = tuple(f.name for f in fields(Measurement) if f.name not in NUMBERS)


def read_table(path: Path) -> list[Measurement]:
    """Rows of a CSV file with a header; columns in any order, unknown ones ignored.

    Numbers are finite and above 0 (token counts may be 0). Raises ConfigError with `file:line: column: what`.
    """
    text = read_text(path, MAX_FILE_BYTES, ", too large for a table")
    return parse_table(text, str(path))


def parse_table(text: str, name: str) -> list[Measurement]:
    """`read_table` of text that is already in memory; `name` stands in the messages."""
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        _check_header(header, name)
        rows = []
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append(_row(header, cells, f"{name}:{reader.line_num}"))
            if len(rows) > MAX_ROWS:
                raise ConfigError(f"{name}:{reader.line_num}: more than {MAX_ROWS} rows; split the table")
    except csv.Error as error:
        raise ConfigError(f"{name}:{reader.line_num}: not valid CSV: {error}") from error
    if not rows:
        raise ConfigError(f"{name}:1: the table has no rows below its header")
    _check_unique(rows, name)
    return rows


def _check_header(header: list[str], name: str) -> None:
    if not header:
        raise ConfigError(f"{name}:1: the file is empty; the first line must name the columns")
    for column in REQUIRED:
        if column not in header:
            raise ConfigError(f"{name}:1: {column}: this column is missing (needed: {', '.join(REQUIRED)})")
    for column in header:
        if column and header.count(column) > 1:
            raise ConfigError(f"{name}:1: {column}: this column appears twice")


def _row(header: list[str], cells: list[str], where: str) -> Measurement:
    if len(cells) != len(header):
        raise ConfigError(f"{where}: {len(cells)} cells, but the header names {len(header)} columns (a stray comma?)")
    raw = {column: cell.strip() for column, cell in zip(header, cells, strict=True)}
    texts = {column: raw[column] for column in TEXTS if column in raw}
    for column, text in texts.items():
        if len(text) > MAX_CELL_CHARS or not text.replace("\n", " ").replace("\t", " ").isprintable():
            raise ConfigError(f"{where}: {column}: holds control characters or more than {MAX_CELL_CHARS} characters")
    if not texts["row_id"]:
        raise ConfigError(f"{where}: row_id: is empty")
    numbers = {column: _number(raw[column], f"{where}: {column}", column) for column in NUMBERS if raw.get(column)}
    return Measurement(**texts, **numbers)  # type: ignore[arg-type] # names come from the dataclass itself


def _number(cell: str, where: str, column: str) -> float:
    if not _NUMBER.fullmatch(cell):
        raise ConfigError(f"{where}: {cell[:40]!r} is not a number (leave the cell empty where unknown)")
    value, limit = float(cell), LIMITS.get(column, MAX_VALUE)
    if not 0 <= value <= limit or (value == 0 and not column.endswith("_tokens")):
        raise ConfigError(f"{where}: {cell[:40]} is out of range; it must be above 0 and at most {limit:g}")
    return value


def _check_unique(rows: list[Measurement], name: str) -> None:
    seen: set[str] = set()
    for row in rows:
        if row.row_id in seen:
            raise ConfigError(f"{name}: row_id: {row.row_id} appears twice")
        seen.add(row.row_id)
