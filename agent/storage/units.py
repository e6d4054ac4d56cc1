"""Units that keys carry as a suffix: how to call them, and which number a value with a unit of its own means."""

from __future__ import annotations

import re

from agent.records import record


@record(frozen=True)
class Unit:
    """What a suffix stands for, and the factors of other spellings of the same quantity."""

    words: str
    factors: dict[str, float]


_BINARY = {
    "B": 1.0,
    "KiB": 2.0**10,
    "MiB": 2.0**20,
    "GiB": 2.0**30,
    "kB": 1e3,
    "KB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "TB": 1e12,
}
_UNITS: dict[str, Unit] = {
    "flops_per_s": Unit("operations per second", {"GFLOPS": 1e9, "TFLOPS": 1e12, "GOPS": 1e9, "TOPS": 1e12}),
    "bytes_per_s": Unit("bytes per second", {f"{name}/s": factor for name, factor in _BINARY.items()}),
    "j_per_byte": Unit("joules per byte", {"J": 1.0, "nJ": 1e-9, "pJ": 1e-12}),
    "j_per_flop": Unit("joules per operation", {"J": 1.0, "nJ": 1e-9, "pJ": 1e-12}),
    "j_per_k": Unit("joules per kelvin", {"J/K": 1.0, "kJ/K": 1e3}),
    "w_per_k": Unit("watts per kelvin", {"W/K": 1.0, "mW/K": 1e-3}),
    "bytes": Unit("bytes", _BINARY),
    "flops": Unit("operations", {"MFLOP": 1e6, "GFLOP": 1e9, "TFLOP": 1e12}),
    "share": Unit("a share between 0 and 1", {"%": 0.01}),
    "hz": Unit("hertz", {"Hz": 1.0, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9}),
    "usd": Unit("US dollars", {"$": 1.0, "USD": 1.0}),
    "ev": Unit("electronvolts", {"eV": 1.0, "meV": 1e-3}),
    "c": Unit("degrees Celsius", {"C": 1.0, "°C": 1.0, "degC": 1.0}),
    "w": Unit("watts", {"W": 1.0, "mW": 1e-3, "kW": 1e3, "watt": 1.0, "watts": 1.0}),
    "j": Unit("joules", {"J": 1.0, "mJ": 1e-3, "kJ": 1e3, "Wh": 3600.0}),
    "s": Unit(
        "seconds", {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "min": 60.0, "m": 60.0, "h": 3600.0, "sec": 1.0}
    ),
}
_FOREIGN = (
    *("f", "k", "celsius", "fahrenheit", "mw", "kw", "watt", "watts", "mj", "kj", "joules", "percent", "pct", "eur"),
    *("ms", "us", "ns", "sec", "min", "seconds", "mhz", "ghz", "gflops", "tops", "gbs", "gb_s", "mb_s", "gb_per_s"),
    *("kb", "mb", "gb", "kib", "mib", "gib"),
)
_NUMBER_WITH_UNIT = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\d\s].*?)?\s*")


def unit_of(key: str) -> Unit | None:
    """The unit that a key's suffix names, e.g. watts for `power_cap_w`; the longest suffix wins."""
    for suffix, unit in _UNITS.items():
        if key == suffix or key.endswith(f"_{suffix}"):
            return unit
    return None


def stem(key: str) -> str:
    """The key without its unit, in whatever unit it is: `soft` for `soft_c`, `soft_f` and `soft`."""
    for suffix in sorted((*_UNITS, *_FOREIGN), key=len, reverse=True):
        if key.endswith(f"_{suffix}"):
            return key[: -len(suffix) - 1]
    return key


def number_in(text: str, unit: Unit | None) -> float | None:
    """The number that `text` means in `unit`: 85 for '85C', 0.5 for '500 mW' in watts; None where that is not clear."""
    match = _NUMBER_WITH_UNIT.fullmatch(text)
    if match is None:
        return None
    number, spelled = float(match[1]), match[2]
    if spelled is None:
        return number
    if unit is None:
        return None
    if "C" in unit.factors and spelled.lstrip("°").upper() == "F":
        return round((number - 32) * 5 / 9, 3)
    factor = unit.factors.get(spelled)
    return None if factor is None else number * factor
