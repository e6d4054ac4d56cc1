"""Reporting: what the supervisor tells, through telemetry windows into the outbox, and over MQTT where configured."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from agent import __version__
from agent.mqtt.link import Link
from agent.mqtt.publisher import Publisher
from agent.mqtt.topics import Topics
from agent.ports import Clock, Reading
from agent.schema.settings import Settings
from agent.schema.snapshot import AgentSnapshot
from agent.sensors.energy import EnergyMeter, EnergyWindow
from agent.service.supervisor import ConditionEvent, Event
from agent.service.telemetry import Window, next_window
from agent.storage.outbox import Outbox

_CHECK_S = 1.0
MAX_SENSOR_GAP_S = 10.0
"""Power is not interpolated over longer silences."""

_log = structlog.get_logger("reporting")


class Reporting:
    """The supervisor's TelemetrySink; its two methods only add to memory."""

    def __init__(self, settings: Settings, board: str, boot: int, clock: Clock) -> None:
        self._clock = clock
        self._settings = settings
        self._boot = boot
        path = settings.state_dir / "outbox.db"
        self.outbox = Outbox(path, boot, settings.outbox.max_bytes, settings.outbox.flush_s, clock)
        self._energies: Callable[[], Mapping[str, float]] = dict
        self._window_s: Callable[[], float] = lambda: 10.0
        self._snapshot: Callable[[], AgentSnapshot | None] = lambda: None
        self._post: Callable[[Event], None] = _nowhere
        self._window: Window | None = None
        self._meters: dict[str, EnergyMeter] = {}
        self._measured: tuple[Reading, ...] = ()
        self._link: Link | None = None
        self._publisher: Publisher | None = None
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._watch_links, name="reporting", daemon=True)
        if settings.mqtt is not None:
            topics = Topics(settings.mqtt.tenant, board)
            self._publisher = Publisher(self.outbox, topics, settings.mqtt, clock)
            self._link = Link(
                settings.mqtt, topics, boot, clock, self._birth, self._publisher.on_message,
                self._publisher.on_published, self._publisher.on_connected,
            )  # fmt: skip

    def attach(
        self,
        post: Callable[[Event], None],
        snapshot: Callable[[], AgentSnapshot],
        energies_j: Callable[[], Mapping[str, float]],
        window_s: Callable[[], float],
    ) -> None:
        """Connect to the supervisor: where conditions go, and where totals and the cadence come from."""
        self._post, self._snapshot, self._energies, self._window_s = post, snapshot, energies_j, window_s

    # ------------------------------------------------------------------ the supervisor's thread

    def tick(self, snapshot: AgentSnapshot, readings: tuple[Reading, ...], now_s: float) -> None:
        """Add a snapshot to the window; close it when it is full."""
        if self._window is None:
            self._window = next_window(snapshot, self._energies(), now_s)
        self._window.add(snapshot)
        self._measure(snapshot, readings)
        if now_s - self._window.begun_s >= self._window_s():
            energies_j = self._energies()
            row = self._window.close(snapshot, energies_j, now_s, self._clock.wall_s())
            row["rails"] = {name: _rail(meter.close(now_s)) for name, meter in self._meters.items()}
            self.outbox.append("tlm", row)
            self._window = next_window(snapshot, energies_j, now_s)

    def _measure(self, snapshot: AgentSnapshot, readings: tuple[Reading, ...]) -> None:
        """Integrate every power and energy sensor; the time with requests in a lane counts as busy."""
        if readings is self._measured:
            return
        self._measured = readings
        busy = 1.0 if any(a.queue for a in snapshot.accelerators) else 0.0
        for reading in readings:
            if reading.kind in {"power_w", "energy_j"}:
                meter = self._meters.setdefault(reading.name, EnergyMeter(reading.name, MAX_SENSOR_GAP_S))
                meter.add(reading, busy)

    def event(self, kind: str, fields: Mapping[str, Any]) -> None:
        """Something that happened once; committed at once."""
        now_s = self._clock.monotonic_s()
        row = {"ts": round(self._clock.wall_s(), 3), "mono": round(now_s, 3), "event": kind, **fields}
        self.outbox.append("evt", row)
        if kind == "policy_accepted" and self._link is not None:
            self._link.publish_birth()

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Begin to commit, and to connect where a broker is configured."""
        self.outbox.start()
        if self.outbox.recovered is not None:
            self._condition("outbox_recovered", self.outbox.recovered, "older telemetry is lost", "keep or delete it")
        if self._link is not None and self._publisher is not None:
            self._link.start()
            self._publisher.start(self._link)
        self._watch.start()

    def alive(self) -> bool:
        """Whether every thread of it makes progress."""
        if self._publisher is not None and not self._publisher.alive():
            return False
        linked = self._link is None or self._link.status().loop_alive_s is not None
        return linked and self.outbox.alive()

    def stop(self) -> None:
        """Commit the last window, say goodbye, close."""
        self._stop.set()
        if self._watch.is_alive():
            self._watch.join(2.0)
        snapshot = self._snapshot()
        if self._window is not None and snapshot is not None:
            now_s = self._clock.monotonic_s()
            row = self._window.close(snapshot, self._energies(), now_s, self._clock.wall_s())
            self.outbox.append("tlm", row)
            self._window = None
        self.outbox.flush()
        if self._publisher is not None and self._publisher.alive():
            self._publisher.stop()
        if self._link is not None:
            self._link.stop()
        self.outbox.stop()

    def _birth(self) -> dict[str, Any]:
        snapshot = self._snapshot()
        fields: dict[str, Any] = {"ts": round(self._clock.wall_s(), 3), "agent": __version__}
        if snapshot is not None:
            fields["policy"] = {"name": snapshot.agent.policy, "sha256": snapshot.agent.policy_digest}
            fields["profile"] = snapshot.agent.profile
            fields["cond"] = [{"type": c.type, "since": c.since} for c in snapshot.conditions]
        return fields

    # ------------------------------------------------------------------ conditions of the links

    def _watch_links(self) -> None:
        try:
            while not self._stop.wait(_CHECK_S):
                self.check()
        except Exception:  # noqa: BLE001  (thread root: conditions get old, telemetry itself goes on)
            _log.exception("reporting died")

    def check(self) -> None:
        """State or clear the conditions of broker and spool."""
        if self._link is not None and self._publisher is not None:
            status = self._link.status()
            if status.connected:
                self._condition("broker_unreachable", None)
            elif status.last_error is not None:
                mend = "check mqtt.host and mqtt.port, and that the broker runs"
                self._condition("broker_unreachable", status.last_error, "telemetry waits in the outbox", mend)
            mend = "check the broker's access list for this board"
            self._condition("telemetry_refused", self._publisher.refused, "telemetry waits in the outbox", mend)
            silent = self._publisher.unacknowledged and status.connected and self.outbox.counters["committed"] > 0
            cause = "no backend acknowledges our telemetry" if silent else None
            mend = "run a backend, or set mqtt.delete_on: puback if there is none"
            self._condition("telemetry_unacknowledged", cause, "it stays in the outbox until that is full", mend)
        counters = self.outbox.counters
        cause = f"{counters['write_errors']} commits failed" if counters["write_errors"] else None
        self._condition("outbox_write_errors", cause, "telemetry may be lost", "free space in state_dir")

    def _condition(self, kind: str, cause: str | None, consequence: str = "", mend: str = "") -> None:
        self._post(ConditionEvent(kind, cause, consequence, mend))


def _rail(window: EnergyWindow) -> dict[str, Any]:
    return {
        "energy_j": window.energy_j, "busy_j": window.busy_j, "idle_j": window.idle_j,
        "covered_s": round(window.covered_s, 3), "provenance": window.provenance,
    }  # fmt: skip


def _nowhere(event: Event) -> None:
    """Before the supervisor is attached there is nobody to tell."""
