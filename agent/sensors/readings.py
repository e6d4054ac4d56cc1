"""Readings: the one place where raw results become a `Reading`, and where implausible values are refused."""

from __future__ import annotations

import math
from typing import Literal

from agent.ports import Reading
from agent.sensors.sysfs import Missing

Kind = Literal["temperature_c", "power_w", "energy_j", "share", "frequency_hz"]

PLAUSIBLE: dict[Kind, tuple[float, float]] = {
    "temperature_c": (-40.0, 150.0),
    "power_w": (0.0, 20_000.0),
    "energy_j": (0.0, math.inf),
    "share": (0.0, 1.0),
    "frequency_hz": (0.0, 20e9),
}
"""Inclusive bounds; silicon sensors are specified for −40…150 °C, and no board here draws 20 kW."""


def value(name: str, kind: Kind, number: float, now_s: float, source: str, detail: str = "") -> Reading:
    """A reading, or the fault `implausible` where the number is not finite or out of bounds."""
    low, high = PLAUSIBLE[kind]
    if math.isfinite(number) and low <= number <= high:
        return Reading(name, kind, number, None, now_s, source, detail)
    return implausible(name, kind, now_s, source, f"{number:g} is outside {low:g}…{high:g}")


def implausible(name: str, kind: Kind, now_s: float, source: str, detail: str) -> Reading:
    """The sensor answers, but its answer cannot be true."""
    return Reading(name, kind, None, "implausible", now_s, source, detail)


def absent(name: str, kind: Kind, now_s: float, source: str, detail: str) -> Reading:
    """There is no such sensor here."""
    return Reading(name, kind, None, "absent", now_s, source, detail)


def failed(name: str, kind: Kind, now_s: float, source: str, detail: str) -> Reading:
    """The sensor is there and gave no value."""
    return Reading(name, kind, None, "read_failed", now_s, source, detail)


def missing(name: str, kind: Kind, now_s: float, source: str, why: Missing) -> Reading:
    """The fault that a failed file read stands for."""
    if why.cause == "garbage":
        return implausible(name, kind, now_s, source, why.text())
    make = absent if why.cause == "absent" else failed
    return make(name, kind, now_s, source, why.text())
