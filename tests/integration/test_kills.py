"""`kill -9` at random points with telemetry and commands in flight. More: `python -m tests.integration.kills 100`."""

from __future__ import annotations

import time

import pytest

from tests.integration.kills import run


@pytest.mark.slow
@pytest.mark.broker
def test_no_row_is_lost_no_command_runs_twice_and_every_command_ends(tmp_path):
    seed = time.time_ns() % 2**32
    outcome = run(tmp_path, 10, seed)
    assert outcome.lost_rows == outcome.holes == [], (seed, outcome)
    assert outcome.run_twice == [], (seed, outcome)
    assert outcome.without_end == outcome.contradictory == [], (seed, outcome)
    assert outcome.rows > 50
    assert outcome.commands > 10
