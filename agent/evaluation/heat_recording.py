"""A board's warming and cooling on record: reads its CSV and says file, line and column of whatever is wrong.

Columns: `time_s`, `NAME_c` for each zone, `NAME_w` for what heats it, and where there are any `ambient_c` and `fan`
(speed from 0 to 1). Owns the file's form; what the recording teaches is the business of `heat_fit`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from agent.errors import ConfigError
from agent.evaluation.csv_text import NumberedRows, read_text
from agent.physics.arguments import Array
from agent.records import record

MAX_FILE_BYTES = 32 * 1024 * 1024
MAX_ROWS = 200_000
MAX_ZONES = 8
MIN_ROWS = 10
NOWHERE = "none"
"""A power column that heats no zone of interest."""
_LIMITS = {"_c": (-90.0, 200.0), "_w": (0.0, 10_000.0), "fan": (0.0, 1.0), "time_s": (-1e12, 1e12)}
_RULES = {
    "_c": "a temperature in °C from -90 to 200", "_w": "a power in W from 0 to 10000",
    "fan": "a fan speed from 0 to 1", "time_s": "a time in seconds",
}  # fmt: skip


@record(frozen=True, slots=True, eq=False)
class HeatRecording:
    """Samples of n zones at m rising times."""

    zones: tuple[str, ...]
    time_s: Array
    temperature_c: Array
    """(n, m)."""
    power_w: Array
    """(n, m): what heats each zone."""
    ambient_c: Array
    """(m,)."""
    fan: Array | None
    """(m,) in [0, 1]; None where the recording has none or it never changed."""
    notes: tuple[str, ...] = ()

    def part(self, begin: int, end: int) -> HeatRecording:
        """The samples from `begin` up to but without `end`."""
        cut = slice(begin, end)
        return HeatRecording(
            self.zones, self.time_s[cut], self.temperature_c[:, cut], self.power_w[:, cut], self.ambient_c[cut],
            None if self.fan is None else self.fan[cut],
        )  # fmt: skip


def read_recording(
    path: Path, ambient_c: float | None = None, zones: Sequence[str] = (), heats: Mapping[str, str] | None = None
) -> HeatRecording:
    """The recording in a CSV file.

    ambient_c: of the air where the file has no column of it; zones: only these, all where empty; heats: which zone a
    power column heats (`NOWHERE`: none), where it is not the one of the same name. Rows with an empty cell are left out
    and counted. Raises ConfigError with `file:line: column: what`.
    """
    text = read_text(path, MAX_FILE_BYTES, "; record fewer samples per second")
    return parse_recording(text, str(path), ambient_c, zones, heats)


def parse_recording(
    text: str,
    name: str,
    ambient_c: float | None = None,
    zones: Sequence[str] = (),
    heats: Mapping[str, str] | None = None,
) -> HeatRecording:
    """`read_recording` of text that is already in memory; `name` stands in the messages."""
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ConfigError(f"{name}:{line}: contains a NUL byte, so it is not text; save it as CSV in UTF-8")
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        kept, powers = _columns(header, name, zones, heats or {})
        known = [*kept, *powers, *(c for c in ("ambient_c", "fan") if c in header)]
        if "ambient_c" not in header and ambient_c is None:
            raise ConfigError(f"{name}:1: ambient_c: how warm the air was is unknown; add the column or --ambient 25")
        table, gaps = _rows(reader, header, ["time_s", *known], name)
    except csv.Error as error:
        raise ConfigError(f"{name}:{reader.line_num}: not valid CSV: {error}") from error
    unused = [c for c in header if c and c not in known and c != "time_s"]
    return _made(table, kept, powers, ambient_c, _notes(unused, gaps))


def _columns(
    header: list[str], name: str, zones: Sequence[str], heats: Mapping[str, str]
) -> tuple[list[str], dict[str, str]]:
    """Temperature columns of the zones, and power column → zone."""
    for column in header:
        if column and header.count(column) > 1:
            raise ConfigError(f"{name}:1: {column}: this column appears twice")
    if "time_s" not in header:
        raise ConfigError(f"{name}:1: time_s: this column is missing (needed: time_s, NAME_c and NAME_w of each zone)")
    there = [c[:-2] for c in header if c.endswith("_c") and c != "ambient_c"]
    chosen = list(zones) or there
    for zone in chosen:
        if zone not in there:
            raise ConfigError(f"{name}:1: {zone}_c: this column is missing (zones here: {', '.join(there) or 'none'})")
    if not chosen:
        raise ConfigError(f"{name}:1: no zone: a column such as gpu_c with its temperature in °C is missing")
    if len(chosen) > MAX_ZONES:
        raise ConfigError(f"{name}:1: {len(chosen)} zones are more than {MAX_ZONES}; pick those that matter by --zone")
    powers = _powers([c for c in header if c.endswith("_w")], chosen, heats, there, name)
    for zone in chosen:
        if zone not in powers.values():
            raise ConfigError(
                f"{name}:1: {zone}_w: what heats {zone} is not recorded, so its heat capacity cannot be told; add the "
                f"column, say which one heats it (--heats COLUMN={zone}), or leave the zone out (--zone)"
            )
    return [f"{zone}_c" for zone in chosen], powers


def _powers(
    columns: list[str], chosen: list[str], heats: Mapping[str, str], there: list[str], name: str
) -> dict[str, str]:
    for named, zone in heats.items():
        if f"{named}_w" not in columns:
            raise ConfigError(f"{name}:1: {named}_w: this column is missing (--heats {named}={zone})")
        if zone != NOWHERE and zone not in there:
            raise ConfigError(f"{name}:1: {zone}_c: this column is missing (--heats {named}={zone})")
    found: dict[str, str] = {}
    for column in columns:
        zone = heats.get(column[:-2], column[:-2])
        if zone not in there and zone != NOWHERE and len(columns) == len(there) == 1:
            zone = there[0]
        if zone not in there and zone != NOWHERE:
            raise ConfigError(
                f"{name}:1: {column}: which zone it heats is unknown; say --heats {column[:-2]}=ZONE with ZONE one of "
                f"{', '.join(there)}, or --heats {column[:-2]}={NOWHERE} to leave it out"
            )
        if zone in chosen:
            found[column] = zone
    return found


def _rows(reader: NumberedRows, header: list[str], known: list[str], name: str) -> tuple[dict[str, Array], int]:
    places = [header.index(column) for column in known]
    values: list[list[float]] = []
    gaps = 0
    for cells in reader:
        where = f"{name}:{reader.line_num}"
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise ConfigError(f"{where}: {len(cells)} cells, but the header names {len(header)} columns")
        found = [(column, cells[place].strip()) for column, place in zip(known, places, strict=True)]
        if not all(cell for _, cell in found):
            gaps += 1
            continue
        row = [_number(cell, column, where) for column, cell in found]
        if values and row[0] <= values[-1][0]:
            raise ConfigError(f"{where}: time_s: {row[0]:g} does not come after {values[-1][0]:g}; times must rise")
        values.append(row)
        if len(values) > MAX_ROWS:
            raise ConfigError(f"{where}: more than {MAX_ROWS} rows; record fewer samples per second")
    if len(values) < MIN_ROWS:
        raise ConfigError(f"{name}: {len(values)} whole rows; at least {MIN_ROWS} are needed")
    return dict(zip(known, np.array(values).T, strict=True)), gaps


def _number(cell: str, column: str, where: str) -> float:
    kind = column if column in _LIMITS else column[-2:]
    low, high = _LIMITS[kind]
    try:
        value = float(cell) if cell.isascii() and "_" not in cell else math.nan
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise ConfigError(f"{where}: {column}: {cell[:40]!r} is not {_RULES[kind]}")
    return value


def _made(
    table: dict[str, Array], kept: list[str], powers: dict[str, str], ambient_c: float | None, notes: list[str]
) -> HeatRecording:
    times = table["time_s"]
    zones = tuple(column[:-2] for column in kept)
    power_w = np.array([sum(table[c] for c, zone in powers.items() if zone == mine) for mine in zones])
    fan = table.get("fan")
    if fan is not None and float(np.ptp(fan)) == 0.0:
        notes.append(f"the fan ran at {fan[0]:.0%} throughout: what its speed does is not told apart from the rest")
        fan = None
    air = table.get("ambient_c")
    if air is None:
        air = np.full(times.shape, float(ambient_c or 0.0))
    elif ambient_c is not None:
        notes.append("ambient_c of the recording counts, not --ambient")
    return HeatRecording(
        zones, times, np.array([table[column] for column in kept]), power_w, air, fan, tuple(notes)
    )  # fmt: skip


def _notes(unused: list[str], gaps: int) -> list[str]:
    notes = [f"{gaps} row{'s' * (gaps > 1)} with empty cells left out"] if gaps else []
    return [*notes, f"columns not used: {', '.join(unused)}"] if unused else notes
