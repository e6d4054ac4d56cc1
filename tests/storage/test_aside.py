"""What is put aside can be repaired: file and write-ahead log stay together, and neither gets into the new file."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3

from agent.storage.command_table import CommandTable
from tests.storage.spools import make


def cut_off(source, target, schema: str) -> None:
    """A database as a kill leaves it – rows in the write-ahead log alone – whose first page is damaged as well."""
    with contextlib.closing(sqlite3.connect(source)) as db:
        db.executescript(f"PRAGMA journal_mode = WAL; {schema}; PRAGMA wal_checkpoint(TRUNCATE)")
        db.executescript("INSERT INTO precious VALUES ('late')")
        db.commit()
        content = bytearray(source.read_bytes())
        shutil.copy(f"{source}-wal", f"{target}-wal")
    content[:16] = b"no SQLite at all"
    target.write_bytes(content)


def repaired(aside, folder) -> list:
    """What somebody who mends the first page finds."""
    mended = folder / "mended.db"
    content = bytearray(aside.read_bytes())
    content[:16] = b"SQLite format 3\0"
    mended.write_bytes(content)
    shutil.copy(f"{aside}-wal", f"{mended}-wal")
    with contextlib.closing(sqlite3.connect(mended)) as db:
        return db.execute("SELECT * FROM precious").fetchall()


def test_a_damaged_outbox_keeps_its_write_ahead_log_and_a_new_one_begins_empty(tmp_path):
    cut_off(tmp_path / "source.db", tmp_path / "outbox.db", "CREATE TABLE precious (x)")
    log = (tmp_path / "outbox.db-wal").read_bytes()
    box = make(tmp_path, boot=3)
    assert "moved to outbox.damaged-3" in box.recovered
    assert (tmp_path / "outbox.damaged-3-wal").read_bytes() == log
    assert box.depth() == 0
    box.append("evt", {"i": 1})
    box.flush()
    box.stop()
    assert repaired(tmp_path / "outbox.damaged-3", tmp_path) == [("late",)]


def test_a_damaged_command_table_keeps_its_write_ahead_log(tmp_path):
    cut_off(tmp_path / "source.db", tmp_path / "commands.db", "CREATE TABLE precious (x)")
    table = CommandTable(tmp_path / "commands.db", 1000.0)
    assert "moved to commands.damaged" in table.recovered
    table.close()
    assert repaired(tmp_path / "commands.damaged", tmp_path) == [("late",)]
