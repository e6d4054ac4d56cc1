"""What a diag bundle asks other programs for: the journal of the service, and what the doctor says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from agent.backends.head_start import environment
from agent.errors import QeilError
from agent.service.doctor.redaction import redacted_text

UNIT: Final = "qeil.service"
LINES: Final = 4000
"""Of the journal, the newest ones; the bundle keeps the last bytes of them."""
JOURNAL_S: Final = 20.0
DOCTOR_S: Final = 180.0


class NotAsked(QeilError):
    """A program that is not here, or that failed or did not end."""

    code = "not_asked"


def journal() -> str:
    """The newest lines of the service's log, without secrets. Raises NotAsked."""
    program = shutil.which("journalctl")
    if program is None:
        raise NotAsked("no journal here (journalctl); an agent without systemd logs to its standard error")
    words = [program, "--unit", UNIT, "--lines", str(LINES), "--no-pager", "--quiet", "--output", "short-iso-precise"]
    text = redacted_text(_said(words, JOURNAL_S, (0,)))
    if not text.strip():
        raise NotAsked(f"the journal has no line of {UNIT}, or none that this user may read (sudo qeil diag)")
    return text


def doctor(config: Path | None, canary: bool) -> str:
    """What `qeil doctor` says of this machine, in a process of its own, as JSON. Raises NotAsked."""
    words = [sys.executable, "-m", "agent.cli.main", "doctor", "--json", "--canary" if canary else "--no-canary"]
    return redacted_text(_said([*words, *(["--config", str(config)] if config else [])], DOCTOR_S, (0, 1)))


def _said(words: list[str], timeout_s: float, codes: tuple[int, ...]) -> str:
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, check=False, text=True, errors="replace",
            # A folder named `agent` where somebody happens to stand must not be run instead, least of all as root.
            timeout=timeout_s, env=environment(dict(os.environ), 1),
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise NotAsked(f"it did not end within {timeout_s:g} s") from error
    except OSError as error:
        raise NotAsked(str(error.strerror)) from error
    if done.returncode not in codes:
        raise NotAsked(redacted_text((done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1][:300]))
    return done.stdout
