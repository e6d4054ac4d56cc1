"""Hardware of a measurement: peaks, units and clocks of the accelerator its row names, at the row's operating point."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from agent.errors import ConfigError
from agent.evaluation.spelling import board_pattern, device_kind, mode_pattern
from agent.evaluation.table import Measurement
from agent.records import record
from agent.schema.nearest import listed
from agent.storage import yaml_files
from agent.storage.schema_problems import closest

_CLOCK = {
    "gpu": r"GPU (\d+(?:\.\d+)?)",
    "dla": r"DLA (\d+(?:\.\d+)?)",
    "cpu": r"CPU (?:(?:\d+)x)?(\d{3,4}(?:\.\d+)?)",
    "memory": r"EMC (\d{3,4})",
}
_FULL = re.compile(
    r"(?<!non-)\bmax(n|p|imum)?(?![a-z0-9])|default|not stated|stock|full|performance|super|^(n/?a|-+|unknown)$", re.I
)
"""Power modes that mean the board's own full clocks."""


@record(frozen=True, slots=True)
class Accelerator:
    """Peaks at full clocks [flops/s, bytes/s]; `sram_bytes` and `link_bytes_per_s` where weights cross a link."""

    kind: str
    silicon: str
    kin: str
    peak_flops_per_s: dict[str, float]
    bandwidth_bytes_per_s: float
    units: float
    clock_hz: float
    memory_hz: float
    power_w: float
    floor_hz: float
    sram_bytes: float | None = None
    buffer_share: float = 0.0
    """Share of a sample's activations that on-chip memory must hold beside the weights."""
    streams_all: bool = False
    """What does not fit is loaded as a whole for every query, not only the excess."""
    link_bytes_per_s: float | None = None

    def peak(self, precision: str) -> float:
        """Peak of `precision`, or of the widest narrower one the data names."""
        for name in (precision, "fp16", "int8", "fp32"):
            if name in self.peak_flops_per_s:
                return self.peak_flops_per_s[name]
        raise ConfigError(f"hardware: accelerator {self.kind} of {self.silicon} has no peak")


@record(frozen=True, slots=True)
class Site:
    """Where a row ran: accelerator, its operating point, and what the board draws idle."""

    board: str
    scale: str
    accelerator: Accelerator
    units: float
    clock_hz: float
    memory_hz: float
    idle_w: float
    host_clock_share: float
    dla: Accelerator | None = None
    dla_clock_hz: float = 0.0
    unknown_mode: str = ""
    """The row's power mode where the table has none such and full clocks stand in for it."""

    @property
    def operating_point(self) -> str:
        """Units and clocks that the prediction assumes."""
        text = f"{self.units:g} units × {self.clock_hz / 1e6:g} MHz, memory {self.memory_hz / 1e6:g} MHz"
        return f"{text}, DLA {self.dla_clock_hz / 1e6:g} MHz" if self.dla else text

    @property
    def device(self) -> str:
        """What ran, as the tables of the fit write it."""
        return f"{self.accelerator.kind}+dla" if self.dla else self.accelerator.kind


