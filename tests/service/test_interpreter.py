"""The interpreter's switches: while the agent starts, and once it serves."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

from agent.service import interpreter


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    switch_s, thresholds = sys.getswitchinterval(), gc.get_threshold()
    yield
    gc.unfreeze()
    gc.enable()
    gc.set_threshold(*thresholds)
    sys.setswitchinterval(switch_s)


def test_a_thread_that_computes_gives_way_soon_and_imports_are_not_searched_for_garbage():
    interpreter.begin()

    assert sys.getswitchinterval() < 0.001
    assert not gc.isenabled()


def test_once_the_agent_serves_garbage_is_collected_but_not_among_what_was_there():
    frozen = gc.get_freeze_count()
    interpreter.begin()
    interpreter.settle()

    assert gc.isenabled()
    assert gc.get_freeze_count() > frozen
