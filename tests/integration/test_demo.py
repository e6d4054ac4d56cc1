"""`make demo` is a promise: it runs to its end on this machine and prints what it promises to print."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_demo_serves_compares_survives_a_kill_and_shows_its_telemetry(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli.main", "demo", "--json", "--folder", str(tmp_path / "demo")],
        capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    text = done.stderr
    assert done.returncode == 0, text[-3000:] + done.stdout[-3000:]
    for model in ("magika", "open-nsfw", "face-landmark"):
        compared = [line for line in text.splitlines() if line.startswith(model) and "modelled" in line]
        assert len(compared) >= 2, text
    assert "answered 200, lost 0, wrong 0" in text
    assert "SIGKILL" in text
    assert re.search(r"served again \d+\.\d s after the kill", text)
    assert '"cls":"tlm"' in text or "tlm seq" in text
    assert "agent stopped with exit code 0" in text
    told = json.loads(done.stdout)
    assert {row["model"] for row in told["placements"]} == {"magika", "open-nsfw", "face-landmark"}
    assert told["under_fire"]["answered"] == 200
    assert told["others_busy_cores"] >= 0
    assert "other programs" in text
