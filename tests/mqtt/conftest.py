"""A broker for each test that wants one."""

from __future__ import annotations

import pytest

from tests.broker import Broker


@pytest.fixture
def broker(tmp_path):
    made = Broker(tmp_path)
    yield made
    if made.process.poll() is None:
        made.stop()
