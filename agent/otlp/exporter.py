"""Pushes the agent's metrics to an OpenTelemetry collector (OTLP over HTTP). The only place that knows its library.

The library's own thread exports; a collector that does not answer costs a condition and nothing else. What is pushed is
what `/metrics` shows, under the same names.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent import extras
from agent.errors import ConfigError
from agent.schema.metric import Metric
from agent.schema.settings import OtlpSettings

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation

FRESH_S = 0.5
"""Families collected for one export serve all its instruments."""


class MetricsExport:
    """From `start` to `stop`."""

    def __init__(
        self,
        settings: OtlpSettings,
        identity: dict[str, str],
        collect: Callable[[], tuple[Metric, ...]],
        tell: Callable[[str | None], None],
    ) -> None:
        """`identity`: attributes of this board; `tell(cause)`: why nothing arrives, None when it does.

        Raises ConfigError without the library, or with an unreadable headers_file.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # noqa: PLC0415
            from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415 - optional runtime
            from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader  # noqa: PLC0415
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        except ImportError as error:
            raise ConfigError(f"otlp: needs {error.name}: {extras.command('otlp')}") from error
        self._collect = collect
        self._kept: dict[str, Metric] = {}
        self._kept_s = float("-inf")
        _silence()
        inner = OTLPMetricExporter(
            endpoint=settings.endpoint, headers=headers(settings.headers_file), timeout=settings.timeout_s,
            certificate_file=None if settings.ca is None else str(settings.ca),
        )  # fmt: skip
        telling = _telling(inner, settings.endpoint, tell)
        reader = PeriodicExportingMetricReader(telling, export_interval_millis=settings.interval_s * 1e3)
        resource = Resource({"service.name": "qeil", **identity})
        self._provider = MeterProvider([reader], resource, shutdown_on_exit=False)
        meter = self._provider.get_meter("qeil")
        for family in collect():
            # A histogram goes as counters under the names that /metrics shows: the library observes none.
            make = meter.create_observable_gauge if family.kind == "gauge" else meter.create_observable_counter
            for name in family.names():
                make(name, [self._observer(family.name, name)], description=family.help)

    def stop(self) -> None:
        """Export once more, bounded, and end the thread."""
        self._provider.shutdown(timeout_millis=2000)

    def _observer(self, family: str, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        from opentelemetry.metrics import Observation  # noqa: PLC0415 - optional runtime

        def observe(_: CallbackOptions) -> Iterator[Observation]:
            found = self._families().get(family)
            for row, labels, value in found.rows() if found is not None else ():
                if row == name:
                    yield Observation(value, labels)

        return observe

    def _families(self) -> dict[str, Metric]:
        now_s = time.monotonic()
        if now_s - self._kept_s > FRESH_S:
            self._kept, self._kept_s = {family.name: family for family in self._collect()}, now_s
        return self._kept


def _telling(inner: Any, endpoint: str, tell: Callable[[str | None], None]) -> Any:
    """The exporter, with every change of success and failure told once."""
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult  # noqa: PLC0415 - optional runtime

    class Telling(MetricExporter):
        def __init__(self) -> None:
            super().__init__(inner._preferred_temporality, inner._preferred_aggregation)  # noqa: SLF001 - as it asks
            self._failing = False

        def export(self, metrics_data: Any, timeout_millis: float = 10_000, **kwargs: Any) -> Any:
            result = inner.export(metrics_data, timeout_millis=timeout_millis, **kwargs)
            failing = result is not MetricExportResult.SUCCESS
            if failing != self._failing:
                self._failing = failing
                tell(f"{endpoint} takes no metrics" if failing else None)
            return result

        def force_flush(self, timeout_millis: float = 10_000) -> bool:
            return bool(inner.force_flush(timeout_millis))

        def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
            inner.shutdown(timeout_millis=timeout_millis, **kwargs)

    return Telling()


def headers(path: Path | None) -> dict[str, str]:
    """NAME: VALUE lines, for instance a token; ConfigError with the line that is none."""
    if path is None:
        return {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"otlp.headers_file: {path}: {error}") from error
    found = {}
    for number, line in enumerate(lines, 1):
        name, colon, value = line.partition(":")
        if line.strip() and not (colon and name.strip() and value.strip()):
            raise ConfigError(f"{path}:{number}: expected NAME: VALUE")
        if line.strip():
            found[name.strip().lower()] = value.strip()
    return found


def _silence() -> None:
    """The library logs every failed try; the agent tells of the first one, as a condition."""
    log = logging.getLogger("opentelemetry")
    log.addHandler(logging.NullHandler())
    log.propagate = False
