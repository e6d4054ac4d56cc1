"""Reporting: what the supervisor tells, through telemetry windows into the outbox, and over MQTT where configured."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from agent import __version__
from agent.ports import Clock, Reading
from agent.schema.settings import Settings
from agent.schema.snapshot import AgentSnapshot
from agent.sensors.energy import EnergyMeter, EnergyWindow
from agent.service.history import History
from agent.service.mail import ConditionEvent, Event
from agent.service.remote.rail_shares import RailShares
from agent.service.remote.telemetry import Window, next_window
from agent.service.remote.timekeeping import Timekeeping, machine_start
from agent.storage.outbox import Outbox
from agent.storage.state_file import StorageFull
from agent.storage.wear import Wear

if TYPE_CHECKING:
    from agent.mqtt.inbound import Inbound
    from agent.mqtt.link import Link
    from agent.mqtt.publisher import Publisher

_CHECK_S = 1.0
MAX_SENSOR_GAP_S = 10.0
"""Power is not interpolated over longer silences."""
EVICTING_S = 600.0
"""The outbox counts as full for this long after it had to make room."""

_Part = TypeVar("_Part")
_log = structlog.get_logger("reporting")


class Reporting:
    """The supervisor's TelemetrySink; its two methods only add to memory."""

    def __init__(
        self,
        settings: Settings,
        board: str,
        boot: int,
        clock: Clock,
        keep_boot: Callable[[], None] = lambda: None,
    ) -> None:
        """keep_boot: raises StorageFull while the number of this start is not on disk; see Outbox."""
        self._clock = clock
        self._settings = settings
        self._boot = boot
        path = settings.state_dir / "outbox.db"
        self.outbox = Outbox(path, boot, settings.outbox.max_bytes, settings.flush_s, clock, keep_boot)
        self._on_begun: Callable[[], None] = _nothing
        self._begun = False
        self._hindered: str | None = None
        """Why the link and what listens to it did not begin the last time, though the outbox is open."""
        self._timekeeping = Timekeeping(settings.state_dir, clock, machine_start())
        self._wear = Wear(settings.outbox.max_daily_bytes, clock.monotonic_s())
        self._energies: Callable[[], Mapping[str, float]] = dict
        self._window_s: Callable[[], float] = lambda: 10.0
        self._snapshot: Callable[[], AgentSnapshot | None] = lambda: None
        self._post: Callable[[Event], None] = _nowhere
        self._window: Window | None = None
        self._meters: dict[str, EnergyMeter] = {}
        self._measured: tuple[Reading, ...] = ()
        self._shares = RailShares((), dict)
        self._link: Link | None = None
        self._publisher: Publisher | None = None
        self._told: tuple[str, ...] = ()
        self._announced: tuple[int, bytes] | None = None
        self._on_request: Callable[[Inbound], None] = _unheard
        self._on_connected: Callable[[], None] = _nothing
        self._on_event: Callable[[str, Mapping[str, Any]], None] = _unseen
        self._evicted = (0, float("-inf"))
        self.history = History()
        self._stop = threading.Event()
        self._watch = threading.Thread(target=self._watch_links, name="reporting", daemon=True)
        if settings.mqtt is not None:
            from agent.mqtt.link import Link  # noqa: PLC0415 - boards without a broker start sooner without it
            from agent.mqtt.publisher import Publisher  # noqa: PLC0415
            from agent.mqtt.topics import Topics  # noqa: PLC0415

            self._topics = topics = Topics(settings.mqtt.tenant, board)
            self._publisher = Publisher(self.outbox, topics, settings.mqtt, clock)
            self._link = Link(
                settings.mqtt, topics, boot, clock, self._birth, self._publisher.on_message,
                self._publisher.on_published, self._connected, self._requested,
            )  # fmt: skip

    def attach(
        self,
        post: Callable[[Event], None],
        snapshot: Callable[[], AgentSnapshot],
        energies_j: Callable[[], Mapping[str, float]],
        window_s: Callable[[], float],
        shares: RailShares | None = None,
    ) -> None:
        """Connect to the supervisor: where conditions go, and where totals, the cadence and rails' shares come from."""
        self._shares = shares or self._shares
        self._post, self._snapshot, self._energies, self._window_s = post, snapshot, energies_j, window_s

    def when_begun(self, then: Callable[[], None]) -> None:
        """What else waits until rows can be kept; called before the link begins, until once it raises nothing.

        Call this before `start`.
        """
        self._on_begun = then

    def made(self, make: Callable[[], _Part]) -> _Part | None:
        """What is made; None while the disk has no room for rows or for that."""
        try:
            return make() if self.outbox.opened else None
        except StorageFull as error:
            self._hindered = error.message
            return None

    def listen(
        self,
        on_request: Callable[[Inbound], None],
        on_connected: Callable[[], None],
        on_event: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        """Where requests from the fleet go, and who else hears of connections and events; none of them may wait."""
        self._on_request, self._on_connected, self._on_event = on_request, on_connected, on_event

    def _connected(self) -> None:
        if self._publisher is not None:
            self._publisher.on_connected()
        self._on_connected()

    def _requested(self, inbound: Inbound) -> None:
        self._on_request(inbound)

    def send(self, topic: str, payload: bytes, retain: bool = False, correlation: bytes | None = None) -> bool:
        """Hand a message to the link; False if it cannot take it now."""
        return self._link is not None and self._link.send(topic, payload, retain, correlation)

    def renew(self) -> None:
        """Have the broker send again what was not acknowledged."""
        if self._link is not None:
            self._link.renew()

    # ------------------------------------------------------------------ the supervisor's thread

    def tick(self, snapshot: AgentSnapshot, readings: tuple[Reading, ...], now_s: float) -> None:
        """Add a snapshot to the window; close it when it is full."""
        if self._window is None:
            self._window = next_window(snapshot, self._energies(), now_s)
        self._window.add(snapshot)
        self.history.tick(snapshot, now_s, self._clock.wall_s())
        self._measure(snapshot, readings)
        if now_s - self._window.begun_s >= self._wear.window_s(self._window_s()):
            self._window = self._close(self._window, snapshot, now_s)

    def _close(self, window: Window, snapshot: AgentSnapshot, now_s: float) -> Window:
        """Append the window's row; the window that follows."""
        energies_j = self._energies()
        row = {**self._timekeeping.marks(), **window.close(snapshot, energies_j, now_s, self._clock.wall_s())}
        windows = {name: meter.close(now_s) for name, meter in self._meters.items()}
        divided = self._shares.close(windows)
        row["rails"] = {name: _rail(window) | divided.get(name, {}) for name, window in windows.items()}
        row["outbox"] = {**self.outbox.counters, **self._worn(now_s)}
        if self._link is not None and self._publisher is not None:
            row["link"] = {**self._link.counters, **self._publisher.counters}
        self.outbox.append("tlm", row)
        return next_window(snapshot, energies_j, now_s)

    def _worn(self, now_s: float) -> dict[str, float]:
        """How much flash is worn, and how much slower telemetry is for it."""
        mean = self._wear.bytes_per_day(now_s)
        return {"stretch": self._wear.stretch, **({} if mean is None else {"bytes_per_day": round(mean)})}

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
        self.record(kind, fields)
        self._on_event(kind, fields)
        if kind == "policy_accepted" and self._link is not None:
            self._link.publish_birth()

    # ------------------------------------------------------------------ any thread

    def record(self, kind: str, fields: Mapping[str, Any]) -> bool:
        """Append an event row; False if it cannot be kept."""
        self.history.event(kind, fields, self._clock.wall_s())
        return self.outbox.append("evt", {**self.stamp(), "event": kind, **fields})

    def record_safely(self, kind: str, fields: Mapping[str, Any]) -> bool:
        """Append an event row and wait for the disk; False if it did not take it."""
        return self.record(kind, fields) and self.flushed()

    def flushed(self) -> bool:
        """Wait until what was appended is on disk; False if it is not yet, and waits in memory."""
        self.outbox.flush()
        return self.outbox.failing is None

    def stamp(self) -> dict[str, Any]:
        """Wall clock, monotonic clock, and what is known of the former."""
        return self._timekeeping.stamp()

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Begin to commit, and, as soon as rows can be kept, to connect where a broker is configured."""
        self.outbox.start()
        self._begin()
        self._watch.start()

    def _begin(self) -> None:
        """Once the outbox is open: before, the number of this start must not be seen by anybody."""
        if self._begun or not self.outbox.opened:
            return
        if self.outbox.recovered is not None:
            told = "rows that were not sent are in there"
            mend = "docs/fleet.md says how to get rows of another version back; else keep or delete it"
            self._condition("outbox_recovered", self.outbox.recovered, told, mend)
        try:
            self._on_begun()
        except StorageFull as error:
            self._hindered = error.message
            return
        self._begun, self._hindered = True, None
        if self._link is not None and self._publisher is not None:
            self._link.start()
            self._publisher.start(self._link)

    def _begin_late(self) -> None:
        """Whatever hinders it, the next look tries again, and conditions go on."""
        try:
            self._begin()
        except Exception as error:  # noqa: BLE001  (of any part; a link that cannot start makes alive() false)
            cause = f"{type(error).__name__}: {error}"
            if self._begun or cause != self._hindered:
                _log.exception("the link to the fleet cannot begin")
            if not self._begun:
                self._hindered = cause

    @property
    def _waits(self) -> bool:
        """Whether there is no link yet, as there was no room."""
        return not self.outbox.opened or self._hindered is not None

    def alive(self) -> bool:
        """Whether every thread of it makes progress."""
        if self._waits or self._link is None or self._publisher is None:
            return self.outbox.alive()
        return self._publisher.alive() and self._link.alive() and self.outbox.alive()

    def stop(self) -> None:
        """Commit the last window, say goodbye, close."""
        self._stop.set()
        if self._watch.is_alive():
            self._watch.join(2.0)
        snapshot = self._snapshot()
        if self._window is not None and snapshot is not None:
            self._close(self._window, snapshot, self._clock.monotonic_s())
            self._window = None
        if self._publisher is not None and self._publisher.alive():
            self._publisher.stop()
        if self._link is not None:
            self._link.stop()
        self.outbox.stop()

    def _birth(self) -> dict[str, Any]:
        snapshot = self._snapshot()
        fields: dict[str, Any] = {**self.stamp(), "agent": __version__}
        if snapshot is not None:
            fields["policy"] = {"name": snapshot.agent.policy, "sha256": snapshot.agent.policy_digest}
            fields["profile"] = snapshot.agent.profile
            fields["cond"] = [{"type": c.type, "since": c.since} for c in snapshot.conditions]
        return fields

    # ------------------------------------------------------------------ conditions of the links

    def _watch_links(self) -> None:
        try:
            while not self._stop.wait(_CHECK_S):
                self._begin_late()
                self.check()
        except Exception:  # noqa: BLE001  (thread root: conditions get old, telemetry itself goes on)
            _log.exception("reporting died")

    def check(self) -> None:
        """State or clear the conditions of broker and spool, and renew the birth when any condition came or went."""
        self._timekeeping.look(self.record, lambda: self.outbox.failing is None and self.flushed())
        self._check_wear()
        if not self._waits and self._link is not None and self._publisher is not None:
            self._check_link(self._link)
            self._check_delivery(self._publisher, self._link.connected)
            snapshot = self._snapshot()
            told = tuple(c.type for c in snapshot.conditions) if snapshot is not None else ()
            if told != self._told and self._link.connected:
                self._told = told
                self._link.publish_birth()
            self._announce(self._link, snapshot)
        self._check_outbox(self.outbox.failing)

    def _check_outbox(self, failing: str | None) -> None:
        cause = failing if failing is None or not self.outbox.opened else f"{self.outbox.path}: {failing}"
        consequence = "telemetry waits in memory, then the oldest is dropped"
        if cause is None and self._hindered is not None:
            cause, consequence = self._hindered, "telemetry waits in the outbox"
        if self._waits and self._link is not None:
            consequence += "; no link to the broker: no telemetry, no commands and no bundles until there is room"
        self._condition("outbox_failing", cause, consequence, "free space in state_dir, or replace the medium")

    def _check_wear(self) -> None:
        """Slow telemetry down, or let it be as quick as it should, so that flash lasts."""
        stretch = self._wear.step(self.outbox.counters["written_bytes"], self._clock.monotonic_s())
        self.outbox.flush_every(self._wear.flush_s(self._settings.flush_s))
        cause = f"more would be written than {self._wear.budget_bytes_per_day} bytes in a day" if stretch > 1 else None
        consequence = f"telemetry windows and commits are {stretch:g} times as long"
        mend = "a longer telemetry.window_s, outbox.flush_s, or a higher outbox.max_daily_bytes"
        self._condition("flash_wear", cause, consequence, mend)

    def _announce(self, link: Link, snapshot: AgentSnapshot | None) -> None:
        """Tell Home Assistant what the board has, where it is wanted, with each connection and each change."""
        mqtt = self._settings.mqtt
        if mqtt is None or mqtt.home_assistant is None or snapshot is None or not snapshot.accelerators:
            return
        from agent.mqtt import discovery  # noqa: PLC0415 - see the constructor

        config = discovery.config(self._topics, snapshot, __version__)
        announced = (link.status().connections, config)
        where = discovery.topic(mqtt.home_assistant, self._topics)
        if announced != self._announced and link.send(where, config, retain=True):
            self._announced = announced

    def _check_link(self, link: Link) -> None:
        status = link.status()
        if status.connected:
            self._condition("broker_unreachable", None)
        elif status.last_error is not None:
            mend = "check mqtt.host and mqtt.port, and that the broker runs"
            self._condition("broker_unreachable", status.last_error, "telemetry waits in the outbox", mend)
        mend = f"give every board a name of its own (board); client id {link.client_id}"
        self._condition("broker_storm", link.storm, "connection attempts pause for minutes", mend)

    def _check_delivery(self, publisher: Publisher, connected: bool) -> None:
        waits = "telemetry waits in the outbox"
        mend = "check the broker's access list for this board"
        self._condition("telemetry_refused", publisher.refused, waits, mend)
        mend = "raise the broker's max_packet_size"
        self._condition("telemetry_too_large", publisher.buried, "that row is lost; a gap row tells which", mend)
        cause = "no backend acknowledges our telemetry" if publisher.unacknowledged and connected else None
        mend = "run a backend, or set mqtt.delete_on: puback if there is none"
        self._condition("telemetry_unacknowledged", cause, "it stays in the outbox until that is full", mend)
        now_s, evicted = self._clock.monotonic_s(), self.outbox.counters["evicted"]
        if evicted > self._evicted[0]:
            self._evicted = (evicted, now_s)
        full = now_s - self._evicted[1] < EVICTING_S
        cause = f"{evicted} undelivered rows made room for newer ones" if full else None
        mend = "bring the broker or backend back, or raise outbox.max_bytes"
        self._condition("outbox_full", cause, "the oldest telemetry is lost; gap rows tell which", mend)

    def _condition(self, kind: str, cause: str | None, consequence: str = "", mend: str = "") -> None:
        self._post(ConditionEvent(kind, cause, consequence, mend))


def _rail(window: EnergyWindow) -> dict[str, Any]:
    return {
        "energy_j": window.energy_j, "busy_j": window.busy_j, "idle_j": window.idle_j,
        "covered_s": round(window.covered_s, 3), "provenance": window.provenance,
    }  # fmt: skip


def _nowhere(event: Event) -> None:
    """Before the supervisor is attached there is nobody to tell."""


def _unheard(inbound: Inbound) -> None:
    """Nobody listens yet: without an acknowledgement the broker keeps the message."""


def _nothing() -> None:
    """Nobody else waits for it."""


def _unseen(kind: str, fields: Mapping[str, Any]) -> None:
    """Nobody else hears of events."""
