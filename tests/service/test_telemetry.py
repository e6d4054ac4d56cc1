"""Telemetry windows: what they say, and what they leave out."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ports import LinkStatus, Reading
from agent.schema.settings import MqttSettings, OutboxSettings, Settings
from agent.schema.snapshot import AcceleratorStatus, AgentInfo, AgentSnapshot, Condition, ModelStatus
from agent.service.remote.reporting import EVICTING_S, Reporting
from agent.service.remote.telemetry import next_window
from tests.fakes import FakeClock
from tests.mqtt.payloads import validate

INFO = AgentInfo("0.1", "ready", "2026-01-01T00:00:00Z", "balanced", "digest1", 4, "b1", "generic")
NPU = AcceleratorStatus("npu0", "onnx", "NPU", "ready", True, 40.0, 2.0, 1, None)
CPU = AcceleratorStatus("cpu", "onnx", "CPU", "ready", True, None, None, 0, "died: SIGKILL")
MODEL = ModelStatus("m", "ready", "npu0", "NPU", 0.9, "npu0", 3.0, 9.0, 0.01, "modelled", 100, 2, 1)


def snapshot(*, accelerators=(NPU, CPU), models=(MODEL,), conditions=()) -> AgentSnapshot:
    return AgentSnapshot(INFO, tuple(accelerators), tuple(models), tuple(conditions))


def test_a_window_counts_what_happened_in_it_and_names_its_policy():
    window = next_window(snapshot(), {"m": 5.0}, 100.0)
    later = snapshot(models=[replace(MODEL, requests=130, failed=3, replayed=1)])
    row = window.close(later, {"m": 5.75}, 110.0, 1_790_000_000.1239)
    assert (row["ts"], row["mono"], row["window_s"]) == (1_790_000_000.124, 110.0, 10.0)
    assert (row["mode"], row["policy"]) == ("ready", "digest1")
    assert row["models"]["m"] == {
        "state": "ready", "placement": "npu0", "requests": 30, "failed": 1, "replayed": 0, "provenance": "modelled",
        "energy_j": 0.75, "p50_ms": 3.0, "p99_ms": 9.0, "accelerated_fraction": 0.9,
    }  # fmt: skip


@given(st.lists(st.floats(-50, 150), min_size=1, max_size=30))
def test_a_series_is_bounded_by_its_extremes_and_ends_with_the_last(values):
    window = next_window(snapshot(), {}, 0.0)
    for value in values:
        window.add(snapshot(accelerators=[replace(NPU, temperature_c=value)]))
    series = window.close(snapshot(), {}, 1.0, 0.0)["accelerators"]["npu0"]["temperature_c"]
    assert series["n"] == len(values)
    assert series["min"] <= series["mean"] + 1e-5 <= series["max"] + 2e-5
    assert series["min"] == round(min(values), 6)
    assert series["last"] == round(values[-1], 6)


def test_what_nobody_measured_is_absent_and_not_zero():
    unknown = replace(MODEL, p50_ms=None, p99_ms=None, accelerated_fraction=None, provenance="unknown")
    window = next_window(snapshot(models=[unknown]), {}, 0.0)
    window.add(snapshot(models=[unknown]))
    row = window.close(snapshot(models=[unknown]), {"m": 0.0}, 10.0, 0.0)
    assert row["accelerators"]["cpu"] == {"state": "ready", "restarts": 0, "last_fault": "died: SIGKILL"}
    assert "last_fault" not in row["accelerators"]["npu0"]
    assert not {"energy_j", "p50_ms", "p99_ms", "accelerated_fraction"} & set(row["models"]["m"])


def test_counters_that_began_anew_never_give_negative_counts():
    window = next_window(snapshot(), {"m": 5.0}, 0.0)
    row = window.close(snapshot(models=[replace(MODEL, requests=7, failed=0)]), {"m": 0.5}, 10.0, 0.0)
    assert (row["models"]["m"]["requests"], row["models"]["m"]["failed"]) == (7, 0)
    assert row["models"]["m"]["energy_j"] == 0.5


def test_a_model_that_came_during_the_window_counts_from_zero():
    window = next_window(snapshot(models=[]), {}, 0.0)
    assert window.close(snapshot(), {"m": 1.0}, 10.0, 0.0)["models"]["m"]["requests"] == 100


# ---------------------------------------------------------------------------------------------- into the outbox


class World:
    def __init__(self, folder, **options) -> None:
        self.clock = FakeClock()
        settings = Settings(version=1, state_dir=folder, outbox=OutboxSettings(flush_s=300), **options)
        self.reporting = Reporting(settings, "b1", 4, self.clock)
        self.shown = snapshot()
        self.posted = {}
        self.reporting.attach(self.post, lambda: self.shown, lambda: {"m": self.clock.now_s / 1000}, lambda: 10.0)

    def post(self, event) -> None:
        self.posted[event.type] = event.cause

    def run(self, seconds, readings=()) -> None:
        for _ in range(seconds):
            self.clock.advance(1)
            self.reporting.tick(self.shown, tuple(readings), self.clock.now_s)

    def rows(self, cls="tlm"):
        self.reporting.outbox.flush()
        return [r.payload for r in self.reporting.outbox.rows_after(cls, None, 99)]

    def travels(self, cls) -> None:
        rows = self.rows(cls)
        validate(cls, {"v": 1, "boot": 4, "cls": cls, "seq0": 0, "rows": rows})


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.reporting.outbox.stop()


def test_a_row_is_written_every_window_and_fits_its_schema(world):
    power = Reading("rail", "power_w", 3.0, None, 1000.0)
    world.run(26, [power])
    assert [row["window_s"] for row in world.rows()] == [10.0, 10.0]
    assert world.rows()[0]["rails"]["rail"]["provenance"] in {"measured", "unknown"}
    assert world.rows()[0]["models"]["m"]["energy_j"] == 0.01
    world.travels("tlm")


def test_an_event_is_stamped_and_fits_its_schema(world):
    world.reporting.event("lane_died", {"accelerator": "npu0", "cause": "SIGKILL"})
    (row,) = world.rows("evt")
    assert (row["event"], row["accelerator"], row["cause"]) == ("lane_died", "npu0", "SIGKILL")
    world.travels("evt")


def test_a_clock_that_was_never_set_is_said_in_every_row(world):
    world.clock.offset_s = 0.0
    world.run(12)
    assert world.rows()[0]["tq"] == "none"
    assert world.rows()[0]["mono"] > 0
    world.travels("tlm")


def test_a_clock_that_is_set_at_last_dates_what_came_before(world):
    set_s, world.clock.offset_s = world.clock.offset_s, 0.0
    world.reporting.check()
    world.run(12)
    assert world.rows("evt") == []
    world.clock.offset_s = set_s
    world.reporting.check()
    world.reporting.check()
    (event,) = [row for row in world.rows("evt") if row["event"] == "clock_set"]
    assert event["offset_s"] == set_s
    assert world.rows()[0]["mono"] + event["offset_s"] == pytest.approx(world.clock.wall_s(), abs=15.0)
    world.travels("evt")


def test_gaps_fit_their_schema(world):
    world.reporting.outbox.append("tlm", {"bad": {1}})
    world.reporting.outbox.append("tlm", {})
    world.reporting.outbox.flush()
    world.reporting.outbox.bury(world.reporting.outbox.rows_after("tlm", None, 1)[0], "too_large", 5)
    world.travels("gap")
    assert len(world.rows("gap")) == 2


def test_flash_lasts_because_windows_and_commits_get_longer(tmp_path):
    world = World(tmp_path)
    world.reporting.outbox.counters["written_bytes"] = 10**9
    world.clock.advance(61)
    world.reporting.check()
    assert "268435456 bytes in a day" in world.posted["flash_wear"]
    world.run(21)
    (row,) = world.rows()
    assert (row["outbox"]["stretch"], row["window_s"]) == (2, 20.0)
    assert row["outbox"]["bytes_per_day"] > 10**9
    world.reporting.outbox.stop()


def test_the_last_window_is_written_at_the_end(tmp_path):
    world = World(tmp_path)
    world.run(3)
    world.reporting.start()
    world.reporting.stop()
    again = World(tmp_path)
    assert [row["window_s"] for row in again.rows()] == [2.0]
    again.reporting.outbox.stop()


def test_without_a_broker_the_spool_is_watched_and_nothing_else(world):
    world.reporting.start()
    assert world.reporting.alive()
    world.reporting.check()
    assert world.posted == {"outbox_failing": None, "flash_wear": None}
    world.reporting.outbox.failing = "disk I/O error"
    world.reporting.check()
    assert "outbox.db: disk I/O error" in world.posted["outbox_failing"]
    world.reporting._stop.set()


def test_conditions_of_broker_and_spool_come_and_go(tmp_path):
    world = World(tmp_path, mqtt=MqttSettings(host="127.0.0.1", port=9))
    reporting = world.reporting
    reporting._link._last_error = "127.0.0.1:9 is unreachable"
    reporting._link.storm = "twins"
    reporting._publisher.refused = "reason 0x87"
    reporting._publisher.buried = "a row of 9 bytes"
    reporting.outbox.counters["evicted"] = 64
    reporting.check()
    assert {kind for kind, cause in world.posted.items() if cause} == {
        "broker_unreachable", "broker_storm", "telemetry_refused", "telemetry_too_large", "outbox_full"
    }  # fmt: skip
    reporting._link.storm = reporting._publisher.refused = reporting._publisher.buried = None
    reporting._link._connected = True
    world.clock.advance(EVICTING_S)
    reporting.check()
    assert not any(world.posted.values())
    reporting._publisher._delivery.silent = True
    reporting.check()
    assert [kind for kind, cause in world.posted.items() if cause] == ["telemetry_unacknowledged"]
    world.run(12)
    assert world.rows()[0]["link"]["batches"] == 0
    world.travels("tlm")
    reporting.stop()


class FakeLink:
    """Counts births."""

    connected = True
    counters: ClassVar[dict[str, int]] = {}
    storm = None
    client_id = "default-b1"
    births = 0
    living = True

    def status(self):
        return LinkStatus(self.connected, 0.0, 1, None)

    def publish_birth(self):
        self.births += 1

    def alive(self):
        return self.living

    def stop(self):
        self.connected = False


def test_the_birth_is_renewed_when_a_condition_comes_or_goes_or_a_policy_is_accepted(tmp_path):
    world = World(tmp_path, mqtt=MqttSettings(host="127.0.0.1", port=9))
    world.reporting._link.stop()
    link = world.reporting._link = FakeLink()
    world.reporting.check()
    assert link.births == 0
    world.shown = snapshot(conditions=[Condition("too_hot", "2026-01-01T00:00:00Z", "c", "q", "m")])
    link.connected = False
    world.reporting.check()
    assert link.births == 0
    link.connected = True
    world.reporting.check()
    world.reporting.check()
    assert link.births == 1
    world.shown = snapshot()
    world.reporting.check()
    assert link.births == 2
    world.reporting.event("policy_accepted", {"policy": "p", "digest": "d"})
    assert link.births == 3
    world.reporting.stop()


def test_the_watchdog_hears_of_a_dead_link_publisher_and_writer(tmp_path):
    world = World(tmp_path, mqtt=MqttSettings(host="127.0.0.1", port=9))
    reporting = world.reporting
    reporting._link.stop()
    link = reporting._link = FakeLink()
    assert not reporting.alive()
    reporting.outbox.start()
    assert not reporting.alive()
    reporting._publisher.start(None)
    assert reporting.alive()
    link.living = False
    assert not reporting.alive()
    reporting.stop()


def test_the_birth_names_version_policy_clock_and_conditions(tmp_path):
    world = World(tmp_path, mqtt=MqttSettings(host="127.0.0.1", port=9))
    world.shown = snapshot(conditions=[Condition("too_hot", "2026-01-01T00:00:00Z", "c", "q", "m")])
    birth = {"v": 1, "online": True, "boot": 4, "conn": 1, **world.reporting._birth()}
    validate("state", birth)
    assert birth["policy"] == {"name": "balanced", "sha256": "digest1"}
    assert birth["cond"] == [{"type": "too_hot", "since": "2026-01-01T00:00:00Z"}]
    world.reporting.stop()


def test_a_damaged_spool_is_a_condition(tmp_path):
    (tmp_path / "outbox.db").write_bytes(b"no database" * 100)
    world = World(tmp_path)
    world.reporting.start()
    assert "damaged" in world.posted["outbox_recovered"]
    world.reporting.stop()
