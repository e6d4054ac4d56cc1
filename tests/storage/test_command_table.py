"""The command table: nothing that was taken on is forgotten while it could come again."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest

from agent.errors import StorageError
from agent.storage import command_table
from agent.storage.command_table import CommandRow, CommandTable

NOW_S = 1_790_000_000.0


def row(command_id="c1", **fields) -> CommandRow:
    return replace(CommandRow(command_id, "d", "plan", {"a": 1}, "ops", NOW_S + 60, "accepted"), **fields)


@pytest.fixture
def table(tmp_path):
    made = CommandTable(tmp_path / "commands.db", NOW_S)
    yield made
    made.close()


def test_a_command_goes_through_its_life_and_survives_a_reopen(table, tmp_path):
    table.add(row(response_topic="t", correlation=b"\0x"), NOW_S)
    assert [r.id for r in table.waiting()] == ["c1"]
    table.begin("c1", NOW_S + 1)
    assert table.waiting() == []
    assert [(r.id, r.attempts) for r in table.running()] == [("c1", 1)]
    table.finish("c1", "ok", None, None, {"x": 1}, NOW_S + 2)
    again = CommandTable(tmp_path / "commands.db", NOW_S)
    kept = again.get("c1")
    assert kept == row(
        state="ok", out={"x": 1}, attempts=1, response_topic="t", correlation=b"\0x", changed_s=NOW_S + 2
    )
    assert [r.id for r in again.untold()] == ["c1"]
    again.told("c1")
    assert again.untold() == []
    again.close()


def test_commands_wait_in_the_order_in_which_they_came(table):
    for name in ("b", "a", "c"):
        table.add(row(name), NOW_S)
    assert [r.id for r in table.waiting()] == ["b", "a", "c"]
    table.begin("b", NOW_S)
    table.wait_again("b", NOW_S)
    assert [r.id for r in table.waiting()] == ["b", "a", "c"]
    assert [r.id for r in table.recent(2)] == ["a", "c"]


def test_an_id_is_kept_once(table):
    table.add(row(), NOW_S)
    with pytest.raises(StorageError):
        table.add(row(), NOW_S)


def test_a_result_too_large_for_the_table_says_so(table):
    table.add(row(), NOW_S)
    table.finish("c1", "ok", None, None, {"x": "y" * 20_000}, NOW_S)
    assert table.get("c1").out["left_out_bytes"] > 20_000


def test_what_was_forgotten_is_refused_whatever_the_clock_says_then(table):
    table.add(row("old"), NOW_S)
    table.finish("old", "ok", None, None, None, NOW_S)
    table.told("old")
    assert not table.refuses(NOW_S, NOW_S + 60)
    later_s = NOW_S + 60 + command_table.KEEP_S + 1
    table.add(row("new", exp=later_s + 60), later_s)
    assert table.get("old") is None
    assert table.refuses(NOW_S, NOW_S + 60)
    assert not table.refuses(NOW_S, NOW_S + 61)


def test_what_has_not_ended_or_was_not_told_is_never_forgotten(table):
    table.add(row("waiting"), NOW_S)
    table.add(row("untold"), NOW_S)
    table.finish("untold", "ok", None, None, None, NOW_S)
    later_s = NOW_S + command_table.KEEP_S + 1000
    table.add(row("new", exp=later_s + 60), later_s)
    assert table.get("waiting") is not None
    assert table.get("untold") is not None


def test_the_table_is_bounded_and_what_expires_first_goes_first(table, monkeypatch):
    monkeypatch.setattr(command_table, "MAX_ROWS", 10)
    for i in range(30):
        table.add(row(f"c{i}", exp=NOW_S + 100 + i), NOW_S)
        table.finish(f"c{i}", "ok", None, None, None, NOW_S)
        table.told(f"c{i}")
    assert [r.id for r in table.recent(100)] == [f"c{i}" for i in range(20, 30)]
    for i in range(20):
        assert table.refuses(NOW_S, NOW_S + 100 + i)
    assert not table.refuses(NOW_S, NOW_S + 120)


def test_a_damaged_table_is_moved_aside_and_what_was_issued_before_is_refused(tmp_path):
    path = tmp_path / "commands.db"
    path.write_bytes(b"no database at all" * 100)
    table = CommandTable(path, NOW_S)
    assert "moved to commands.damaged" in table.recovered
    assert table.refuses(NOW_S - 1, NOW_S + 600)
    assert not table.refuses(NOW_S + 1, NOW_S + 600)
    table.close()
    assert CommandTable(path, NOW_S + 5).recovered is None


def test_a_layout_of_the_future_is_not_guessed_at(tmp_path):
    path = tmp_path / "commands.db"
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    table = CommandTable(path, NOW_S)
    assert "layout 99" in table.recovered
    table.close()


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="state_dir must be writable"):
        CommandTable(tmp_path / "file" / "commands.db", NOW_S)


def test_a_closed_table_answers_with_our_error(tmp_path):
    table = CommandTable(tmp_path / "c.db", NOW_S)
    table.close()
    with pytest.raises(StorageError):
        table.waiting()


def test_rows_written_before_a_kill_are_there_after_it(tmp_path):
    script = """
        import os, signal, sys
        from pathlib import Path
        from agent.storage.command_table import CommandRow, CommandTable
        table = CommandTable(Path(sys.argv[1]), 1.0)
        for i in range(5):
            table.add(CommandRow(f"c{i}", "d", "plan", {}, None, 2.0, "accepted"), 1.0)
        table.begin("c0", 1.0)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    path = tmp_path / "c.db"
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(path)], check=False)
    table = CommandTable(path, NOW_S)
    assert [r.id for r in table.waiting()] == ["c1", "c2", "c3", "c4"]
    assert [r.id for r in table.running()] == ["c0"]
    table.close()
