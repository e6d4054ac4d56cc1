"""The store on both databases: by key, in any order, any number of times."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import SQLAlchemyError

from agent.errors import ConfigError, StorageError
from agent.fleet import layouts, tables
from agent.fleet.inventory import Inventory
from agent.fleet.messages import parse
from agent.fleet.store import Store, open_engine
from tests.fleet.databases import unordered


def rows(first: int, count: int, board: str = "b1", cls: str = "tlm", boot: int = 1, **fields):
    documents = [{"ts": 1.0, "n": first + i, **fields} for i in range(count)]
    document = {"v": 1, "boot": boot, "cls": cls, "seq0": first, "rows": documents}
    topic = f"qeil/v1/acme/{board}/up/{cls}" + ("" if cls == "gap" else "/agent")
    return parse(topic, json.dumps(document).encode())


def told(kind: str, board: str = "b1", **fields):
    return parse(f"qeil/v1/acme/{board}/up/{kind}", json.dumps({"v": 1, **fields}).encode())


def one(store, table, *columns):
    with store.engine.begin() as db:
        return db.execute(select(*(table.c[c] for c in columns))).one()


def test_rows_are_stored_once_whatever_the_order_and_the_number_of_times(store):
    assert store.take([rows(10, 5), rows(0, 10)], 100.0).rows == 15
    again = store.take([rows(0, 20), rows(3, 3)], 101.0)
    assert (again.rows, again.duplicates) == (5, 18)
    assert one(store, tables.streams, "top", "stored", "lost") == (19, 20, 0)
    with store.engine.begin() as db:
        assert db.execute(select(func.count()).select_from(tables.rows)).scalar_one() == 20


def test_boots_classes_and_boards_have_numbers_of_their_own(store):
    batch = [rows(0, 3), rows(0, 3, boot=2), rows(0, 3, cls="evt"), rows(0, 3, board="b2")]
    assert store.take(batch, 1.0).rows == 12
    with store.engine.begin() as db:
        assert db.execute(select(func.count()).select_from(tables.streams)).scalar_one() == 4


def test_what_gap_rows_tell_to_be_lost_is_not_missing_and_counted_once(store):
    gap = rows(0, 1, cls="gap", boot=2, reason="spool_full")
    document = {"reason": "spool_full", "cls": "tlm", "boot": 1, "from": 2, "to": 6}
    gap = parse(
        "qeil/v1/acme/b1/up/gap", json.dumps({"v": 1, "boot": 2, "cls": "gap", "seq0": 0, "rows": [document]}).encode()
    )
    for _ in range(2):
        store.take([rows(0, 2), rows(7, 3), gap], 1.0)
    with store.engine.begin() as db:
        stream = db.execute(select(tables.streams).where(tables.streams.c.cls == "tlm")).one()
    assert (stream.top + 1, stream.stored, stream.lost) == (10, 5, 5)


def test_an_old_will_that_comes_late_changes_nothing(store):
    def online() -> bool:
        return one(store, tables.boards, "online")[0]

    store.take([told("state", online=True, boot=2, conn=3, agent="1")], 1.0)
    assert online() is True
    store.take([told("state", online=False, boot=2, conn=2)], 2.0)
    store.take([told("state", online=False, boot=1, conn=9)], 2.0)
    assert online() is True
    store.take([told("state", online=False, boot=2, conn=3)], 3.0)
    assert online() is False
    assert json.loads(one(store, tables.boards, "state")[0])["agent"] == "1"
    store.take([told("state", online=False, boot=2, conn=4), told("state", online=True, boot=2, conn=4)], 4.0)
    assert online() is False


def test_reports_and_the_newest_telemetry_are_kept_per_board(store):
    store.take([rows(5, 2), rows(0, 2), told("rep", des_ver=3), told("bundle", ver=4, status="kept")], 1.0)
    latest, reported, bundle = one(store, tables.boards, "latest", "reported", "bundle")
    assert json.loads(latest)["n"] == 6
    assert (json.loads(reported)["des_ver"], json.loads(bundle)["ver"]) == (3, 4)


def test_a_backlog_that_is_drained_after_new_telemetry_does_not_displace_the_newest(store):
    def latest() -> tuple:
        text, boot, seq = one(store, tables.boards, "latest", "latest_boot", "latest_seq")
        return json.loads(text)["n"], boot, seq

    store.take([rows(100, 2, boot=3)], 1.0)
    store.take([rows(0, 50, boot=3)], 2.0)
    store.take([rows(0, 500, boot=2), rows(0, 1, cls="evt", boot=4)], 3.0)
    assert latest() == (101, 3, 101)
    assert one(store, tables.boards, "heard_s") == (3.0,)
    store.take([rows(0, 1, boot=4)], 4.0)
    assert latest() == (0, 4, 0)
    store.take([told("state", "b2", online=True, boot=1, conn=1)], 5.0)
    store.take([rows(7, 1, "b2"), rows(3, 1, "b2")], 6.0)
    with store.engine.connect() as db:
        query = select(tables.boards.c.latest).where(tables.boards.c.board == "b2")
        assert json.loads(db.execute(query).scalar_one())["n"] == 7


def test_of_two_consumers_the_one_with_the_older_rows_changes_nothing_whoever_commits_first(store):
    """Its statement may begin before the other's commit, so what it compares with must be in the row it waits for."""
    beginning = threading.Barrier(2)

    def take(batch) -> None:
        beginning.wait(30.0)
        Store(store.engine).take([batch], 1.0)

    for n in range(1, 11):
        pair = [rows(1000 * n + 500, 1), rows(1000 * n, 400)]
        threads = [threading.Thread(target=take, args=(batch,)) for batch in pair]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60.0)
        assert one(store, tables.boards, "latest_seq") == (1000 * n + 500,)


