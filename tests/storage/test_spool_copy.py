"""The newest rows of a file that another process writes: read from a copy, whatever is written meanwhile."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import sys
import textwrap

import pytest

from agent.errors import StorageError
from agent.storage import spool_file
from agent.storage.spool_file import copied, recent_rows
from tests.storage.spools import make, noise


def rows_of(copy) -> list[int]:
    with contextlib.closing(sqlite3.connect(copy)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [seq for (seq,) in db.execute("SELECT seq FROM rows WHERE cls = 'evt' ORDER BY seq")]


def add(box, count: int) -> None:
    for _ in range(count):
        box.append("evt", {"x": noise(400, 1)})
        box.flush()


def checkpoint(box) -> None:
    box._spool._db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()


def during(first, then):
    """A copy after whose first file something happens."""
    calls = []

    def copy(source, target):
        shutil.copyfile(source, target)
        calls.append(source.name)
        if len(calls) == 1:
            first()
        else:
            then()

    return copy


def test_what_is_committed_while_it_is_copied_is_there_or_not_and_nothing_is_torn(tmp_path):
    box = make(tmp_path)
    add(box, 20)
    copy = copied(tmp_path / "outbox.db", made(tmp_path), during(lambda: add(box, 5), lambda: None))
    assert rows_of(copy) == list(range(25))
    box.stop()


def test_a_checkpoint_between_the_two_files_loses_nothing(tmp_path):
    box = make(tmp_path)
    add(box, 20)

    def happens():
        checkpoint(box)
        add(box, 1)

    copy = copied(tmp_path / "outbox.db", made(tmp_path), during(happens, lambda: None))
    assert rows_of(copy) == list(range(21))
    box.stop()


def test_a_file_copied_half_before_and_half_after_a_checkpoint_is_made_good_by_the_log(tmp_path):
    box = make(tmp_path)
    add(box, 20)
    path = tmp_path / "outbox.db"

    def torn(source, target):
        old = source.read_bytes()
        if source == path:
            checkpoint(box)
            new = source.read_bytes()
            assert old != new
            half = len(new) // 2048 * 1024
            old = old[:half] + new[half:]
        target.write_bytes(old)

    assert rows_of(copied(path, made(tmp_path), torn)) == list(range(20))
    box.stop()


def test_a_file_that_never_holds_still_is_said_to_be_so(tmp_path):
    box = make(tmp_path)
    add(box, 3)

    def restless(source, target):
        shutil.copyfile(source, target)
        checkpoint(box)
        add(box, 1)

    with pytest.raises(BlockingIOError, match="too fast"):
        copied(tmp_path / "outbox.db", made(tmp_path), restless)
    box.stop()


def test_a_folder_without_room_for_a_copy_is_one_clear_error(tmp_path, monkeypatch):
    box = make(tmp_path)

    def full(source, folder):
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr(spool_file, "copied", full)
    with pytest.raises(StorageError, match="No space left on device"):
        recent_rows(tmp_path / "outbox.db", 3)
    box.stop()


def test_the_newest_rows_of_a_running_writer_and_of_one_that_was_killed(tmp_path):
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
    path = tmp_path / "outbox.db"
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True) as process:
        seen = []
        for line in process.stdout:
            if int(line) % 20 == 0:
                numbers = [r.payload["i"] for r in recent_rows(path, 1 << 20)]
                assert numbers == list(range(len(numbers)))
                assert len(numbers) > int(line)
                seen.append(len(numbers))
            if len(seen) == 5:
                process.kill()
                break
    assert len(recent_rows(path, 1 << 20)) >= seen[-1]
    box = make(tmp_path)
    assert box.depth() >= seen[-1]
    box.stop()


def made(folder):
    place = folder / "copy"
    place.mkdir()
    return place
