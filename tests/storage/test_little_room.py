"""Databases on a disk with little room: they wait for it where they are, and what is aside is never replaced."""

from __future__ import annotations

import sqlite3

import pytest

from agent.errors import StorageError
from agent.storage import aside, command_table, spool_file, state_file
from agent.storage.command_table import CommandRow, CommandTable
from agent.storage.state_file import StorageFailing, StorageFull
from tests.storage.spools import make, waiting

NOW_S = 1_790_000_000.0
ROW = CommandRow("c1", "d", "plan", {}, None, NOW_S + 60, "accepted")


class Disk:
    """SQLite fails as on a disk that is nearly full, or is not; `mend` ends it."""

    def __init__(self, patch) -> None:
        self.patch = patch

    def fails(self, module, name, cause, full) -> None:
        def failing(*_):
            raise sqlite3.OperationalError(cause)

        self.patch.setattr(module, name, failing)
        for user in (state_file, aside):
            self.patch.setattr(user, "nearly_full", lambda _: full)

    def mend(self) -> None:
        self.patch.undo()


@pytest.fixture
def disk():
    with pytest.MonkeyPatch.context() as patch:
        yield Disk(patch)


def names(folder, stem) -> list[str]:
    """Databases there, without their logs."""
    return sorted(p.name for p in folder.glob(f"{stem}.*") if not p.name.endswith(("-wal", "-shm")))


@pytest.mark.parametrize(
    ("cause", "full", "words"),
    [
        ("disk I/O error", True, "make room there"),
        ("unable to open database file", True, "make room there"),
        ("database disk image is malformed", True, "make room there"),
        ("disk I/O error", False, "replace the medium"),
    ],
)
def test_an_outbox_that_cannot_be_opened_for_now_stays_where_it_is_and_is_opened_later(
    tmp_path, disk, cause, full, words
):
    box = make(tmp_path)
    for i in range(300):
        box.append("evt", {"i": i})
    box.stop()

    disk.fails(spool_file, "_lay_out", cause, full)
    box = make(tmp_path, boot=2)
    box.flush()
    assert (box.opened, names(tmp_path, "outbox")) == (False, ["outbox.db"])
    assert cause in box.failing
    assert words in box.failing

    disk.mend()
    box.flush()
    assert (box.opened, box.failing, box.recovered, len(waiting(box, "evt"))) == (True, None, None, 300)
    box.stop()


@pytest.mark.parametrize(("full", "kind"), [(True, StorageFull), (False, StorageFailing)])
def test_a_command_table_that_cannot_be_opened_for_now_forgets_nothing(tmp_path, disk, full, kind):
    path = tmp_path / "commands.db"
    table = CommandTable(path, NOW_S)
    table.add(ROW, NOW_S)
    table.close()

    disk.fails(command_table, "_prepare", "disk I/O error", full)
    with pytest.raises(StorageError) as refused:
        CommandTable(path, NOW_S)
    assert (refused.type, names(tmp_path, "commands")) == (kind, ["commands.db"])

    disk.mend()
    table = CommandTable(path, NOW_S)
    assert (table.recovered, table.get("c1").id) == (None, "c1")
    table.close()


def test_what_was_put_aside_before_is_never_replaced(tmp_path):
    for n in range(3):
        (tmp_path / "outbox.db").write_bytes(b"no database %d" % n * 100)
        box = make(tmp_path)
        box.stop()
        (tmp_path / "commands.db").write_bytes(b"no database %d" % n * 100)
        CommandTable(tmp_path / "commands.db", NOW_S).close()
    for kept in ("outbox.damaged-1", "commands.damaged"):
        found = [(tmp_path / f"{kept}{more}").read_bytes()[:13] for more in ("", "-2", "-3")]
        assert found == [b"no database 0", b"no database 1", b"no database 2"]


def test_a_medium_that_damages_every_file_does_not_fill_up_with_them(tmp_path, monkeypatch):
    monkeypatch.setattr(aside, "MOST", 2)
    for _ in range(2):
        (tmp_path / "commands.db").write_bytes(b"no database" * 100)
        CommandTable(tmp_path / "commands.db", NOW_S).close()
    (tmp_path / "commands.db").write_bytes(b"no database" * 100)
    with pytest.raises(StorageError, match=r"2 files like commands\.damaged are here already: remove them"):
        CommandTable(tmp_path / "commands.db", NOW_S)


def test_an_outbox_moved_aside_is_told_also_where_the_new_one_opens_later(tmp_path, disk):
    (tmp_path / "outbox.db").write_bytes(b"no database" * 100)
    disk.fails(spool_file, "_anew", "", False)
    disk.patch.setattr(spool_file, "_anew", no_room)
    box = make(tmp_path)
    assert not box.opened
    disk.mend()
    box.flush()
    assert box.opened
    assert "moved to outbox.damaged-1" in box.recovered
    box.stop()


def no_room(path, *_):
    raise StorageFull(f"{path}: database or disk is full")


def test_commands_from_before_are_refused_also_where_the_table_after_a_damaged_one_is_made_later(tmp_path, disk):
    path = tmp_path / "commands.db"
    path.write_bytes(b"no database" * 100)
    disk.fails(command_table, "_lay_out", "database or disk is full", False)
    with pytest.raises(StorageFull):
        CommandTable(path, NOW_S)
    disk.mend()

    table = CommandTable(path, NOW_S + 5)
    assert "is in commands.damaged" in table.recovered
    assert table.refuses(NOW_S, NOW_S + 600)
    table.close()
    assert CommandTable(path, NOW_S + 9).recovered is None


def test_a_file_that_cannot_be_moved_keeps_its_log(tmp_path):
    (tmp_path / "x.db").write_bytes(b"file")
    (tmp_path / "x.db-wal").write_bytes(b"log")
    (tmp_path / "x.damaged").mkdir()
    (tmp_path / "x.damaged" / "y").touch()
    with pytest.raises(OSError, match="directory"):
        aside.put_aside(tmp_path / "x.db", tmp_path / "x.damaged")
    assert (tmp_path / "x.db-wal").read_bytes() == b"log"


def test_a_disk_is_nearly_full_below_a_megabyte_and_where_no_file_can_be_made(tmp_path, monkeypatch):
    def statvfs(free, inodes):
        found = type("Found", (), {"f_bavail": free, "f_frsize": 1024, "f_files": 100, "f_favail": inodes})
        monkeypatch.setattr(state_file.os, "statvfs", lambda _: found)
        return state_file.nearly_full(tmp_path)

    assert (statvfs(1000, 9), statvfs(2000, 9), statvfs(2000, 0)) == (True, False, True)
    monkeypatch.undo()
    assert not state_file.nearly_full(tmp_path / "nowhere")
