"""The spool in trouble: full disks, damaged files, kills – nothing committed is lost."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import textwrap

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import StorageError
from tests.storage.spools import FullDisk, make, waiting


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


def test_a_file_that_cannot_be_read_is_said_and_not_raised(tmp_path):
    box = make(tmp_path)
    box.append("tlm", {})
    box.flush()
    box._spool._db.close()
    box._spool._db = sqlite3.connect(":memory:", check_same_thread=False)
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


def test_a_dead_writer_shows(tmp_path):
    box = make(tmp_path)
    box._commit_rows = None
    box.start()
    assert box.alive()
    box.append("evt", {})
    box._thread.join(60)
    assert not box.alive()


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
