"""Hwmon: temperatures and power of hardware-monitoring chips, found by chip name and channel label.

A channel is written `chip/label`, both shell-style patterns: `coretemp/Package id 0`, `ina3221/VDD_IN`, `ina238/*`.
Power comes from `powerN_input` or `powerN_average` where the chip computes it, else it is volts × amps of the channel
(INA3221: `inN_input` and `currN_input`, labelled by `inN_label`).
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Literal

from agent.ports import Reading
from agent.records import record
from agent.sensors import readings
from agent.sensors.sysfs import Missing, SysfsReader
from agent.sensors.thermal_zone import hottest

FOLDER = "sys/class/hwmon"
RESCAN_S = 1.0


@record(frozen=True)
class Channel:
    """One quantity of one chip."""

    kind: Literal["temperature_c", "power_w"]
    chip: str
    label: str
    folder: str
    files: tuple[str, ...]
    """One file (millidegrees or microwatts), or millivolts and milliamperes."""

    @property
    def name(self) -> str:
        """`chip/label`."""
        return f"{self.chip}/{self.label}"


def find_channels(reader: SysfsReader) -> tuple[Channel, ...]:
    """Every temperature and power channel, in the kernel's order."""
    found: list[Channel] = []
    for entry in reader.list_dir(FOLDER):
        folder = f"{FOLDER}/{entry}"
        chip = reader.read_text(f"{folder}/name")
        if isinstance(chip, Missing) or not chip:
            continue
        files = frozenset(reader.list_dir(folder))
        found += _temperatures(reader, folder, chip, files)
        found += _powers(reader, folder, chip, files)
    return tuple(found)


def _temperatures(reader: SysfsReader, folder: str, chip: str, files: frozenset[str]) -> list[Channel]:
    return [
        Channel("temperature_c", chip, _label(reader, folder, f"temp{n}", f"temp{n}"), folder, (f"temp{n}_input",))
        for n in _numbers(files, r"temp(\d+)_input")
    ]


def _powers(reader: SysfsReader, folder: str, chip: str, files: frozenset[str]) -> list[Channel]:
    whole = reader.read_text(f"{folder}/label")
    chip_label = None if isinstance(whole, Missing) or not whole else whole
    direct = []
    for n in _numbers(files, r"power(\d+)_(?:input|average)"):
        file = f"power{n}_input" if f"power{n}_input" in files else f"power{n}_average"
        label = _label(reader, folder, f"power{n}", chip_label or f"power{n}")
        direct.append(Channel("power_w", chip, label, folder, (file,)))
    if direct:
        return direct
    pairs = [n for n in _numbers(files, r"curr(\d+)_input") if f"in{n}_input" in files]
    return [
        Channel(
            "power_w", chip, _label(reader, folder, f"in{n}", chip_label or f"in{n}"), folder,
            (f"in{n}_input", f"curr{n}_input"),
        )
        for n in pairs
    ]  # fmt: skip


def _numbers(files: frozenset[str], pattern: str) -> list[int]:
    return sorted({int(m.group(1)) for m in (re.fullmatch(pattern, file) for file in files) if m})


def _label(reader: SysfsReader, folder: str, channel: str, otherwise: str) -> str:
    label = reader.read_text(f"{folder}/{channel}_label")
    return otherwise if isinstance(label, Missing) or not label else label


class _HwmonSensor:
    """Keeps the matching channels and looks for them again when the chip is no longer at its number."""

    kind: Literal["temperature_c", "power_w"]

    def __init__(self, name: str, pattern: str, reader: SysfsReader) -> None:
        self.name = name
        self._pattern = pattern
        self._reader = reader
        self._channels: tuple[Channel, ...] = ()
        self._searched_s: float | None = None
        self._source = f"hwmon {pattern}"

    def _found(self, now_s: float) -> tuple[Channel, ...]:
        in_place = all(self._reader.read_text(f"{c.folder}/name") == c.chip for c in self._channels)
        due = self._searched_s is None or now_s - self._searched_s >= RESCAN_S
        if not (self._channels and in_place) and due:
            self._searched_s = now_s
            matching = [c for c in find_channels(self._reader) if c.kind == self.kind]
            self._channels = tuple(c for c in matching if fnmatchcase(c.name, self._pattern))
            return self._channels
        return self._channels if in_place else ()

    def _absent(self, now_s: float) -> Reading:
        detail = f"no hwmon chip has a channel {self._pattern!r}"
        return readings.absent(self.name, self.kind, now_s, self._source, detail)


class HwmonTemperature(_HwmonSensor):
    """The hottest of the channels that match."""

    kind: Literal["temperature_c"] = "temperature_c"

    def read(self, now_s: float) -> Reading:
        """°C."""
        channels = self._found(now_s)
        if not channels:
            return self._absent(now_s)
        results = [self._reader.read_int(f"{c.folder}/{c.files[0]}") for c in channels]
        return hottest(self.name, results, now_s, self._source)


class HwmonPower(_HwmonSensor):
    """The sum of the channels that match."""

    kind: Literal["power_w"] = "power_w"

    def read(self, now_s: float) -> Reading:
        """W; a channel without a value makes the sum a fault, because a part is not the whole."""
        channels = self._found(now_s)
        if not channels:
            return self._absent(now_s)
        total_w = 0.0
        for channel in channels:
            power_w = self._power_w(channel)
            if isinstance(power_w, Missing):
                return readings.missing(self.name, "power_w", now_s, self._source, power_w)
            part = readings.value(self.name, "power_w", power_w, now_s, self._source)
            if part.value is None:
                return part
            total_w += power_w
        return readings.value(self.name, "power_w", total_w, now_s, self._source)

    def _power_w(self, channel: Channel) -> float | Missing:
        raw = [self._reader.read_int(f"{channel.folder}/{file}") for file in channel.files]
        product = 1.0
        for number in raw:
            if isinstance(number, Missing):
                return number
            product *= number
        return product * 1e-6  # microwatts, or millivolts × milliamperes
