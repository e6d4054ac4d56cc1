"""Databases for tests: SQLite in a folder, and a real PostgreSQL for as long as a test needs it."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from tests.ports import free_port

USER = "qeil_test"


def unordered(db: Connection) -> None:
    """Boards as layouts up to 3 had them."""
    for part in ("latest_boot", "latest_seq", "reported_boot", "reported_mono", "bundle_boot", "bundle_mono"):
        db.execute(text(f"ALTER TABLE qeil_boards DROP COLUMN {part}"))


def _tool(name: str) -> str | None:
    places = [os.environ.get("PATH", ""), *sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)]  # noqa: PTH207
    return shutil.which(name, path=":".join(places))


class Postgres:
    """A server of its own on a free loopback port, run by the user `postgres` where we are root."""

    def __init__(self, folder: Path) -> None:
        if _tool("initdb") is None:
            if os.environ.get("CI"):
                pytest.fail("PostgreSQL is not installed, and CI must have it")
            pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
        self.folder = folder / "pg"
        self.port = free_port()
        self.folder.mkdir()
        for path in (self.folder, *self.folder.parents[:4]):
            with contextlib.suppress(OSError):
                path.chmod(path.stat().st_mode | 0o755)
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres")
        self._run("initdb", "-D", str(self.folder / "data"), "-U", USER, "-A", "trust", "--no-sync")
        self.start()
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, "fleet")

    @property
    def url(self) -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/fleet"

    @property
    def pid(self) -> int:
        """Of the server's first process."""
        return int((self.folder / "data" / "postmaster.pid").read_text().splitlines()[0])

    def _run(self, name: str, *arguments: str) -> None:
        command = [_tool(name), *arguments]
        if os.geteuid() == 0:
            command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", timeout=120)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder}"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-o", options, "-l", log, "-w", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "stop")

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)
