"""RAPL: cumulative energy counters of x86 packages under /sys/class/powercap (Intel, and AMD since Linux 5.8).

The counter wraps at `max_energy_range_uj`. Since Linux 5.10 only root may read it, as it leaks what other processes
compute (CVE-2020-8694). Virtual machines may show a counter that never moves: it is refused, not read as 0 W.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from fnmatch import fnmatchcase

from agent.ports import Reading
from agent.records import record
from agent.sensors import readings
from agent.sensors.sysfs import Missing, SysfsReader

FOLDER = "sys/class/powercap"
MAX_POWER_W = 5000.0
"""A domain cannot draw more: a larger step is a counter that was reset, not one that wrapped."""
MIN_STEP_S = 0.02
"""The hardware updates about every millisecond; over shorter steps the difference is mostly jitter."""
MAY_STAND = "uncore"
"""The only domain that truly draws nothing when its unit (the integrated GPU) is switched off."""
MEND = (
    "allow the agent's group with a tmpfiles.d line like: "
    "z /sys/class/powercap/intel-rapl:*/energy_uj 0440 root qeil (readers can infer what others compute)"
)


@record(frozen=True)
class Domain:
    """One counter."""

    name: str
    folder: str
    range_uj: int | None


def find_domains(reader: SysfsReader) -> tuple[Domain, ...]:
    """Every RAPL counter. `intel-rapl-mmio` shows the same registers a second time and is left out."""
    found = []
    for entry in reader.list_dir(FOLDER):
        if not entry.startswith("intel-rapl:"):
            continue
        folder = f"{FOLDER}/{entry}"
        name = reader.read_text(f"{folder}/name")
        if isinstance(name, Missing) or not name:
            continue
        limit = reader.read_int(f"{folder}/max_energy_range_uj")
        found.append(Domain(name, folder, None if isinstance(limit, Missing) or limit <= 0 else limit))
    return tuple(found)


@record(frozen=True)
class _Step:
    """What a counter did since the last look."""

    energy_j: float
    elapsed_s: float


class RaplCounter:
    """One domain: joules since the first look, whatever the register wrapped in between."""

    def __init__(self, domain: Domain, reader: SysfsReader) -> None:
        self.domain = domain
        self._reader = reader
        self._last: tuple[int, float] | None = None
        self._moved = False
        self._total_uj = 0

    def advance(self, now_s: float) -> _Step | Missing | str:
        """The step since the last look, why there is none, or what is implausible about it."""
        raw = self._reader.read_int(f"{self.domain.folder}/energy_uj")
        if isinstance(raw, Missing):
            self._last = None
            return raw
        last, self._last = self._last, (raw, now_s)
        if last is None:
            return _Step(0.0, 0.0)
        elapsed_s = now_s - last[1]
        step_uj = raw - last[0]
        if step_uj < 0 and self.domain.range_uj is not None:
            step_uj += self.domain.range_uj
        if step_uj < 0 or step_uj * 1e-6 > MAX_POWER_W * max(elapsed_s, MIN_STEP_S):
            return f"{self.domain.name}: the counter went from {last[0]} to {raw} µJ in {elapsed_s:.3g} s; it was reset"
        if step_uj == 0 and not (self._moved and self.domain.name == MAY_STAND):
            return f"{self.domain.name}: the counter does not move (a virtual machine may show a dead one)"
        self._moved = True
        self._total_uj += step_uj
        return _Step(step_uj * 1e-6, elapsed_s)

    @property
    def total_j(self) -> float:
        """Joules since the first look."""
        return self._total_uj * 1e-6


class _RaplSensor(ABC):
    """All domains whose name matches, as one: `package-*` covers every socket."""

    kind: readings.Kind

    def __init__(self, name: str, pattern: str, reader: SysfsReader) -> None:
        self.name = name
        self._pattern = pattern
        self._reader = reader
        self._counters: tuple[RaplCounter, ...] = ()
        self._latest: Reading | None = None
        self._source = f"rapl {pattern}"

    def read(self, now_s: float) -> Reading:
        """One read per domain; two reads within 20 ms give the same answer."""
        latest = self._latest
        if latest is not None and now_s - latest.t_s < MIN_STEP_S:
            return latest
        self._latest = self._read(now_s)
        return self._latest

    def _read(self, now_s: float) -> Reading:
        if not self._counters:
            domains = [d for d in find_domains(self._reader) if fnmatchcase(d.name, self._pattern)]
            self._counters = tuple(RaplCounter(domain, self._reader) for domain in domains)
        if not self._counters:
            detail = f"there is no RAPL domain {self._pattern!r}"
            return readings.absent(self.name, self.kind, now_s, self._source, detail)
        steps: list[_Step] = []
        problems: list[Reading] = []
        for counter in self._counters:  # every counter advances, also behind one that fails
            step = counter.advance(now_s)
            if isinstance(step, _Step):
                steps.append(step)
            elif isinstance(step, str):
                problems.append(readings.implausible(self.name, self.kind, now_s, self._source, step))
            else:
                problems.append(self._unreadable(step, now_s))
        return problems[0] if problems else self._made(steps, now_s)

    def _unreadable(self, why: Missing, now_s: float) -> Reading:
        if why.cause == "absent":
            self._counters = ()
        if why.cause == "denied":
            detail = f"{why.path}: permission denied; {MEND}"
            return readings.failed(self.name, self.kind, now_s, self._source, detail)
        return readings.missing(self.name, self.kind, now_s, self._source, why)

    @abstractmethod
    def _made(self, steps: list[_Step], now_s: float) -> Reading:
        """The reading when every counter moved plausibly."""


class RaplPower(_RaplSensor):
    """Mean power since the last read."""

    kind: readings.Kind = "power_w"

    def _made(self, steps: list[_Step], now_s: float) -> Reading:
        if any(step.elapsed_s <= 0 for step in steps):
            detail = "first look at the counter; the next one gives power"
            return readings.failed(self.name, self.kind, now_s, self._source, detail)
        power_w = sum(step.energy_j / step.elapsed_s for step in steps)
        return readings.value(self.name, self.kind, power_w, now_s, self._source)


class RaplEnergy(_RaplSensor):
    """Joules since the first read."""

    kind: readings.Kind = "energy_j"

    def _made(self, steps: list[_Step], now_s: float) -> Reading:
        del steps
        total_j = sum(counter.total_j for counter in self._counters)
        return readings.value(self.name, self.kind, total_j, now_s, self._source)
