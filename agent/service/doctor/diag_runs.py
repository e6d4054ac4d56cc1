"""What a diag bundle asks other programs for: the journal of the service, and what the doctor says."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.backends.head_start import environment
from agent.child import child_command
from agent.errors import QeilError
from agent.records import record
from agent.service.doctor.redaction import redacted_text

UNIT: Final = "qeil.service"
LINES: Final = 4000
"""Of the journal, the newest ones; the bundle keeps the last bytes of them."""
POLL_S: Final = 0.25

Tell = Callable[[], None]


def _silent() -> None:
    """Nobody wants to know."""


@record(frozen=True)
class Patience:
    """How long the programs may take, and who hears that they still run: often, and may raise to end it all."""

    journal_s: float = 20.0
    doctor_s: float = 180.0
    tell: Tell = _silent


class NotAsked(QeilError):
    """A program that is not here, or that failed or did not end."""

    code = "not_asked"


def journal(patience: Patience) -> str:
    """The newest lines of the service's log, without secrets. Raises NotAsked."""
    program = shutil.which("journalctl")
    if program is None:
        raise NotAsked("no journal here (journalctl); an agent without systemd logs to its standard error")
    words = [program, "--unit", UNIT, "--lines", str(LINES), "--no-pager", "--quiet", "--output", "short-iso-precise"]
    text = redacted_text(_said(words, patience.journal_s, (0,), patience.tell))
    if not text.strip():
        raise NotAsked(f"the journal has no line of {UNIT}, or none that this user may read (sudo qeil diag)")
    return text


def doctor(config: Path | None, canary: bool, patience: Patience) -> str:
    """What `qeil doctor` says of this machine, in a process of its own, as JSON. Raises NotAsked."""
    words = child_command("agent.cli.main", "doctor", "--json", "--canary" if canary else "--no-canary")
    words += ["--config", str(config)] if config else []
    return redacted_text(_said(words, patience.doctor_s, (0, 1), patience.tell))


def _said(words: list[str], timeout_s: float, codes: tuple[int, ...], tell: Tell) -> str:
    """What the program wrote. `tell` hears of it while it runs and may raise, which ends the program too."""
    try:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            # A folder named `agent` where somebody happens to stand must not be run instead, least of all as root.
            errors="replace", env=environment(dict(os.environ), 1), start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise NotAsked(str(error.strerror)) from error
    try:
        said, complaint = _waited(process, timeout_s, tell)
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode not in codes:
        raise NotAsked(redacted_text((complaint.strip().splitlines() or [f"code {process.returncode}"])[-1][:300]))
    return said


def _waited(process: subprocess.Popen[str], timeout_s: float, tell: Tell) -> tuple[str, str]:
    end_s = time.monotonic() + timeout_s
    while True:
        left_s = end_s - time.monotonic()
        try:
            return process.communicate(timeout=max(0.0, min(POLL_S, left_s)))
        except subprocess.TimeoutExpired as error:
            if left_s <= POLL_S:
                raise NotAsked(f"it did not end within {timeout_s:g} s") from error
        tell()
