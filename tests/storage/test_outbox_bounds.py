"""The spool when there is too much: bounded on disk and in memory, and loss is never silent."""

from __future__ import annotations

import itertools

from agent.storage import outbox as module
from tests.storage.spools import FullDisk, make, noise, waiting


def test_at_the_cap_the_oldest_telemetry_makes_room_and_a_gap_row_says_which(tmp_path):
    box = make(tmp_path, max_bytes=1 << 20)
    box.append("evt", {"kept": True})
    for i in range(1500):
        box.append("tlm", {"i": i, "x": noise(2500, i)})
        if i % 20 == 0:
            box.flush()
    box.flush()
    missing = set(range(1500)) - {r.seq for r in waiting(box)}
    told = set()
    for gap in waiting(box, "gap"):
        assert (gap.payload["reason"], gap.payload["cls"], gap.payload["boot"]) == ("spool_full", "tlm", 1)
        told |= set(range(gap.payload["from"], gap.payload["to"] + 1))
    assert missing == told == set(range(len(missing)))
    assert missing
    assert box.counters["evicted"] == len(missing)
    assert len(waiting(box, "evt")) == 1
    assert (tmp_path / "outbox.db").stat().st_size <= 1 << 20
    assert box.failing is None
    box.stop()


def test_one_gap_row_grows_until_somebody_has_read_it(tmp_path):
    seeds = itertools.count()
    box = make(tmp_path, max_bytes=1 << 20)

    def fill():
        before = box.counters["evicted"]
        while box.counters["evicted"] < before + 200:
            box.append("tlm", {"x": noise(2500, next(seeds))})
            box.flush()

    fill()
    first = waiting(box, "gap")
    assert len(first) == 1
    fill()
    both = waiting(box, "gap")
    assert both[0] == first[0]
    assert [g.payload["from"] for g in both] == [0, first[0].payload["to"] + 1]
    box.stop()


def test_where_there_is_no_telemetry_the_oldest_events_make_room(tmp_path):
    box = make(tmp_path, max_bytes=1 << 20)
    for _ in range(600):
        box.append("evt", {"x": "y" * 2500})
    box.flush()
    assert box.failing is None
    assert waiting(box, "gap")[0].payload["cls"] == "evt"
    assert waiting(box, "evt")[-1].seq == 599
    box.stop()


def test_the_largest_row_fits_into_the_smallest_spool(tmp_path):
    box = make(tmp_path, max_bytes=1)
    for i in range(6):
        box.append("tlm", {"x": noise(module.MAX_ROW_BYTES - 20, i)})
        box.flush()
    assert box.failing is None
    assert waiting(box)[-1].seq == 5
    box.stop()


def test_memory_is_bounded_and_drops_the_oldest_telemetry_first(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_QUEUED_ROWS", 10)
    box = make(tmp_path)
    box.append("evt", {"n": 0})
    for i in range(14):
        assert box.append("tlm", {"i": i})
    assert box.append("evt", {"n": 1})
    box.flush()
    assert [r.payload["i"] for r in waiting(box)] == list(range(6, 14))
    assert [r.payload["n"] for r in waiting(box, "evt")] == [0, 1]
    assert [r.payload for r in waiting(box, "gap")] == [{"reason": "queue_full", "cls": "tlm", "rows": 6}]
    assert box.counters["dropped"] == 6
    box.stop()


def test_memory_full_of_events_takes_no_telemetry_but_the_newest_event(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_QUEUED_ROWS", 3)
    box = make(tmp_path)
    for i in range(4):
        assert box.append("evt", {"i": i})
    assert not box.append("tlm", {})
    box.flush()
    assert [r.payload["i"] for r in waiting(box, "evt")] == [1, 2, 3]
    assert {r.payload["cls"]: r.payload["rows"] for r in waiting(box, "gap")} == {"evt": 1, "tlm": 1}
    box.stop()


def test_memory_is_bounded_in_bytes_too(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_QUEUED_BYTES", 10_000)
    box = make(tmp_path)
    for i in range(50):
        box.append("tlm", {"i": i, "x": noise(1000, i)})
    box.flush()
    assert [r.payload["i"] for r in waiting(box)] == list(range(41, 50))
    assert box.counters["dropped"] == 41
    box.stop()


def test_while_the_disk_fails_the_newest_rows_and_all_events_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_QUEUED_ROWS", 4)
    box = make(tmp_path)
    disk = box._spool._db = FullDisk(box._spool._db)
    box.append("evt", {"n": 0})
    for i in range(9):
        box.append("tlm", {"i": i})
        box.flush()
    disk.broken = False
    box.flush()
    assert [r.payload["i"] for r in waiting(box)] == [6, 7, 8]
    assert len(waiting(box, "evt")) == 1
    assert [g.payload["rows"] for g in waiting(box, "gap")] == [6]
    box.stop()


def test_a_buried_row_leaves_a_note_and_a_gap_row(tmp_path):
    box = make(tmp_path)
    box.append("tlm", {})
    box.flush()
    box.bury(box.recent(1)[0], "too_large", 99)
    assert waiting(box) == []
    box.flush()
    assert [r.payload for r in box.recent(9)] == [{"reason": "too_large", "cls": "tlm", "boot": 1, "from": 0, "to": 0}]
    dead = box._spool._db.execute("SELECT cls, boot, seq, bytes, reason FROM dead").fetchall()
    assert dead == [("tlm", 1, 0, 99, "too_large")]
    box.stop()


def test_rows_that_were_acknowledged_are_not_told_to_be_lost_where_the_next_ones_do_not_fit(tmp_path):
    seeds = itertools.count()
    box = make(tmp_path, max_bytes=1 << 20)
    while not box.counters["evicted"]:
        box.append("tlm", {"x": noise(2500, next(seeds))})
        box.flush()
    for _ in range(50):  # of the room for 64 that was made
        box.append("tlm", {"x": noise(2500, next(seeds))})
    box.flush()
    oldest = waiting(box)[0].seq
    for low in range(oldest, oldest + 10, 2):
        box.acknowledge(1, "tlm", None, [(low, low)])
    for _ in range(200):
        box.append("tlm", {"x": noise(2500, next(seeds))})
    box.flush()
    told = {n for gap in waiting(box, "gap") for n in range(gap.payload["from"], gap.payload["to"] + 1)}
    assert box.counters["acknowledged"] == 5
    assert not told & set(range(oldest, oldest + 10, 2))
    assert {oldest + 1, oldest + 3} <= told
    assert len(told) == box.counters["evicted"]
    box.stop()
