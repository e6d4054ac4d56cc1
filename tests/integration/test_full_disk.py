"""A state folder on a disk that is full: answers go on, the condition says what to do, and nothing stays broken."""

from __future__ import annotations

import os
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from agent.cli.infer import random_inputs
from agent.errors import StorageError
from agent.storage import state_file
from agent.storage.boot import Boot
from agent.storage.command_table import CommandRow, CommandTable
from agent.storage.outbox import Outbox
from agent.storage.state_file import StorageFull
from tests.fakes import FakeClock
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
            for _ in range(DISK_KB + 1):
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


def test_a_start_that_cannot_be_counted_keeps_its_number_to_itself_until_it_is(small_disk):
    filler = fill(small_disk)
    first, second = Boot(small_disk), Boot(small_disk)
    assert (first.number, second.number) == (1, 1)
    with pytest.raises(StorageFull, match=r"boot\.json: No space left on device; make room there"):
        first.keep()
    box = Outbox(small_disk / "outbox.db", first.number, 1 << 20, 1.0, FakeClock(), first.keep)
    assert box.append("evt", {"event": "early"})
    box.flush()
    assert (box.opened, box.depth(), box.rows_after("gap", None, 9)) == (False, 0, [])
    assert "boot.json" in box.failing

    filler.unlink()
    box.flush()
    assert (box.opened, box.failing) == (True, None)
    assert [(r.boot, r.seq, r.payload) for r in box.rows_after("evt", None, 9)] == [(1, 0, {"event": "early"})]
    box.stop()
    assert Boot(small_disk).number == 2


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("left_kb", [0, 4, 8, 16, 28])
def test_rows_and_commands_that_are_kept_survive_a_disk_with_little_room(small_disk, left_kb, killed):
    child = os.fork()
    if child == 0:
        box = Outbox(small_disk / "outbox.db", 1, 1 << 19, 1.0, FakeClock())
        table = CommandTable(small_disk / "commands.db", 1e9)
        table.add(CommandRow("c1", "d", "plan", {}, None, 2e9, "accepted"), 1e9)
        for i in range(300):
            box.append("evt", {"event": "x" * 200, "i": i})
        box.flush()
        if not killed:
            table.close()
            box.stop()
        os._exit(0)
    os.waitpid(child, 0)
    filler = fill(small_disk)
    os.truncate(filler, max(0, filler.stat().st_size - left_kb * 1024))

    box = Outbox(small_disk / "outbox.db", 2, 1 << 19, 1.0, FakeClock())
    for _ in range(3):
        box.flush()
        with suppress(StorageFull):
            CommandTable(small_disk / "commands.db", 1e9).close()
    filler.unlink()
    box.flush()
    table = CommandTable(small_disk / "commands.db", 1e9)
    assert (box.recovered, box.depth(), table.recovered, [r.id for r in table.waiting()]) == (None, 300, None, ["c1"])
    table.close()
    box.stop()


def outbox_condition(agent) -> dict | None:
    """The condition while it stands."""
    return next((c for c in agent.status()["conditions"] if c["type"] == "outbox_failing"), None)


def test_an_agent_that_starts_on_a_full_disk_answers_says_what_is_not_kept_and_goes_on_once_there_is_room(small_disk):
    filler = fill(small_disk)
    with socket.create_server(("127.0.0.1", 0)) as broker:
        broker.setblocking(False)
        mqtt = {"host": "127.0.0.1", "port": broker.getsockname()[1]}
        with running(small_disk.parent, models=models(MAGIKA), mqtt=mqtt) as agent:
            told = agent.wait_until(lambda: outbox_condition(agent))
            assert "boot.json: No space left on device" in told["cause"]
            assert "no telemetry, no commands and no bundles until there is room" in told["consequence"]
            with agent.client() as client:
                inputs = random_inputs(client.get("/v2/models/magika"))
                assert client.infer("magika", inputs).outputs["target_label"].size
            with pytest.raises(BlockingIOError):
                broker.accept()

            filler.unlink()
            agent.wait_until(lambda: outbox_condition(agent) is None)
            assert state_file.read_json(small_disk / "boot.json")["boot"] > 1_700_000_000
            agent.wait_until(lambda: (small_disk / "commands.db").exists())
            agent.wait_until(lambda: connected(broker))


def connected(broker: socket.socket) -> bool:
    """Whether somebody asked for a connection."""
    try:
        connection, _ = broker.accept()
    except BlockingIOError:
        return False
    connection.close()
    return True
