"""A real mosquitto on a free loopback port, for as long as a test needs it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


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
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
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
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError((self.folder / "mosquitto.log").read_text())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(5)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(5)
