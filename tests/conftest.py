"""How the suite runs: failures are named at once, whole agents come last, a starved machine is named as such.

Random order, but what needs nothing of the machine comes before what starts processes, and that before whole agents.
A test that starts processes and fails is repeated once, and shown as repeated: on a machine that lends its cores to
others, a second passes in which nothing runs. What needs nothing of the machine has no such excuse.
Where TESTS_END says when the time for tests is over (seconds since 1970), what starts processes and would begin
later is skipped, with that reason.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("board", deadline=None)  # a busy board is no reason for a property to fail
settings.load_profile("board")

for own in [name for name in os.environ if name.startswith("QEIL_")]:
    del os.environ[own]  # settings of whoever runs the suite would become settings of every agent that tests start

ROOT = Path(__file__).resolve().parent
WHOLE_AGENTS = {"integration", "fleet", "runtimes", "test_docs.py", "test_docs_typed.py", "test_package.py"}
PROCESSES = {"api", "backends", "cli", "llm", "mqtt", "otlp", "service", "test_benchmarks.py", "test_container.py"}


def stage(path: Path) -> int:
    """0 where nothing of the machine is needed, 1 with processes of their own, 2 with whole agents."""
    part = path.relative_to(ROOT).parts[0]
    return 2 if part in WHOLE_AGENTS else 1 if part in PROCESSES else 0


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: stage(item.path))
    for item in items:
        if stage(item.path):
            item.add_marker(pytest.mark.flaky(reruns=1, reruns_delay=2))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if stage(item.path) and time.time() > float(os.environ.get("TESTS_END", "inf")):
        pytest.skip("this machine is too slow: the time for tests (TESTS_END) is over")


class FailuresAtOnce:
    """A run that is cut off says more than dots."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self.config.pluginmanager.get_plugin("terminalreporter")
        if report.outcome in {"failed", "rerun"} and terminal is not None:
            crash = getattr(report.longrepr, "reprcrash", None)
            said = str(crash.message if crash else report.longrepr).strip().splitlines() or [""]
            terminal.write_line(f"\n{report.outcome} in {report.when} of {report.nodeid}: {said[0][:300]}")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(FailuresAtOnce(config))
