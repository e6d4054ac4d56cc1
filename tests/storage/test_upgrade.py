"""A file of the layout before is taken over whole, whenever the upgrade is cut off."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys

import pytest

from agent.errors import StorageError
from agent.storage import spool_file
from agent.storage.outbox import recent_rows
from tests.storage.spools import make, waiting

OLD = """
CREATE TABLE rows (
    id INTEGER PRIMARY KEY, cls TEXT NOT NULL, boot INTEGER NOT NULL, seq INTEGER NOT NULL, payload TEXT,
    UNIQUE (cls, boot, seq)
);
PRAGMA user_version = 2;
INSERT INTO rows (cls, boot, seq, payload) VALUES ('tlm', 1, 0, '{"old": 0}'), ('tlm', 1, 1, '{"old": 1}');
"""
ROWS = [{"old": 0}, {"old": 1}]
KILLED = """
import os, signal, sqlite3, sys
from pathlib import Path
from agent.storage import spool_file

class Killed(sqlite3.Connection):
    def execute(self, statement, *arguments):
        if statement.startswith(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().execute(statement, *arguments)

    def executescript(self, script):
        os.kill(os.getpid(), signal.SIGKILL)

connect = sqlite3.connect
spool_file.sqlite3.connect = lambda *given, **named: connect(*given, factory=Killed, **named)
spool_file.open_spool(Path(sys.argv[1]), 2, 1 << 22)
"""


def old_file(folder, more=""):
    path = folder / "outbox.db"
    with contextlib.closing(sqlite3.connect(path)) as old, old:
        old.executescript(OLD + more)
    return path


def test_it_is_taken_over_and_goes_on(tmp_path):
    old_file(tmp_path)
    box = make(tmp_path, 2)
    assert box.recovered is None
    box.append("tlm", {"new": 1})
    box.flush()
    assert [r.payload for r in waiting(box)] == [*ROWS, {"new": 1}]
    box.stop()


@pytest.mark.parametrize("statement", ["CREATE TABLE IF NOT EXISTS rows", "PRAGMA user_version ="])
def test_a_kill_within_the_upgrade_loses_no_row(tmp_path, statement):
    path = old_file(tmp_path)
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path), statement], check=False, timeout=60)
    assert ended.returncode == -9
    assert [r.payload for r in recent_rows(path, 9)] == ROWS
    box = make(tmp_path, 3)
    assert box.recovered is None
    assert [r.payload for r in waiting(box)] == ROWS
    box.stop()


def test_an_upgrade_of_which_only_the_column_is_there_is_ended(tmp_path):
    old_file(tmp_path, "ALTER TABLE rows ADD COLUMN base INTEGER;")
    box = make(tmp_path, 2)
    assert (box.recovered, [r.payload for r in waiting(box)]) == (None, ROWS)
    box.stop()


def test_what_is_not_taken_over_yet_can_be_read(tmp_path):
    assert [r.payload for r in recent_rows(old_file(tmp_path), 9)] == ROWS


def test_a_file_that_another_process_holds_is_not_moved_aside(tmp_path, monkeypatch):
    def held(db):
        raise sqlite3.OperationalError("database is locked")

    path = old_file(tmp_path)
    monkeypatch.setattr(spool_file, "_lay_out", held)
    with pytest.raises(StorageError, match="another process writes to it"):
        make(tmp_path, 2)
    assert [file.name for file in tmp_path.glob("outbox*") if "-" not in file.name] == [path.name]


def test_a_file_of_another_layout_moved_back_is_delivered(tmp_path):
    """What the documents say of going back to an older version."""
    box = make(tmp_path, 1)
    box.append("tlm", {"kept": 1})
    box.flush()
    box.stop()
    path = tmp_path / "outbox.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 9")
    box = make(tmp_path, 2)
    assert (waiting(box), "moved to outbox.damaged-2" in box.recovered) == ([], True)
    box.stop()
    with contextlib.closing(sqlite3.connect(tmp_path / "outbox.damaged-2")) as db:
        db.execute(f"PRAGMA user_version = {spool_file.LAYOUT}")
    (tmp_path / "outbox.damaged-2").replace(path)
    box = make(tmp_path, 3)
    assert [r.payload for r in waiting(box)] == [{"kept": 1}]
    box.stop()