class Hardware:
    """The table of boards; lookups never fail silently: they return a `Site` or the sentence that says why not."""

    def __init__(self, document: dict[str, Any], name: str = "hardware") -> None:
        self._boards = document["boards"]
        self._patterns = [[board_pattern(pattern) for pattern in board["match"]] for board in self._boards]
        self._name = name

    @cached_property
    def known(self) -> tuple[str, ...]:
        """Names of the boards, for messages."""
        return tuple(board["name"] for board in self._boards)

    def board_with(self, text: str, kind: str) -> str | None:
        """Name of the first board that `text` names and that has an accelerator of that kind."""
        found = next((board for board in self._named(text) if kind in board["accelerators"]), None)
        return str(found["name"]) if found else None

    def site(self, row: Measurement) -> Site | str:
        """Accelerator and operating point of a row, or why there is none."""
        boards = list(self._named(row.board))
        if not boards:
            return f"board {row.board!r} is not known{self._suggestion(row.board)} ({listed(row.board, self.known)})"
        kind, _, extra = (device_kind(row.device, boards[0]["accelerators"]) or row.device).partition("+")
        board = next((board for board in boards if kind in board["accelerators"]), None)
        if board is None:
            have = ", ".join(sorted(boards[0]["accelerators"]))
            return f"device {row.device!r} of {boards[0]['name']} has no published peaks (known: {have})"
        entry = board["accelerators"][kind]
        mode = self._mode(board, row)
        accelerator = _accelerator(kind, board, entry)
        dla_entry = board["accelerators"].get("dla") if extra == "dla" else None
        dla = _accelerator("dla", board, dla_entry) if dla_entry else None
        own = mode.get(kind, {})
        memory_mhz = _clock("memory", row) or mode.get("memory_mhz") or accelerator.memory_hz / 1e6
        clock = _clock(kind, row) or own.get("clock_mhz") or accelerator.clock_hz / 1e6
        host = board["accelerators"].get("cpu")
        host_mhz = _clock("cpu", row) or mode.get("cpu", {}).get("clock_mhz")
        return Site(
            board=board["name"],
            scale=board["scale"],
            accelerator=accelerator,
            units=float(own.get("units", accelerator.units)),
            clock_hz=1e6 * float(clock),
            memory_hz=1e6 * float(memory_mhz),
            idle_w=float(row.idle_power_w or mode.get("idle_w") or board["idle_w"]),
            host_clock_share=float(host_mhz) / host["clock_mhz"] if host and host_mhz else 1.0,
            dla=dla,
            dla_clock_hz=1e6 * float(_clock("dla", row) or mode.get("dla", {}).get("clock_mhz") or 0.0)
            or (dla.clock_hz if dla else 0.0),
            unknown_mode="" if mode or _clock(kind, row) or _FULL.search(row.power_mode) else row.power_mode.strip(),
        )

    def _named(self, text: str) -> Iterator[dict[str, Any]]:
        """Boards that a text names, the most particular first."""
        for board, patterns in zip(self._boards, self._patterns, strict=True):
            if any(pattern.search(text) for pattern in patterns):
                yield dict(board)

    def _suggestion(self, text: str) -> str:
        near = closest(text.strip(), self.known)
        return f" – did you mean {near}?" if near else ""

    def _mode(self, board: dict[str, Any], row: Measurement) -> dict[str, Any]:
        """The mode that the row's `power_mode` names; failing that, the source or the board's own name."""
        modes = list(board.get("modes", ()))
        for text in (row.power_mode, row.board):
            for mode in modes:
                where = row.source if "source" in mode else text
                if where and mode_pattern(mode.get("source") or mode["match"]).search(where):
                    return dict(mode)
        return {}


def _accelerator(kind: str, board: dict[str, Any], entry: dict[str, Any]) -> Accelerator:
    clock_hz = 1e6 * entry["clock_mhz"]
    shared = board["accelerators"].get("gpu", {}).get("bandwidth", 1e9)
    return Accelerator(
        kind=kind,
        silicon=entry.get("silicon", board["silicon"]),
        kin=entry.get("kin", board["kin"]),
        peak_flops_per_s={p: float(entry[p]) for p in ("fp32", "fp16", "int8") if p in entry},
        bandwidth_bytes_per_s=float(entry.get("bandwidth", shared)),
        units=float(entry["units"]),
        clock_hz=clock_hz,
        memory_hz=1e6 * entry.get("memory_mhz", 1000),
        power_w=float(entry["power_w"]),
        floor_hz=1e6 * entry.get("floor_mhz", 0.6 * entry["clock_mhz"]),
        sram_bytes=float(entry["sram"]) if "sram" in entry else None,
        buffer_share=float(entry.get("buffer_share", 0.0)),
        streams_all=bool(entry.get("streams_all", False)),
        link_bytes_per_s=float(entry["link"]) if "link" in entry else None,
    )


def _clock(what: str, row: Measurement) -> float | None:
    found = re.search(_CLOCK[what], row.clocks) if what in _CLOCK else None
    return float(found.group(1)) if found else None


def load_hardware(path: Path) -> Hardware:
    """The table of boards from its YAML file. Raises ConfigError."""
    document = yaml_files.read_document(path).data
    if not isinstance(document, dict) or "boards" not in document:
        raise ConfigError(f"{path}: is not a table of hardware")
    return Hardware(document, str(path))
