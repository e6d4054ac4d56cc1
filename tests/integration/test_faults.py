"""Networks that vanish and disks that fill, for real where the machine lets us make them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent.service.clock import SystemClock
from agent.storage.outbox import Outbox
from tests.broker import program
from tests.storage.spools import noise

ROOT = Path(__file__).resolve().parents[2]


def needs(*tools: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may make network namespaces and mounts")
    missing = [tool for tool in tools if shutil.which(tool, path="/usr/sbin:/sbin:" + os.environ["PATH"]) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")


@pytest.fixture
def namespace():
    needs("ip")
    name = f"qeil-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode != 0:
        pytest.skip("network namespaces are not allowed here")
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


def partitioned(namespace: str, kind: str, seconds: float) -> dict:
    program()
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, sys.executable, "-m", "tests.integration.partition", kind, str(seconds)],
        capture_output=True, text=True, cwd=ROOT, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.broker
@pytest.mark.slow
def test_twenty_seconds_without_a_network_are_seen_and_lose_nothing(namespace):
    found = partitioned(namespace, "down", 20)
    assert found["stored"] == found["rows"] >= 100
    assert found["seen_s"] is not None


@pytest.mark.broker
@pytest.mark.slow
def test_a_network_that_loses_every_third_packet_loses_no_row(namespace):
    needs("nft")
    found = partitioned(namespace, "loss", 20)
    assert found["stored"] == found["rows"] >= 100


@pytest.fixture
def tiny_disk(tmp_path):
    needs("mount")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounts are not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_nobody_and_what_was_lost_is_told_afterwards(tiny_disk):
    box = Outbox(tiny_disk / "outbox.db", 1, 2 << 20, 0.05, SystemClock())
    box.start()
    box.append("tlm", {"n": -1})
    box.flush()
    filler = os.open(tiny_disk / "filler", os.O_WRONLY | os.O_CREAT)
    try:
        with contextlib.suppress(OSError):
            while True:
                os.write(filler, bytes(4096))
        filled(box, filler)
    finally:
        os.close(filler)
        box.stop()


def filled(box: Outbox, filler: int) -> None:
    count = 6000
    slowest_s = 0.0
    for n in range(count):
        begun_s = time.monotonic()
        box.append("tlm", {"n": n, "p": noise(500, n)})
        slowest_s = max(slowest_s, time.monotonic() - begun_s)
    end_s = time.monotonic() + 60
    while box.failing is None and time.monotonic() < end_s:
        time.sleep(0.05)
    assert "full" in box.failing
    os.ftruncate(filler, 0)
    box.flush()
    end_s = time.monotonic() + 60
    while box.failing is not None and time.monotonic() < end_s:
        time.sleep(0.1)
        box.flush()
    assert box.failing is None
    gaps = [row.payload for row in box.rows_after("gap", None, 1000)]
    kept = box.counters["committed"] - len(gaps) - box.counters["evicted"] - 1
    told = sum(gap["rows"] for gap in gaps if gap["reason"] == "queue_full")
    assert told + kept + box.counters["evicted"] == count
    assert told > 0
    assert slowest_s < 5.0  # never waited for the disk; the bound only forgives a busy machine
