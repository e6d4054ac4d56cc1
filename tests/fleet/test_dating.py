"""When rows happened: of boards without the time, with a wrong one, and restarted before it arrived."""

from __future__ import annotations

from agent.fleet.dating import when_s
from agent.fleet.inventory import Inventory
from tests.fleet.test_store import rows

SET_S = 1.79e9


def event(boot: int, seq: int = 0, **fields):
    return rows(seq, 1, cls="evt", boot=boot, event="clock_set", **{"tq": "ntp", "offset_s": SET_S, **fields})


def dated(store) -> list:
    inventory = Inventory(store.engine, 300.0, 120.0, lambda: 1.0)
    return [(r["boot"], r["when_s"]) for r in inventory.rows(("acme", "b1"), "tlm", 10)]


def test_starts_of_the_agent_before_the_time_arrived_are_dated_by_the_one_in_which_it_did(store):
    undated = {"tq": "none", "machine": "m1"}
    store.take([rows(0, 1, boot=1, mono=40.0, **undated), rows(0, 1, boot=2, mono=90.0, **undated)], 1.0)
    store.take([rows(0, 1, boot=3, mono=150.0, tq="ntp", ts=SET_S + 150.0)], 1.0)
    assert dated(store) == [(3, SET_S + 150.0), (2, None), (1, None)]
    store.take([event(3, mono=140.0, machine="m1")], 2.0)
    assert dated(store) == [(3, SET_S + 150.0), (2, SET_S + 90.0), (1, SET_S + 40.0)]


def test_another_start_of_the_machine_dates_nothing(store):
    store.take([rows(0, 1, boot=1, mono=40.0, tq="none", machine="m1"), rows(0, 1, boot=2, mono=1.0, tq="none")], 1.0)
    store.take([event(3, mono=50.0, machine="m2"), event(4, mono=50.0)], 1.0)
    assert dated(store) == [(2, None), (1, None)]


def test_the_clock_of_the_last_shutdown_is_corrected_by_a_time_service_alone(store):
    late_s = SET_S - 90 * 86_400.0
    store.take([rows(0, 1, mono=10.0, tq="rtc", ts=late_s + 10.0)], 1.0)
    store.take([event(1, mono=20.0, tq="rtc", offset_s=late_s)], 1.0)  # set by hand, or it slept
    assert dated(store) == [(1, late_s + 10.0)]
    store.take([event(1, 1, mono=30.0), rows(1, 1, mono=31.0, tq="rtc", ts=SET_S + 31.0)], 1.0)
    assert dated(store) == [(1, SET_S + 31.0), (1, SET_S + 10.0)]


def test_rows_without_the_time_wait_for_a_time_service_rather_than_keep_a_clock_that_was_only_set(store):
    late_s = SET_S - 90 * 86_400.0
    store.take([rows(0, 1, mono=10.0, tq="none"), event(1, mono=20.0, tq="rtc", offset_s=late_s)], 1.0)
    assert dated(store) == [(1, late_s + 10.0)]  # better than nothing
    store.take([event(1, 1, mono=30.0)], 1.0)
    assert dated(store) == [(1, SET_S + 10.0)]


def test_what_makes_no_sense_dates_nothing(store):
    hostile = [{"mono": "x"}, {"offset_s": []}, {"offset_s": 1e300}, {"mono": True}, {"machine": {}, "mono": 0.0}]
    store.take([rows(0, 1, mono=40.0, tq="none", machine={}), *(event(1, n, **f) for n, f in enumerate(hostile))], 1.0)
    assert dated(store) == [(1, None)]
    assert when_s({"tq": "none", "mono": None}, 1, []) is None
    assert when_s({"tq": ["none"], "ts": 5.0}, 1, []) == 5.0
