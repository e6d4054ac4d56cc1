"""The count of starts, which is part of every telemetry row's key."""

from __future__ import annotations

import os

import pytest

from agent.errors import StorageError
from agent.storage import state_file
from agent.storage.boot import Boot


def test_starts_are_counted_from_one(tmp_path):
    assert [Boot(tmp_path / "state").number for _ in range(3)] == [1, 2, 3]
    assert state_file.read_json(tmp_path / "state" / "boot.json") == {"version": 1, "boot": 3}


def test_a_board_whose_state_was_lost_never_uses_the_numbers_of_its_first_life_again(tmp_path):
    first = [Boot(tmp_path / "card", 1_780_000_000).number for _ in range(2)]
    again = [Boot(tmp_path / "new card", 1_790_000_000).number for _ in range(2)]
    assert first == [1_780_000_001, 1_780_000_002]
    assert again == [1_790_000_001, 1_790_000_002]


def test_a_lost_count_goes_on_above_every_number_that_unsent_rows_may_carry(tmp_path):
    (tmp_path / "outbox.db").write_bytes(b"rows")
    os.utime(tmp_path / "outbox.db", (1_790_000_000, 1_790_000_000))
    assert [Boot(tmp_path).number for _ in range(2)] == [1_790_000_001, 1_790_000_002]


def test_a_damaged_count_goes_on_above_too(tmp_path):
    (tmp_path / "boot.json").write_text("{")
    os.utime(tmp_path / "boot.json", (1_790_000_000, 1_790_000_000))
    assert Boot(tmp_path).number == 1_790_000_001


def test_a_folder_that_cannot_be_written_is_one_line_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file: File exists; state_dir must be writable: set it in the settings"):
        state_file.write_json(tmp_path / "file" / "x.json", {})
    with pytest.raises(StorageError, match="Not a directory; check the owner and mode of state_dir"):
        Boot(tmp_path / "file")


def test_a_write_that_fails_leaves_the_old_document(tmp_path):
    path = tmp_path / "x.json"
    state_file.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        state_file.write_json(path, {"new": {1}})
    assert state_file.read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
