"""A real mosquitto on a free loopback port, for as long as a test needs it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.ports import free_port

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
PATIENCE_S = 30.0


def program() -> str:
    found = shutil.which("mosquitto", path=PATH)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("mosquitto is not installed, and CI must have it")
        pytest.skip("mosquitto is not installed: apt-get install mosquitto")
    return found


class Broker:
    """Persistent, so that a restart keeps sessions and retained messages."""

    def __init__(self, folder: Path, options: str = "", anonymous: bool = True) -> None:
        """`options` are further lines of the configuration; they belong to the listener."""
        self.folder = folder
        self.port = free_port()
        self.config = folder / "mosquitto.conf"
        self.config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous {str(anonymous).lower()}\n{options}\npersistence true\n"
            f"persistence_location {folder}/\nautosave_interval 1\nmax_packet_size 65536\nuser root\n"
        )
        self.process: subprocess.Popen | None = None
        self.start()

    def start(self) -> None:
        log = (self.folder / "mosquitto.log").open("ab")
        self.process = subprocess.Popen([program(), "-c", str(self.config)], stdout=log, stderr=log)
        log.close()
        end_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < end_s and self.process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError((self.folder / "mosquitto.log").read_text())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE_S)
