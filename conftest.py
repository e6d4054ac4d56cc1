"""Hypothesis without a per-example deadline: a busy board is no reason for a property to fail."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("board", deadline=None)
settings.load_profile("board")


class FailuresAtOnce:
    """Names what failed when it fails: a run that is cut off says more than dots."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            crash = getattr(report.longrepr, "reprcrash", None)
            said = str(crash.message if crash else report.longrepr).strip().splitlines() or [""]
            terminal.write_line(f"\n{report.when} of {report.nodeid}: {said[0][:300]}")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(FailuresAtOnce(config))
