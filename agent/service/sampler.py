"""Sampler: the thread that reads every sensor and polls the policy file, and mails what it saw."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import structlog

from agent.ports import Clock, Sensor
from agent.service.mail import SamplesEvent
from agent.service.policy_watch import PolicyEdit, PolicyWatch

_log = structlog.get_logger("sampler")


class Sampler:
    """One bounded round every `period_s()`; a sensor that blocks stalls only this thread, and then reads as stale."""

    def __init__(
        self,
        sensors: Sequence[Sensor],
        watch: PolicyWatch,
        clock: Clock,
        period_s: Callable[[], float],
        on_samples: Callable[[SamplesEvent], None],
        on_edit: Callable[[PolicyEdit], None],
    ) -> None:
        self._sensors = tuple(sensors)
        self._watch = watch
        self._clock = clock
        self._period_s = period_s
        self._on_samples = on_samples
        self._on_edit = on_edit
        self._reload = threading.Event()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def reload(self) -> None:
        """Read the policy file now, changed or not."""
        self._reload.set()
        self._wake.set()

    def stop(self) -> None:
        """End after the round in progress."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(2.0)

    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def round(self) -> None:
        """Read everything once."""
        if self._sensors:
            now_s = self._clock.monotonic_s()
            self._on_samples(SamplesEvent(tuple(sensor.read(now_s) for sensor in self._sensors)))
        force = self._reload.is_set()
        self._reload.clear()
        edit = self._watch.poll(force)
        if edit is not None:
            self._on_edit(edit)

    def _run(self) -> None:
        try:
            while not self._stopping:
                self.round()
                self._wake.wait(self._period_s())
                self._wake.clear()
        except Exception:  # noqa: BLE001  (thread root: readings go stale, the governor and the watchdog act)
            _log.exception("sampler died")
