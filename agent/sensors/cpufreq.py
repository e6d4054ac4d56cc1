"""Cpufreq: the clock that the cores run at, against the one they could. A low share under load shows throttling."""

from __future__ import annotations

from agent.ports import Reading
from agent.sensors import readings
from agent.sensors.host import CPU_FOLDER
from agent.sensors.sysfs import Missing, SysfsReader

FOLDER = f"{CPU_FOLDER}/cpufreq"


def find_policies(reader: SysfsReader) -> tuple[str, ...]:
    """Folders of the frequency domains."""
    return tuple(f"{FOLDER}/{entry}" for entry in reader.list_dir(FOLDER) if entry.startswith("policy"))


class CpuClockShare:
    """The fastest frequency domain's clock as a share of its maximum."""

    def __init__(self, name: str, reader: SysfsReader) -> None:
        self.name = name
        self._reader = reader
        self._policies = find_policies(reader)

    def read(self, now_s: float) -> Reading:
        """0 to 1; turbo may exceed the stated maximum a little and counts as 1."""
        shares: list[float] = []
        why: Missing | None = None
        for folder in self._policies:
            now_khz = self._reader.read_int(f"{folder}/scaling_cur_freq")
            max_khz = self._reader.read_int(f"{folder}/cpuinfo_max_freq")
            if isinstance(now_khz, Missing) or isinstance(max_khz, Missing):
                why = now_khz if isinstance(now_khz, Missing) else max_khz if isinstance(max_khz, Missing) else None
            elif max_khz > 0:
                shares.append(min(1.0, now_khz / max_khz))
        if shares:
            return readings.value(self.name, "share", max(shares), now_s, "cpufreq")
        if why is not None:
            return readings.missing(self.name, "share", now_s, "cpufreq", why)
        return readings.absent(self.name, "share", now_s, "cpufreq", "the kernel shows no CPU frequency")
