"""What a controller counts for Prometheus: its consumer's counters under their names, with what each is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent.schema.metric import Metric

COUNTED: Final[Mapping[str, str]] = {
    "messages": "MQTT messages of boards that were taken in",
    "rows": "Telemetry rows stored",
    "duplicates": "Telemetry rows that came again and were not stored twice",
    "batches": "Transactions that stored rows",
    "acks": "Acknowledgements sent to boards",
    "refused": "Messages refused, whatever the reason",
    "storage_errors": "Batches that the database did not take; their rows come again",
    "dropped": "Messages dropped because the queue was full; they come again",
}
"""Counter of `Consumer` → what it counts."""


def name_of(counter: str) -> str:
    """Of the metric."""
    return f"qeil_fleet_{counter}_total"


def counted(counters: Mapping[str, int]) -> list[Metric]:
    """A family for each counter."""
    return [
        Metric(name_of(counter), "counter", COUNTED[counter], (({}, float(value)),))
        for counter, value in counters.items()
    ]
