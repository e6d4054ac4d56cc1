"""The spool: gap-free numbers, nothing committed is lost, bounded, and loss is never silent."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import textwrap

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import StorageError
from agent.storage import outbox as module
from agent.storage.outbox import Outbox, recent_rows
from tests.fakes import FakeClock


def make(folder, boot=1, max_bytes=1 << 22) -> Outbox:
    return Outbox(folder / "outbox.db", boot, max_bytes, 1.0, FakeClock())


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
    assert [(r.boot, r.seq) for r in box.pending(99, 0.0) if r.cls == "tlm"][-1] == (2, 0)
    box.stop()


def test_events_come_before_gaps_before_telemetry(tmp_path):
    box = make(tmp_path)
    for cls in ("tlm", "gap", "evt"):
        box.append(cls, {})
    box.flush()
    assert [r.cls for r in box.pending(9, 0.0)] == ["evt", "gap", "tlm"]
    box.stop()


def test_at_the_cap_the_oldest_telemetry_makes_room_and_a_gap_row_says_which(tmp_path):
    box = make(tmp_path, max_bytes=1 << 18)
    for i in range(1000):
        box.append("tlm", {"i": i, "x": "y" * 500})
        if i % 20 == 0:
            box.flush()
    box.flush()
    rows = box.pending(10_000, 0.0)
    missing = set(range(1000)) - {r.seq for r in rows if r.cls == "tlm"}
    told = set()
    for gap in (r.payload for r in rows if r.cls == "gap"):
        told |= set(range(gap["from"], gap["to"] + 1))
    assert missing == told
    assert missing
    assert box.counters["evicted"] == len(missing)
    box.stop()


def test_memory_is_bounded_and_what_it_drops_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_QUEUED", 10)
    box = make(tmp_path)
    accepted = [box.append("tlm", {}) for _ in range(15)]
    assert accepted.count(False) == 5
    box.flush()
    assert [r.payload for r in box.recent(99) if r.cls == "gap"] == [{"reason": "queue_full", "rows": 5}]
    box.stop()


def test_a_disk_that_cannot_take_rows_keeps_them_queued(tmp_path):
    box = make(tmp_path)
    box.append("tlm", {"kept": True})
    real = box._db

    class Broken:
        def __enter__(self):
            raise sqlite3.OperationalError("disk I/O error")

        def __exit__(self, *_):
            return False

    box._db = Broken()
    box.flush()
    assert box.counters["write_errors"] == 1
    box._db = real
    box.flush()
    assert [r.payload for r in box.recent(9)] == [{"kept": True}]
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


def test_an_unusable_folder_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="state_dir must be writable"):
        make(tmp_path / "file")


def test_another_process_can_read_the_newest_rows(tmp_path):
    box = make(tmp_path)
    for i in range(5):
        box.append("tlm", {"i": i})
    box.flush()
    assert [r.payload["i"] for r in recent_rows(tmp_path / "outbox.db", 2)] == [3, 4]
    box.stop()
    with pytest.raises(StorageError, match="no outbox yet"):
        recent_rows(tmp_path / "none.db", 2)


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


def test_a_buried_row_leaves_its_number_behind(tmp_path):
    box = make(tmp_path)
    box.append("tlm", {})
    box.flush()
    box.bury(box.recent(1)[0], "too large", 99)
    assert box.depth() == 0
    assert box._db.execute("SELECT seq, reason FROM dead").fetchall() == [(0, "too large")]
    box.stop()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.sampled_from(["append", "flush", "send", "ack", "reopen", "forget"]), max_size=40))
def test_whatever_happens_no_committed_row_is_lost_before_its_acknowledgement(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("box")
    box = make(folder)
    committed, acknowledged, queued = 0, set(), 0
    for number, step in enumerate(steps):
        if step == "append":
            queued += box.append("tlm", {"n": number})
        elif step == "flush":
            box.flush()
            committed, queued = committed + queued, 0
        elif step == "send":
            box.mark_sent(box.pending(3, -1.0), float(number))
        elif step == "ack" and committed:
            box.acknowledge(1, "tlm", None, [(number % committed, number % committed)])
            acknowledged.add(number % committed)
        elif step == "forget":
            box.forget_sent()
        elif step == "reopen":
            box.stop()
            committed, queued = committed + queued, 0
            box = make(folder)
    box.flush()
    committed += queued
    assert [r.seq for r in box.pending(999, 1e9)] == sorted(set(range(committed)) - acknowledged)
    box.stop()


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
    numbers = [r.payload["i"] for r in box.pending(100_000, 0.0)]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) > last
    box.stop()
