"""Logging: one event per line on stderr, as key=value for people on a terminal and as JSON for journald."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any, Final, Literal

from agent.service.journal import SOCKET, Journal
from agent.service.without import without

with without("rich"):  # structlog would draw tracebacks with it: ten megabytes that a service never uses
    import structlog

Level = Literal["debug", "info", "warning", "error"]
_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""Of syslog(3)."""
_TALKATIVE: Final = frozenset({"debug", "info"})


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
        if not self.passes(method):
            raise structlog.DropEvent
        return event

    def passes(self, method: str) -> bool:
        """Whether events of that method are written."""
        return _number(method) >= _number(self.level)

    def logger_class(self) -> type[structlog.typing.FilteringBoundLogger]:
        """Loggers that drop an information, of which there is one a request, before they make an event of it."""
        threshold = self

        class Logger(structlog.make_filtering_bound_logger(logging.DEBUG)):  # type: ignore[misc] # made at run time
            def info(self, event: str, *args: Any, **facts: Any) -> Any:
                return super().info(event, *args, **facts) if threshold.level in _TALKATIVE else None

        return Logger


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


class _ForJournal:
    """JSON with its facts as fields beside it; where journald's socket is not there, behind the priority that journald
    reads off a line (sd-daemon(3)), so that `journalctl -p warning` works either way.
    """

    def __init__(self, journal: Journal) -> None:
        self._render = structlog.processors.JSONRenderer()
        self._journal = journal

    def __call__(self, logger: object, method: str, event: structlog.typing.EventDict) -> str:
        priority = _PRIORITIES.get(str(event.get("level")), 6)
        facts = dict(event)
        line = str(self._render(logger, method, event))
        if self._journal.send(line, priority, facts):
            raise structlog.DropEvent
        return f"<{priority}>{line}"


def configure(level: Level, human: bool | None = None, journal: bool | None = None, address: Path = SOCKET) -> None:
    """Set up once at start. None: by whether stderr is a terminal (`human`), or connected to the journal."""
    if human is None:
        human = sys.stderr.isatty()
    if journal is None:
        journal = "JOURNAL_STREAM" in os.environ
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if human:
        renderer = structlog.dev.ConsoleRenderer()
    elif journal:
        renderer = _ForJournal(Journal(address))
    threshold = _Threshold(level)
    structlog.configure(
        processors=[
            threshold,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=threshold.logger_class(),
        logger_factory=structlog.WriteLoggerFactory(file=_CurrentStderr()),  # type: ignore[arg-type]  # quacks enough
        cache_logger_on_first_use=True,
    )
