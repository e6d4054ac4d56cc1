"""The spool: gap-free numbers, acknowledgements, readers and the writer."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time

import pytest

from agent.errors import StorageError
from agent.storage import outbox as module
from agent.storage.outbox import Outbox, recent_rows
from tests.fakes import FakeClock
from tests.storage.spools import make, waiting


def test_numbers_are_gap_free_per_boot_and_class_over_a_reopen(tmp_path):
    box = make(tmp_path)
    for i in range(3):
        box.append("tlm", {"i": i})
        box.append("evt", {"i": i})
    box.stop()
    box = make(tmp_path)
    box.append("tlm", {})
    box.flush()
    assert [r.seq for r in box.recent(99) if r.cls == "tlm"] == [0, 1, 2, 3]
    box.stop()
    box = make(tmp_path, boot=2)
    box.append("tlm", {})
    box.flush()
    assert [(r.boot, r.seq) for r in waiting(box)] == [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]
    box.stop()


def test_a_number_is_not_used_again_after_everything_was_acknowledged(tmp_path):
    box = make(tmp_path)
    box.append("tlm", {"n": 0})
    box.flush()
    box.acknowledge(1, "tlm", 0)
    box.stop()
    box = make(tmp_path)
    assert (box.depth(), waiting(box), box.recent(9)) == (0, [], [])
    box.append("tlm", {"n": 1})
    box.flush()
    assert [r.seq for r in waiting(box)] == [1]
    box.stop()


def test_reading_goes_on_behind_a_key_and_passes_what_is_acknowledged_but_not_deleted_yet(tmp_path):
    box = make(tmp_path)
    for i in range(10):
        box.append("tlm", {"i": i})
    box.flush()
    box.acknowledge(1, "tlm", 1, [(3, 6)])
    assert [r.seq for r in box.rows_after("tlm", None, 3)] == [2, 7, 8]
    assert [r.seq for r in box.rows_after("tlm", (1, 7), 3)] == [8, 9]
    assert box.depth() == 10
    box.flush()
    assert box.depth() == 4
    assert box.counters["acknowledged"] == 6
    box.stop()


@pytest.mark.parametrize(
    ("boot", "cls", "cumulative", "ranges"),
    [(2, "tlm", 2**80, []), (1, "evt", 9, []), (1, "x", 9, []), (2**70, "tlm", 9, []), (-1, "tlm", 9, []),
     (1, "tlm", None, []), (1, "tlm", -5, [(9, 3), (-9, -1)])],
)  # fmt: skip
def test_an_acknowledgement_of_something_else_deletes_nothing(tmp_path, boot, cls, cumulative, ranges):
    box = make(tmp_path)
    box.append("tlm", {})
    box.flush()
    box.acknowledge(boot, cls, cumulative, ranges)
    box.flush()
    assert (box.depth(), box.failing) == (1, None)
    box.stop()


def test_an_acknowledgement_beyond_all_numbers_deletes_what_there_is_and_not_what_follows(tmp_path):
    box = make(tmp_path)
    box.append("tlm", {})
    box.flush()
    box.append("tlm", {})
    box.acknowledge(1, "tlm", 2**80)
    box.flush()
    assert ([r.seq for r in waiting(box)], box.failing) == ([1], None)
    box.stop()


def test_a_row_that_is_not_json_is_refused_and_told_and_the_writer_lives(tmp_path):
    box = make(tmp_path)
    assert not box.append("tlm", {"x": float("nan")})
    assert not box.append("evt", {"x": object()})
    assert not box.append("evt", {"x": "y" * module.MAX_ROW_BYTES})
    box.flush()
    assert [r.payload for r in waiting(box, "gap")] == [
        {"reason": "not_storable", "cls": "tlm", "rows": 1},
        {"reason": "not_storable", "cls": "evt", "rows": 2},
    ]
    assert (box.counters["rejected"], box.depth()) == (3, 2)
    box.stop()


def test_flushing_from_many_threads_commits_every_row_once(tmp_path):
    box = make(tmp_path)
    for i in range(500):
        box.append("tlm", {"i": i})
    threads = [threading.Thread(target=box.flush) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [r.payload["i"] for r in waiting(box)] == list(range(500))
    box.stop()


def test_the_newest_rows_are_those_written_last_whatever_their_class(tmp_path):
    box = make(tmp_path)
    for cls in ("tlm", "evt", "tlm", "evt"):
        box.append(cls, {})
        box.flush()
    assert [(r.cls, r.seq) for r in box.recent(3)] == [("evt", 0), ("tlm", 1), ("evt", 1)]
    box.stop()


def test_another_process_can_read_the_newest_rows(tmp_path):
    box = make(tmp_path)
    for i in range(5):
        box.append("tlm", {"i": i})
    box.flush()
    assert [r.payload["i"] for r in recent_rows(tmp_path / "outbox.db", 2)] == [3, 4]
    box.stop()
    with pytest.raises(StorageError, match="no outbox yet"):
        recent_rows(tmp_path / "none.db", 2)
    (tmp_path / "bad.db").write_bytes(b"not a database" * 100)
    with pytest.raises(StorageError, match="not a database"):
        recent_rows(tmp_path / "bad.db", 2)


def test_the_writer_commits_events_at_once_and_stops_when_told(tmp_path):
    box = Outbox(tmp_path / "outbox.db", 1, 1 << 22, 300.0, FakeClock())
    box.start()
    assert box.alive()
    box.append("evt", {"now": 1})
    assert box.wait_committed(60.0)
    assert box.depth() == 1
    box.append("tlm", {"later": 1})
    box.stop()
    assert len(recent_rows(tmp_path / "outbox.db", 9)) == 2


def test_many_scattered_acknowledgements_do_not_wait_for_the_window(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_SPANS", 2)
    box = Outbox(tmp_path / "outbox.db", 1, 1 << 22, 300.0, FakeClock())
    for i in range(9):
        box.append("tlm", {"i": i})
    box.flush()
    box.start()
    box.acknowledge(1, "tlm", None, [(0, 0), (2, 2), (4, 4)])
    for _ in range(6000):
        if box.depth() == 6:
            break
        time.sleep(0.01)
    assert box.depth() == 6
    box.stop()


def test_nobody_else_writes_to_the_file_and_no_index_of_its_log_is_on_the_disk(tmp_path):
    box = make(tmp_path)
    box.append("evt", {})
    box.flush()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["outbox.db", "outbox.db-wal"]
    db = sqlite3.connect(tmp_path / "outbox.db", timeout=0)
    with contextlib.closing(db), pytest.raises(sqlite3.OperationalError, match="locked"):
        db.execute("SELECT * FROM rows")
    box.stop()


def test_a_reader_never_sees_half_a_commit(tmp_path):
    """All threads share one connection, on which even what is not committed can be read."""
    box = make(tmp_path)
    seen = []
    insert = box._spool._insert

    def slow(rows):
        made = insert(rows)
        reader = threading.Thread(target=lambda: seen.append(box.depth()))
        reader.start()
        reader.join(0.2)
        assert seen == []
        seen.append("committed")
        return made

    box._spool._insert = slow
    box.append("evt", {})
    box.flush()
    for _ in range(6000):
        if len(seen) == 2:
            break
        time.sleep(0.01)
    assert seen == ["committed", 1]
    box.stop()
