"""A state folder belongs to one agent at a time, and to nobody once that has ended."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from agent.errors import ConfigError, StorageError
from agent.storage.claim import Claim


def test_a_second_agent_is_refused_with_the_first_ones_process(tmp_path):
    first = Claim(tmp_path)
    with pytest.raises(ConfigError, match=rf"another agent uses this state_dir \(process {os.getpid()}\)"):
        Claim(tmp_path)
    first.release()
    first.release()
    Claim(tmp_path).release()


def test_a_killed_agent_leaves_its_folder_to_the_next(tmp_path):
    program = (
        "import os, pathlib, sys; from agent.storage.claim import Claim; "
        "held = Claim(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == -9
    Claim(tmp_path).release()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="state_dir must be writable"):
        Claim(tmp_path / "file" / "state")


@pytest.mark.parametrize(("number", "held"), [(errno.ENOSPC, True), (errno.EIO, False)])
def test_a_folder_is_held_on_a_full_disk_too_and_on_no_broken_one(tmp_path, monkeypatch, number, held):
    def failing(*_):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", failing)
        if not held:
            with pytest.raises(StorageError, match=rf"{tmp_path}.*Input/output error"):
                Claim(tmp_path)
            return
        claim = Claim(tmp_path)
    with pytest.raises(ConfigError, match="another agent uses this state_dir"):
        Claim(tmp_path)
    claim.release()
    Claim(tmp_path).release()
