"""The spool: gap-free numbers, nothing committed is lost, bounded, and loss is never silent."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import StorageError
from agent.storage import outbox as module
from agent.storage.outbox import Outbox, recent_rows
from tests.fakes import FakeClock

CLASSES = ("evt", "gap", "tlm")


def make(folder, boot=1, max_bytes=1 << 22) -> Outbox:
    return Outbox(folder / "outbox.db", boot, max_bytes, 1.0, FakeClock())


def waiting(box, cls="tlm", limit=100_000):
    return box.rows_after(cls, None, limit)


class FullDisk:
    """A database connection whose disk takes nothing while `broken` is set."""

    def __init__(self, real, cause="disk I/O error") -> None:
        self.real, self.cause, self.broken = real, cause, True

    def __enter__(self):
        if self.broken:
            raise sqlite3.OperationalError(self.cause)
        return self.real.__enter__()

    def __exit__(self, *details):
        return self.real.__exit__(*details)

    def __getattr__(self, name):
        return getattr(self.real, name)


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


def test_at_the_cap_the_oldest_telemetry_makes_room_and_a_gap_row_says_which(tmp_path):
    box = make(tmp_path, max_bytes=1 << 20)
    box.append("evt", {"kept": True})
    for i in range(1500):
        box.append("tlm", {"i": i, "x": "y" * 2500})
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
    box = make(tmp_path, max_bytes=1 << 20)

    def fill():
        before = box.counters["evicted"]
        while box.counters["evicted"] < before + 200:
            box.append("tlm", {"x": "y" * 2500})
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
    for _ in range(6):
        box.append("tlm", {"x": "y" * (module.MAX_ROW_BYTES - 20)})
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
        box.append("tlm", {"i": i, "x": "y" * 1000})
    box.flush()
    assert [r.payload["i"] for r in waiting(box)] == list(range(41, 50))
    assert box.counters["dropped"] == 41
    box.stop()


@pytest.mark.parametrize("cause", ["disk I/O error", "database or disk is full"])
def test_a_disk_that_cannot_take_rows_keeps_them_queued_and_blocks_nobody(tmp_path, cause):
    box = make(tmp_path)
    box.append("tlm", {"n": 0})
    box.append("tlm", {"n": 1})
    box.flush()
    disk = box._spool._db = FullDisk(box._spool._db, cause)
    box.append("tlm", {"n": 2})
    box.acknowledge(1, "tlm", 0)
    box.bury(waiting(box)[0], "too_large", 9)
    box.append("evt", {"bad": {1, 2}})
    box.flush()
    box.flush()
    assert (box.counters["write_errors"], box.failing, box.depth()) == (2, cause, 2)
    assert waiting(box) == []
    disk.broken = False
    box.flush()
    assert box.failing is None
    assert [r.payload for r in waiting(box)] == [{"n": 2}]
    assert {g.payload["reason"] for g in waiting(box, "gap")} == {"too_large", "not_storable"}
    assert (box.counters["acknowledged"], box.counters["dead"]) == (1, 1)
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


def test_a_file_that_cannot_be_read_is_said_and_not_raised(tmp_path):
    box = make(tmp_path)
    box.append("tlm", {})
    box.flush()
    box._reader.close()
    box._reader = sqlite3.connect(":memory:", check_same_thread=False)
    assert (waiting(box), box.recent(1), box.depth()) == ([], [], 0)
    assert "no such table" in box.failing
    assert box.counters["read_errors"] == 3
    box.stop()


def test_a_damaged_file_is_moved_aside_and_said(tmp_path):
    (tmp_path / "outbox.db").write_bytes(b"not a database" * 1000)
    box = make(tmp_path)
    assert "damaged" in box.recovered
    box.append("evt", {})
    box.flush()
    assert box.depth() == 1
    assert (tmp_path / "outbox.damaged-1").exists()
    box.stop()


def test_a_file_of_another_layout_is_moved_aside_and_said(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "outbox.db")) as old:
        old.executescript("CREATE TABLE rows (x); PRAGMA user_version = 99;")
    box = make(tmp_path, boot=7)
    assert "layout 99" in box.recovered
    assert (tmp_path / "outbox.damaged-7").exists()
    box.stop()


def test_an_unusable_folder_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="state_dir must be writable"):
        make(tmp_path / "file")
    (tmp_path / "outbox.db").mkdir()
    with pytest.raises(StorageError, match=r"outbox.db: unable to open .*state_dir must be writable"):
        make(tmp_path)


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
    assert box.wait_committed(5.0)
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
    for _ in range(500):
        if box.depth() == 6:
            break
        time.sleep(0.01)
    assert box.depth() == 6
    box.stop()


def test_a_dead_writer_shows(tmp_path):
    box = make(tmp_path)
    box._commit_rows = None
    box.start()
    assert box.alive()
    box.append("evt", {})
    box._thread.join(5)
    assert not box.alive()


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


STEPS = st.one_of(
    st.sampled_from(["flush", "break", "mend"]),
    st.tuples(st.just("append"), st.sampled_from(["tlm", "evt"])),
    st.tuples(st.just("reopen"), st.integers(0, 1)),
    st.tuples(st.just("ack"), st.sampled_from(["tlm", "evt"]), st.integers(0, 12), st.integers(0, 3)),
    st.tuples(st.just("cum"), st.sampled_from(["tlm", "evt"]), st.integers(0, 12)),
)


class Model:
    """What must be true of the spool, in a few sets."""

    def __init__(self, folder) -> None:
        self.folder, self.boot = folder, 1
        self.box = make(folder)
        self.queued: list[tuple[str, int]] = []
        self.rows: dict[tuple[str, int, int], int] = {}
        self.next: dict[tuple[str, int], int] = {}
        self.acknowledged: set[tuple[str, int, int]] = set()
        self.tag = 0

    def committed(self) -> None:
        if self.box.failing is None:
            for cls, tag in self.queued:
                seq = self.next.get((cls, self.boot), 0)
                self.rows[cls, self.boot, seq] = tag
                self.next[cls, self.boot] = seq + 1
            self.queued = []
            self.acknowledged &= set(self.rows)

    def ack(self, cls, low, high, cumulative) -> None:
        self.box.acknowledge(self.boot, cls, high if cumulative else None, [] if cumulative else [(low, high)])
        span = range(0 if cumulative else low, high + 1)
        self.acknowledged |= {key for key in self.rows if key[:2] == (cls, self.boot) and key[2] in span}

    def step(self, step) -> None:
        name, *arguments = (step,) if isinstance(step, str) else step
        if name == "append":
            self.tag += 1
            self.box.append(arguments[0], {"tag": self.tag})
            self.queued.append((arguments[0], self.tag))
        elif name == "flush":
            self.box.flush()
            self.committed()
        elif name in {"ack", "cum"}:
            cls, low, more = [*arguments, 0][:3]
            self.ack(cls, low, low + more, name == "cum")
        elif name == "reopen":  # a crash: nothing is flushed
            self.box._reader.close()
            self.box._spool._db.close()
            self.queued = []
            self.boot += arguments[0]
            self.box = make(self.folder, self.boot)
        elif name == "break" and not isinstance(self.box._spool._db, FullDisk):
            self.box._spool._db = FullDisk(self.box._spool._db)
        elif name == "mend" and isinstance(self.box._spool._db, FullDisk):
            self.box._spool._db = self.box._spool._db.real

    def check(self) -> None:
        found = {(r.cls, r.boot, r.seq): r.payload["tag"] for c in ("tlm", "evt") for r in waiting(self.box, c)}
        assert found.items() <= self.rows.items()
        assert set(self.rows) - self.acknowledged <= set(found)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_whatever_happens_no_committed_row_is_lost_before_its_acknowledgement(tmp_path_factory, steps):
    model = Model(tmp_path_factory.mktemp("box"))
    for step in steps:
        model.step(step)
        model.check()
    model.step("mend")
    model.step("flush")
    model.check()
    model.box.stop()


def test_a_killed_process_loses_no_committed_row(tmp_path):
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from agent.service.clock import SystemClock
        from agent.storage.outbox import Outbox
        box = Outbox(Path(sys.argv[1]), 1, 1 << 22, 1.0, SystemClock())
        for i in range(100000):
            box.append("evt", {"i": i})
            box.flush()
            print(i, flush=True)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "outbox.db")], stdout=subprocess.PIPE, text=True
    )
    last = 0
    for line in process.stdout:
        last = int(line)
        if last >= 50:
            process.kill()
            break
    process.wait()
    process.stdout.close()
    box = make(tmp_path)
    numbers = [r.payload["i"] for r in waiting(box, "evt")]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > last
    box.stop()