def test_documents_that_were_overtaken_on_their_way_change_nothing(store):
    def said() -> tuple:
        return tuple(json.loads(t) for t in one(store, tables.boards, "reported", "bundle"))

    store.take(
        [told("rep", des_ver=4, boot=3, mono=20.5), told("bundle", ver=4, status="kept", boot=3, mono=21.0)], 1.0
    )
    store.take(
        [told("rep", des_ver=3, boot=3, mono=20.4), told("bundle", ver=4, status="trial", boot=3, mono=9.0)], 2.0
    )
    store.take([told("rep", des_ver=9, boot=2, mono=99.0), told("bundle", ver=5, status="trial")], 3.0)
    assert [d.get("des_ver", d.get("status")) for d in said()] == [4, "kept"]
    batch = [
        told("bundle", ver=6, status="kept", boot=4, mono=2.0),
        told("bundle", ver=6, status="trial", boot=4, mono=1),
    ]
    store.take([told("rep", des_ver=5, boot=4, mono=1.0), *batch], 4.0)
    assert [d.get("des_ver", d.get("status")) for d in said()] == [5, "kept"]
    store.take([told("rep", "b2", des_ver=1), told("rep", "b2", des_ver=2, boot="x", mono=1e300)], 5.0)
    with store.engine.connect() as db:
        query = select(tables.boards.c.reported).where(tables.boards.c.board == "b2")
        assert json.loads(db.execute(query).scalar_one())["des_ver"] == 2


def test_a_database_of_layout_3_learns_what_orders_what_boards_say(store):
    store.take([rows(5, 1), told("rep", des_ver=3, boot=1, mono=1.0)], 1.0)
    with store.engine.begin() as db:
        unordered(db)
        db.execute(update(tables.layout).values(version=3))
    layouts.prepare(store.engine)
    assert one(store, tables.boards, "latest_boot", "reported_mono") == (None, None)
    store.take([rows(3, 1), told("rep", des_ver=4, boot=1, mono=0.5)], 2.0)
    latest, reported = one(store, tables.boards, "latest", "reported")
    assert (json.loads(latest)["n"], json.loads(reported)["des_ver"]) == (3, 4)


