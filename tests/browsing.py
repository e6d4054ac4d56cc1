"""A real Chromium for tests of pages: started once for a module, and visitors who note what they met."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest


def missing(what: str, mend: str):
    if os.environ.get("CI"):
        pytest.fail(f"{what} is not installed, and CI must have it")
    pytest.skip(f"{what} is not installed: {mend}")


def launched(engine, program: str):
    """Chromium dies at its start now and then, before it has seen a page; three times in a row is a fault."""
    from playwright.sync_api import Error

    for _ in range(2):
        with contextlib.suppress(Error):
            return engine.chromium.launch(executable_path=program, args=["--no-sandbox"])
    return engine.chromium.launch(executable_path=program, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def browser():
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        missing("Chromium", "apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright", "pip install playwright")
    with sync_playwright() as engine:
        chromium = launched(engine, program)
        yield chromium
        chromium.close()


class Visit:
    """One visitor: what went over the line, and what the browser complained of."""

    def __init__(self, browser, url: str, **options) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.bytes = 0
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in {"error", "warning"} else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("requestfinished", self._count)
        self.page.goto(url)

    def _count(self, request) -> None:
        sizes = request.sizes()
        self.bytes += sizes["responseBodySize"] + sizes["responseHeadersSize"]


@contextlib.contextmanager
def visitors(browser, url: str) -> Iterator[Callable[..., Visit]]:
    """Starts visits of that page, on a desktop unless told otherwise; all of them end with it."""
    visits: list[Visit] = []

    def start(**options: Any) -> Visit:
        visits.append(Visit(browser, url, **{"viewport": {"width": 1440, "height": 900}, **options}))
        return visits[-1]

    yield start
    for one in visits:
        one.context.close()
