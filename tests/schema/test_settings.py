"""Settings: what follows from several keys."""

from __future__ import annotations

import pytest

from agent.schema.settings import Settings


@pytest.mark.parametrize(
    ("asked", "flush_s"),
    [({}, 600.0), ({"mqtt": {"host": "b"}}, 120.0), ({"outbox": {"flush_s": 7}}, 7.0),
     ({"mqtt": {"host": "b"}, "outbox": {"flush_s": 7}}, 7.0)],
)  # fmt: skip
def test_telemetry_waits_for_a_commit_as_long_as_asked_else_longer_where_no_broker_waits(asked, flush_s):
    assert Settings.model_validate({"version": 1, **asked}).flush_s == flush_s
