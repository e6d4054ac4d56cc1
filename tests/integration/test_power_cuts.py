"""Power cuts at any moment: what was told to be kept is there at the next start."""

from __future__ import annotations

import os
import random
import shutil

import pytest

from tests.integration import power_cuts
from tests.integration.disk_trace import Disk, Event, cut

CUTS = 60


def recorded(tmp_path, careless: bool) -> list[Event]:
    if shutil.which("strace") is None:
        if os.environ.get("CI"):
            pytest.fail("strace is not installed, and CI must have it")
        pytest.skip("strace is not installed: apt-get install strace")
    try:
        return power_cuts.recorded(tmp_path, 1, careless)
    except AssertionError as error:
        if "PTRACE" not in str(error):
            raise
        pytest.skip("this machine lets nobody trace")


def test_no_row_and_no_command_that_was_told_to_be_kept_is_lost(tmp_path):
    events = recorded(tmp_path, False)
    assert power_cuts.cuts(events, CUTS, 1, tmp_path)["faults"] == 0


def test_the_same_without_syncs_loses_rows(tmp_path):
    events = recorded(tmp_path, True)
    assert power_cuts.cuts(events, 10, 1, tmp_path)["faults"] > 0


def test_the_end_of_the_work_left_gap_rows_and_commands_to_check(tmp_path):
    events = recorded(tmp_path, False)
    files, said = cut(events, random.Random(1))
    assert sum('"command"' in line for line in said) > power_cuts.ROUNDS
    place = tmp_path / "all"
    place.mkdir()
    for path, data in files.items():
        (place / path.rpartition("/")[2]).write_bytes(data)
    outbox = power_cuts.Outbox(place / "outbox.db", 2, power_cuts.MIN_BYTES, 60.0, power_cuts.SystemClock())
    assert outbox.rows_after("gap", None, 10)
    outbox.stop()


def test_of_what_was_not_synced_sectors_come_and_go_one_by_one():
    disk = Disk(pending=[Event("write", "f", 0, b"a" * 1024)])
    assert disk.after_cut(lambda: False) is None
    disk.sync()
    disk.pending.append(Event("write", "f", 256, b"b" * 512))
    answers = iter([False, True])
    assert disk.after_cut(lambda: next(answers)) == b"a" * 512 + b"b" * 256 + b"a" * 256
    disk.pending.append(Event("truncate", "f", 100))
    assert disk.after_cut(lambda: True) == b"a" * 100
