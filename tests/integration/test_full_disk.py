"""A state folder on a disk that is full: answers go on, the condition says what to do, and nothing stays broken."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from agent.cli.infer import random_inputs
from agent.errors import StorageError
from agent.storage import state_file
from tests.integration.agent_process import MAGIKA, models, running

DISK_KB = 1024


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a megabyte."""
    folder = tmp_path / "state"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root mounts file systems")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_KB}k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as stream:
        try:
            for _ in range(DISK_KB):
                stream.write(bytes(1024))
        except OSError:
            return filler
    raise AssertionError(f"{folder} takes everything")


def test_a_document_that_finds_no_room_says_so_keeps_the_old_one_and_leaves_nothing(small_disk):
    path = small_disk / "x.json"
    state_file.write_json(path, {"old": 1})
    (small_disk / "filler").write_bytes(bytes((DISK_KB - 100) * 1024))

    with pytest.raises(StorageError, match=r"No space left on device; make room there, or set another state_dir"):
        state_file.write_json(path, {"new": "x" * 200 * 1024})

    assert state_file.read_json(path) == {"old": 1}
    assert sorted(p.name for p in small_disk.iterdir()) == ["filler", "x.json"]


def test_a_full_disk_is_a_condition_answers_go_on_and_telemetry_comes_back_with_the_room(small_disk):
    with running(small_disk.parent, models=models(MAGIKA)) as agent:
        client = agent.client()
        inputs = random_inputs(client.get("/v2/models/magika"))
        before = client.infer("magika", inputs).outputs["target_label"]
        filler = fill(small_disk)

        def failing() -> dict | None:
            """The condition while it stands."""
            return next((c for c in agent.status()["conditions"] if c["type"] == "outbox_failing"), None)

        told = agent.wait_until(failing)
        assert "full" in told["cause"]
        assert "state_dir" in told["mend"]
        assert "memory" in told["consequence"]
        for _ in range(20):
            np.testing.assert_allclose(client.infer("magika", inputs).outputs["target_label"], before, atol=1e-3)
        filler.unlink()
        agent.wait_until(lambda: failing() is None)
        client.close()