def test_a_change_of_layout_that_is_cut_off_is_as_if_it_had_not_begun(store, monkeypatch):
    with store.engine.begin() as db:
        unordered(db)
        db.execute(update(tables.layout).values(version=3))
    changes = layouts._CHANGES[3]
    broken = {name: (*sentences[:2], "ALTER TABLE none SET", *sentences[2:]) for name, sentences in changes.items()}
    with monkeypatch.context() as cut:
        cut.setitem(layouts._CHANGES, 3, broken)
        with pytest.raises(SQLAlchemyError):
            layouts.prepare(store.engine)
    with ThreadPoolExecutor(3) as controllers:
        assert [*controllers.map(layouts.prepare, [store.engine] * 3)] == [None] * 3
    assert one(store, tables.layout, "version") == (tables.LAYOUT,)


def test_an_event_row_settles_a_command_and_a_late_response_does_not_reopen_it(store):
    values = {
        "id": "acme/c1", "tenant": "acme", "board": "b1", "kind": "command", "name": "plan", "envelope": "{}",
        "by_whom": "me", "created_s": 1.0, "status": "sent", "changed_s": 1.0,
    }  # fmt: skip
    with store.engine.begin() as db:
        db.execute(tables.messages.insert().values(values))
    store.take([told("res/plan", id="c1", status="running")], 2.0)
    assert one(store, tables.messages, "status") == ("running",)
    store.take([rows(0, 1, cls="evt", event="command", id="c1", status="ok")], 3.0)
    store.take([told("res/plan", id="c1", status="running"), told("res/plan", "b2", id="c1", status="failed")], 4.0)
    assert one(store, tables.messages, "status") == ("ok",)


def test_rows_from_before_the_clock_was_set_are_dated_once_it_is(store):
    inventory = Inventory(store.engine, 300.0, 120.0, lambda: 1.0)
    store.take([rows(0, 1, tq="none", mono=100.0), rows(1, 1, tq="ntp", mono=300.0)], 1.0)
    assert [r["when_s"] for r in inventory.rows(("acme", "b1"), "tlm", 10)] == [1.0, None]
    store.take([rows(0, 1, cls="evt", event="clock_set", offset_s=1.7e9, tq="ntp", mono=200.0)], 2.0)
    assert [r["when_s"] for r in inventory.rows(("acme", "b1"), "tlm", 10)] == [1.0, 1.7e9 + 100.0]


def test_a_newer_layout_is_refused_and_says_so(store):
    with store.engine.begin() as db:
        db.execute(update(tables.layout).values(version=99))
    try:
        with pytest.raises(StorageError, match="layout 99"):
            layouts.prepare(store.engine)
    finally:
        with store.engine.begin() as db:
            db.execute(update(tables.layout).values(version=tables.LAYOUT))


def test_a_database_that_is_gone_is_one_line_without_a_password():
    with pytest.raises(StorageError) as caught:
        open_engine("postgresql://u:secret@127.0.0.1:9/none")
    assert "secret" not in caught.value.message
    with pytest.raises(ConfigError, match="expected sqlite"):
        open_engine("nonsense")


def test_a_batch_that_fails_is_not_stored_at_all(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path}/fleet.db")
    store = Store(engine)
    with engine.begin() as db:
        db.execute(text("CREATE TRIGGER no BEFORE UPDATE ON qeil_boards BEGIN SELECT RAISE(ABORT, 'disk'); END"))
    with pytest.raises(StorageError, match="disk"):
        store.take([rows(0, 2), told("rep", des_ver=1)], 1.0)
    with engine.begin() as db:
        assert db.execute(select(func.count()).select_from(tables.rows)).scalar_one() == 0
    engine.dispose()
