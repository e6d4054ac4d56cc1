"""Telemetry in PostgreSQL by day: where rows lie, how days come and go, and what a kill in between leaves."""

from __future__ import annotations

import json
import threading

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError

from agent.fleet import layouts, partitions, tables
from agent.fleet.days import DAY_S
from agent.fleet.messages import parse
from agent.fleet.moving import move
from agent.fleet.partitions import Partitions
from agent.fleet.retention import Keeper
from agent.fleet.store import Store, open_engine
from agent.schema.fleet import Retention
from tests.fleet.databases import unordered

DAY = 20_718
NOW_S = DAY * DAY_S + 43_200.0
RULES = Retention(rows_days=2, events_days=10, hours_days=100)
OVER_S = NOW_S + 3 * DAY_S


@pytest.fixture
def store(clean_postgres):
    made = Store(open_engine(clean_postgres), RULES)
    yield made
    made.engine.dispose()


def said(n: int, ts: float = NOW_S, board: str = "b1", first: int = 0, cls: str = "tlm"):
    rows = [{"ts": ts, "tq": "ntp", "models": {"m": {"requests": 1, "failed": 0}}}] * n
    document = {"v": 1, "boot": 1, "cls": cls, "seq0": first, "rows": rows}
    return parse(f"qeil/v1/acme/{board}/up/{cls}/agent", json.dumps(document).encode())


def where(store) -> dict[str, int]:
    with store.engine.connect() as db:
        found = db.execute(text("SELECT tableoid::regclass::text, count(*) FROM qeil_rows GROUP BY 1"))
        return {r[0].removeprefix("qeil_rows_"): r[1] for r in found}


def days(store) -> set[str]:
    query = text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'qeil_rows'::regclass")
    with store.engine.connect() as db:
        return {r[0].removeprefix("qeil_rows_") for r in db.execute(query)} - {"undated", "rest"}


def windows(store) -> int:
    with store.engine.connect() as db:
        return db.execute(select(func.coalesce(func.sum(tables.hours.c.windows), 0))).scalar_one()


def test_a_new_database_has_days_ahead_and_a_keeper_makes_the_next(store):
    assert len(days(store)) == 5
    Partitions(store.engine, 2).keep(NOW_S)
    assert {"20260922", "20260923", "20260924", "20260925"} <= days(store)
    assert Partitions(store.engine, 2).keep(NOW_S) == 0


def test_rows_lie_in_the_day_that_they_tell_and_events_and_the_undated_have_none(store):
    Partitions(store.engine, 2).keep(NOW_S)
    store.take([said(3), said(2, NOW_S + DAY_S, first=3), said(1, 5.0, first=5), said(4, cls="evt")], NOW_S)
    assert where(store) == {"20260922": 3, "20260923": 2, "undated": 5}


def test_a_row_that_comes_again_on_another_day_is_known(store):
    Partitions(store.engine, 2).keep(NOW_S)
    store.take([said(3)], NOW_S)
    assert store.take([said(4)], NOW_S + DAY_S).duplicates == 3
    assert where(store) == {"20260922": 4}


def test_rows_wait_where_there_is_no_day_until_a_keeper_makes_it(store):
    store.take([said(3), said(1, cls="evt")], NOW_S)
    assert where(store) == {"rest": 3, "undated": 1}
    assert Partitions(store.engine, 2).keep(NOW_S) == 4
    assert where(store) == {"20260922": 3, "undated": 1}
    assert store.take([said(3)], NOW_S).duplicates == 3


def test_a_day_goes_whole_when_its_time_is_over_and_leaves_its_hours(store):
    store.take([said(3), said(2, NOW_S + DAY_S, "b2")], NOW_S)
    assert Keeper(store.engine, RULES, lambda: OVER_S - DAY_S).round() == 0
    assert Keeper(store.engine, RULES, lambda: OVER_S).round() == 3
    assert (where(store), windows(store)) == ({"20260923": 2}, 3)
    assert "20260922" not in days(store)


