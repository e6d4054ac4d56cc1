"""Battery: charge and draw from /sys/class/power_supply. Batteries of mice and pens (scope Device) are not ours."""

from __future__ import annotations

from fnmatch import fnmatchcase

from agent.ports import Reading
from agent.sensors import readings
from agent.sensors.sysfs import Missing, SysfsReader

FOLDER = "sys/class/power_supply"


def find_batteries(reader: SysfsReader) -> tuple[str, ...]:
    """Names of the batteries that feed this machine."""
    return tuple(
        entry
        for entry in reader.list_dir(FOLDER)
        if reader.read_text(f"{FOLDER}/{entry}/type") == "Battery"
        and reader.read_text(f"{FOLDER}/{entry}/scope") != "Device"
    )


class _Battery:
    """One battery, by the name of a quantity and a pattern of its own."""

    def __init__(self, name: str, pattern: str, reader: SysfsReader) -> None:
        self.name = name
        self._pattern = pattern
        self._reader = reader
        self._source = f"battery {pattern}"


class BatteryCharge(_Battery):
    """Charge of one battery as a share."""

    def read(self, now_s: float) -> Reading:
        """0 (empty) to 1 (full)."""
        battery = first_battery(self._reader, self._pattern)
        if battery is None:
            return readings.absent(self.name, "share", now_s, self._source, f"there is no battery {self._pattern!r}")
        percent = self._reader.read_int(f"{FOLDER}/{battery}/capacity")
        if isinstance(percent, Missing):
            return readings.missing(self.name, "share", now_s, self._source, percent)
        return readings.value(self.name, "share", percent / 100.0, now_s, self._source)


class BatteryPower(_Battery):
    """Draw of the whole board, known only while it runs on the battery."""

    def read(self, now_s: float) -> Reading:
        """W. On mains the battery's power is what charges it, which says nothing about the board: a fault."""
        battery = first_battery(self._reader, self._pattern)
        if battery is None:
            return readings.absent(self.name, "power_w", now_s, self._source, f"there is no battery {self._pattern!r}")
        folder = f"{FOLDER}/{battery}"
        status = self._reader.read_text(f"{folder}/status")
        if isinstance(status, Missing):
            return readings.missing(self.name, "power_w", now_s, self._source, status)
        if status != "Discharging":
            detail = f"the board's draw is known only while it runs on the battery, which is {status.lower()}"
            return readings.absent(self.name, "power_w", now_s, self._source, detail)
        power_w = self._power_w(folder)
        if isinstance(power_w, Missing):
            return readings.missing(self.name, "power_w", now_s, self._source, power_w)
        return readings.value(self.name, "power_w", power_w, now_s, self._source)

    def _power_w(self, folder: str) -> float | Missing:
        # While discharging some drivers count the current as negative, others not: the direction is known from status.
        microwatts = self._reader.read_int(f"{folder}/power_now")
        if not isinstance(microwatts, Missing):
            return abs(microwatts) * 1e-6
        microamperes = self._reader.read_int(f"{folder}/current_now")
        if isinstance(microamperes, Missing):
            return microamperes
        microvolts = self._reader.read_int(f"{folder}/voltage_now")
        return microvolts if isinstance(microvolts, Missing) else abs(microamperes) * microvolts * 1e-12


def first_battery(reader: SysfsReader, pattern: str) -> str | None:
    """The first battery whose name matches."""
    return next((b for b in find_batteries(reader) if fnmatchcase(b, pattern)), None)
