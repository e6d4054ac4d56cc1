"""The last hour in memory: averaged, numbered, bounded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.schema.snapshot import AcceleratorStatus, AgentInfo, AgentSnapshot, ModelStatus
from agent.service.history import History

INFO = AgentInfo("0.1", "ready", "2026-01-01T00:00:00Z", "balanced", "digest1", 4, "b1", "generic")
NPU = AcceleratorStatus("npu0", "onnx", "NPU", "ready", True, 40.0, 2.0, 0, None)
MODEL = ModelStatus("m", "ready", "npu0", "NPU", 0.9, "npu0", 3.0, 9.0, 0.01, "modelled", 100)


def snapshot(temperature_c=40.0, queue=0, requests=100):
    npu = replace(NPU, temperature_c=temperature_c, queue=queue)
    return AgentSnapshot(INFO, (npu,), (replace(MODEL, requests=requests),))


def feed(history, temperatures, requests=100):
    for second, temperature_c in enumerate(temperatures):
        history.tick(snapshot(temperature_c, requests=requests), float(second), 1000.0 + second)


def test_a_point_is_the_mean_of_its_period_and_counts_its_requests():
    history = History(period_s=4.0)
    for second, (queue, requests) in enumerate([(1, 100), (1, 110), (0, 110), (0, 110), (0, 120)]):
        history.tick(snapshot(40.0 + second, queue, requests), float(second), 1000.0 + second)
    (point,), _ = history.since(0, 0)
    assert point["accelerators"]["npu0"] == {"temperature_c": 42.0, "power_w": 2.0, "busy_share": 0.4}
    assert point["models"]["m"] == {"p50_ms": 3.0, "p99_ms": 9.0, "requests_per_s": 5.0}
    assert (point["n"], point["ts"]) == (1, 1004.0)


def test_a_figure_that_nobody_has_is_none_and_a_reloaded_model_counts_from_its_beginning():
    history = History(period_s=1.0)
    history.tick(snapshot(None, requests=100), 0.0, 0.0)
    history.tick(snapshot(None, requests=3), 1.0, 1.0)
    (point,), _ = history.since(0, 0)
    assert point["accelerators"]["npu0"]["temperature_c"] is None
    assert point["models"]["m"]["requests_per_s"] == 3.0


@given(st.integers(1, 40), st.integers(0, 60))
def test_rings_are_bounded_and_give_only_what_is_new(size, told):
    history = History(period_s=1.0, points=size, events=size)
    feed(history, [40.0] * 50)
    for n in range(50):
        history.event("mode", {"new": str(n)}, float(n))
    points, events = history.since(told, told)
    seen = told if told <= 49 else 0
    assert [p["n"] for p in points] == [n for n in range(50 - size, 50) if n > seen and n > 0]
    assert len(events) <= size
    assert all(e["n"] > (told if told <= 50 else 0) for e in events)


def test_a_clock_that_is_set_does_not_bend_the_trend():
    history = History(period_s=1.0)
    for second in range(10):
        history.tick(snapshot(40.0 + second), float(second), 1000.0 if second < 5 else 90_000.0)
    assert history.slope_k_per_s("npu0") == pytest.approx(1.0, rel=0.1)


def test_a_reader_of_an_agent_that_was_restarted_gets_everything():
    history = History(period_s=1.0)
    feed(history, [40.0, 40.0, 40.0])
    assert len(history.since(700, 0)[0]) == 2


def test_the_trend_is_that_of_a_straight_line_and_unknown_without_enough_points():
    history = History(period_s=1.0)
    feed(history, [40.0, 40.0, 40.5])
    assert history.slope_k_per_s("npu0") is None
    assert history.latest()["n"] == 2
    steady = History(period_s=1.0)
    feed(steady, [40.0 + 0.5 * n for n in range(20)])
    assert steady.slope_k_per_s("npu0") == pytest.approx(0.5)
    assert steady.slope_k_per_s("gpu9") is None