def test_a_kill_between_two_steps_counts_no_board_twice_and_none_never(store, monkeypatch):
    monkeypatch.setattr(partitions, "BOARD_ROWS", 3)
    store.take([said(4, board=f"b{n}") for n in range(9)], NOW_S)
    keeper = Partitions(store.engine, 2)
    keeper.keep(NOW_S)
    steps = []
    with monkeypatch.context() as patched:
        patched.setattr(partitions, "add_hours", lambda db, rows: steps.append(1) or killed(db, rows))
        with pytest.raises(RuntimeError):
            keeper.step(OVER_S)
    assert (steps, windows(store)) == ([1], 0)
    found = []
    while (count := Partitions(store.engine, 2).step(OVER_S)) is not None:
        found.append(count)
    assert sum(found) == windows(store) == 36
    assert len(found) > 5
    assert where(store) == {}


def killed(db, rows):
    raise RuntimeError("killed")


def test_two_keepers_beside_each_other_and_a_consumer_count_everything_once(store, monkeypatch):
    monkeypatch.setattr(partitions, "BOARD_ROWS", 3)
    store.take([said(4, NOW_S + d * DAY_S, f"b{n}", 10 * d) for n in range(9) for d in range(2)], NOW_S)
    keepers = [Keeper(store.engine, RULES, lambda: OVER_S + DAY_S) for _ in range(2)]
    failures: list[Exception] = []

    def work(act) -> None:
        try:
            for n in range(8):
                act(n)
        except Exception as error:  # noqa: BLE001  (told by the test)
            failures.append(error)

    acts = [lambda _: keepers[0].round(), lambda _: keepers[1].round()]
    acts.append(lambda n: store.take([said(2, OVER_S, "new", 2 * n)], OVER_S + DAY_S))
    threads = [threading.Thread(target=work, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    keepers[0].round()
    assert failures == []
    assert (windows(store), where(store)) == (72, {"20260925": 16})
    assert sum(k.counters["rolled_up"] for k in keepers) == 72


def test_rows_from_before_there_were_partitions_find_their_days(clean_postgres):
    engine = open_engine(clean_postgres)
    with engine.begin() as db:
        db.execute(text("DROP TABLE qeil_rows"))
        db.execute(text("DROP TABLE qeil_rolled"))
        tables.rows.create(db)  # as layout 2 had it
        unordered(db)
        old = [
            {"tenant": "acme", "board": "b1", "boot": 1, "cls": cls, "seq": n, "at_s": NOW_S, "payload": payload}
            for cls, n, payload in [
                ("tlm", 0, json.dumps({"ts": NOW_S, "tq": "ntp"})), ("tlm", 1, '{"ts":1.0,"x":Infinity}'),
                ("tlm", 2, json.dumps({"ts": NOW_S - DAY_S, "note": "a\\n\\u0000"})), ("evt", 0, "{}"),
            ]
        ]  # fmt: skip
        db.execute(tables.rows.insert(), old)
        db.execute(update(tables.layout).values(version=2))
    layouts.prepare(engine)
    layouts.prepare(engine)
    made = Store(engine)
    assert where(made) == {"20260922": 1, "20260921": 1, "undated": 2}
    with engine.connect() as db:
        found = db.execute(select(tables.rows)).mappings()
        assert sorted(map(repr, map(dict, found))) == sorted(map(repr, old))
    assert made.take([said(1)], NOW_S).duplicates == 1
    engine.dispose()


def test_a_move_out_of_a_database_that_is_summing_up_a_day_takes_each_row_once(store, tmp_path, monkeypatch):
    monkeypatch.setattr(partitions, "BOARD_ROWS", 3)
    store.take([said(4, board=f"b{n}") for n in range(3)], NOW_S)
    keeper = Partitions(store.engine, 2)
    keeper.keep(NOW_S)
    assert keeper.step(OVER_S) == 4
    target = open_engine(f"sqlite:///{tmp_path}/fleet.db")
    assert move(store.engine, target)["qeil_rows"] == 8
    moved = Store(target)
    Keeper(target, RULES, lambda: OVER_S).round()
    assert windows(moved) == 12
    target.dispose()


def test_the_functions_touch_days_of_telemetry_alone(store):
    for name, day in (("qeil_keep_day", 5), ("qeil_drop_day", 0), ("qeil_drop_day", 10**8)):
        with pytest.raises(DBAPIError, match="no day of telemetry"), store.engine.begin() as db:
            db.execute(text(f"SELECT {name}({day})"))
