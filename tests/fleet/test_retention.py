"""What is left of rows after their time, and databases that move."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from sqlalchemy import func, inspect, select, text, update

from agent.cli.fleet_migrate import migrate_command
from agent.errors import BadInput, StorageError
from agent.fleet import layouts, tables
from agent.fleet.days import DAY_S
from agent.fleet.inventory import Inventory
from agent.fleet.messages import parse
from agent.fleet.moving import move
from agent.fleet.retention import CHUNK, Keeper
from agent.fleet.store import Store, open_engine
from agent.schema.fleet import Retention
from tests.fleet.databases import unordered

NOW_S = 1_790_000_000.0
HOUR_S = NOW_S // 3600 * 3600
RULES = Retention(rows_days=1, events_days=10, hours_days=100)


def window(ts: float, requests: int = 10, failed: int = 0, joules: float | None = 5.0, **fields):
    model = {"requests": requests, "failed": failed, "provenance": "measured", "energy_j": joules}
    if joules is None:
        del model["energy_j"]
    lane = {"state": "ready", "temperature_c": {"last": 50.0 + requests}}
    return {"ts": ts, "mono": 1.0, "tq": "ntp", "models": {"m": model}, "accelerators": {"npu": lane}, **fields}


def said(rows, first: int = 0, cls: str = "tlm", board: str = "b1"):
    document = {"v": 1, "boot": 1, "cls": cls, "seq0": first, "rows": rows}
    return parse(f"qeil/v1/acme/{board}/up/{cls}/agent", json.dumps(document).encode())


def count(store, table) -> int:
    with store.engine.begin() as db:
        return db.execute(select(func.count()).select_from(table)).scalar_one()


def hours(store):
    with store.engine.begin() as db:
        return [dict(r) for r in db.execute(select(tables.hours).order_by(tables.hours.c.hour_s)).mappings()]


def test_old_telemetry_leaves_sums_per_board_and_hour_and_young_rows_stay(store):
    store.take([said([window(HOUR_S, 10, 2), window(HOUR_S + 9, 20, joules=None), window(HOUR_S + 3600)])], NOW_S)
    store.take([said([window(NOW_S + DAY_S)], 3)], NOW_S + DAY_S)
    keeper = Keeper(store.engine, RULES, lambda: NOW_S + 1.5 * DAY_S)
    assert keeper.round() == 3
    assert keeper.round() == 0
    assert count(store, tables.rows) == 1
    first, second = hours(store)
    assert (first["hour_s"], first["windows"], first["requests"], first["failed"]) == (HOUR_S, 2, 30, 2)
    assert (first["energy_j"], first["energy_answers"], bool(first["modelled"])) == (5.0, 8, False)
    assert first["hottest_c"] == 70.0
    assert second["windows"] == 1
    shown = Inventory(store.engine, 300.0, 120.0, lambda: NOW_S).hours(("acme", "b1"), 1)
    assert shown == [{**{k: v for k, v in second.items() if k not in {"tenant", "board"}}}]


def test_later_rows_of_an_hour_are_added_to_it(store):
    keeper = Keeper(store.engine, RULES, lambda: NOW_S + 2 * DAY_S)
    for first in range(3):
        store.take([said([window(HOUR_S, 10 - first)], first)], NOW_S)
        keeper.round()
    (hour,) = hours(store)
    assert (hour["windows"], hour["requests"], hour["energy_j"], hour["hottest_c"]) == (3, 27, 15.0, 60.0)


def test_rows_without_a_good_time_count_for_when_they_came(store):
    rows = [window(5.0, tq="none"), window(NOW_S + 9 * DAY_S), window("x"), window(True), {"ts": HOUR_S}]
    store.take([said(rows)], NOW_S)
    Keeper(store.engine, RULES, lambda: NOW_S + 2 * DAY_S).round()
    (hour,) = hours(store)
    assert (hour["hour_s"], hour["windows"]) == (HOUR_S, 5)


def test_events_and_sums_go_after_their_own_time(store):
    store.take([said([{"event": "x"}], cls="evt"), said([window(HOUR_S)])], NOW_S)
    Keeper(store.engine, RULES, lambda: NOW_S + 9 * DAY_S).round()
    assert (count(store, tables.rows), count(store, tables.hours)) == (1, 1)
    keeper = Keeper(store.engine, RULES, lambda: NOW_S + 101 * DAY_S)
    keeper.round()
    assert (count(store, tables.rows), count(store, tables.hours)) == (0, 0)
    assert keeper.counters == {"rolled_up": 0, "deleted": 1}


def test_more_than_a_chunk_goes_in_one_round_and_twenty_chunks_at_most(store, monkeypatch):
    store.take([said([window(HOUR_S, 1)] * 500, 500 * i) for i in range(5)], NOW_S)
    monkeypatch.setattr("agent.fleet.retention.CHUNKS_IN_A_ROUND", 1)
    keeper = Keeper(store.engine, RULES, lambda: NOW_S + 2 * DAY_S)
    # PostgreSQL sums up all that a board has of a day in one step.
    expected = [CHUNK, 500, 0] if store.engine.dialect.name == "sqlite" else [2500, 0, 0]
    assert [keeper.round(), keeper.round(), keeper.round()] == expected
    assert hours(store)[0]["requests"] == 2500


def test_a_database_of_the_first_layout_is_brought_to_this_one(store):
    with store.engine.begin() as db:
        db.execute(text("DROP TABLE qeil_hours"))
        unordered(db)
        db.execute(update(tables.layout).values(version=1))
    layouts.prepare(store.engine)
    assert inspect(store.engine).has_table("qeil_hours")
    with store.engine.begin() as db:
        assert db.execute(select(tables.layout.c.version)).scalar_one() == tables.LAYOUT


def filled(url: str) -> Store:
    made = Store(open_engine(url))
    made.take([said([window(HOUR_S)] * 100, 100 * i, board=f"b{n}") for i in range(15) for n in range(2)], NOW_S)
    state = json.dumps({"v": 1, "online": True, "boot": 1, "conn": 1, "note": "a\0é"})
    made.take([parse("qeil/v1/acme/b0/up/state", state.encode())], NOW_S)
    with made.engine.begin() as db:
        db.execute(tables.audit.insert().values(at_s=1.0, who="a", action="b", target="c", detail="{}"))
    return made


def test_sqlite_moves_to_postgresql_by_one_command_and_goes_on_there(tmp_path, clean_postgres):
    source = filled(f"sqlite:///{tmp_path}/fleet.db")
    done = CliRunner().invoke(
        migrate_command, ["--database", f"sqlite:///{tmp_path}/fleet.db", "--to", clean_postgres, "--json"]
    )
    assert done.exit_code == 0, done.output
    rows = json.loads(done.output)["rows"]
    assert (rows["qeil_rows"], rows["qeil_boards"], rows["qeil_audit"]) == (3000, 2, 1)
    target = Store(open_engine(clean_postgres))
    with source.engine.begin() as old, target.engine.begin() as new:
        for table in tables.metadata.sorted_tables:
            keys = [*table.primary_key.columns] or [*table.columns]
            query = select(table).order_by(*keys)
            assert {tuple(r) for r in old.execute(query)} == {tuple(r) for r in new.execute(query)}, table.name
    assert target.take([said([window(HOUR_S)], 0, board="b0")], NOW_S).duplicates == 1
    with target.engine.begin() as db:
        db.execute(tables.audit.insert().values(at_s=1.0, who="a", action="b", target="c", detail="{}"))
    with pytest.raises(BadInput, match="already"):
        move(source.engine, target.engine)
    for made in (source, target):
        made.engine.dispose()


def test_a_database_that_fails_is_named(tmp_path):
    source, target = (open_engine(f"sqlite:///{tmp_path}/{name}.db") for name in ("a", "b"))
    with source.begin() as db:
        db.execute(text("DROP TABLE qeil_hours"))
    with pytest.raises(StorageError, match="qeil_hours"):
        move(source, target)
    for engine in (source, target):
        engine.dispose()


def test_without_a_target_the_layout_is_told(tmp_path):
    done = CliRunner().invoke(migrate_command, ["--database", f"sqlite:///{tmp_path}/x.db"])
    assert done.output == f"layout {tables.LAYOUT}\n"


ROLE = """
CREATE ROLE qeil_controller LOGIN;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO qeil_controller;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO qeil_controller;
GRANT EXECUTE ON FUNCTION qeil_keep_day(integer), qeil_drop_day(integer) TO qeil_controller;
"""


def test_a_role_that_may_change_no_table_is_enough_for_a_controller(clean_postgres):
    owner = open_engine(clean_postgres)
    with owner.begin() as db:
        for statement in filter(str.strip, ROLE.split(";")):
            db.execute(text(statement))
    engine = open_engine(clean_postgres.replace("qeil_test@", "qeil_controller@"))
    store = Store(engine)
    assert store.take([said([window(HOUR_S)])], NOW_S).rows == 1
    assert Keeper(engine, RULES, lambda: NOW_S + 2 * DAY_S).round() == 1
    with pytest.raises(Exception, match="must be owner"), engine.begin() as db:
        db.execute(text("DROP TABLE qeil_rows"))
    engine.dispose()
    with owner.begin() as db:
        db.execute(text("DROP OWNED BY qeil_controller"))
        db.execute(text("DROP ROLE qeil_controller"))
    owner.dispose()
