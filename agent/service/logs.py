"""Logging: one event per line on stderr, as key=value for people on a terminal and as JSON for journald."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

Level = Literal["debug", "info", "warning", "error"]


class _CurrentStderr:
    """Whatever sys.stderr is at the moment of writing: it may be replaced after the loggers were made."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


class _Threshold:
    """Drops events below a level that may change while loggers are in use; their class is fixed at first use."""

    def __init__(self, level: Level) -> None:
        self.level = level

    def __call__(self, _: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        if _number(method) < _number(self.level):
            raise structlog.DropEvent
        return event


def _number(level: str) -> int:
    return int(getattr(logging, "ERROR" if level == "exception" else level.upper()))


def set_level(level: Level) -> None:
    """Change what is written from now on, in every logger. Nothing where logging was not configured by us."""
    for processor in structlog.get_config()["processors"]:
        if isinstance(processor, _Threshold):
            processor.level = level


def level() -> Level | None:
    """What is written now; None where logging was not configured by us."""
    found = [p.level for p in structlog.get_config()["processors"] if isinstance(p, _Threshold)]
    return found[0] if found else None


def configure(level: Level, human: bool | None = None) -> None:
    """Set up once at start. `human` None: by whether stderr is a terminal."""
    if human is None:
        human = sys.stderr.isatty()
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if human else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            _Threshold(level),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(file=_CurrentStderr()),  # type: ignore[arg-type]  # quacks enough
        cache_logger_on_first_use=True,
    )
