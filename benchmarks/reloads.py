"""Policy edits twenty times a second under load: no request dropped, every answer names the policy it ran under.

    python benchmarks/reloads.py [--seconds S] [--per-second N] [--quick] [--json FILE]

One agent process that looks at its policy file as often as it is edited; four clients (checking_client.py) compare
every answer with onnxruntime's. Every tenth edit is broken in one of several ways. Judged: nothing lost or wrong, no
digest in an answer that is not one of a good edit, a broken last edit leaves the last good policy in force and is
reported with file and line, and a good last edit is in force within five seconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import yaml

from agent.cli.client import AgentClient
from agent.errors import ConfigError
from agent.storage import share, yaml_files

HERE = Path(__file__).resolve().parent
BROKEN = ("name: Balanced\n", "thermal: [\n", "standby: sometimes\n", "\tname: x\n", "recovery: {}\n")
SETTLE_S = 5.0
PATIENCE_S = 60.0


class Editor:
    """Writes the policy file; every good content is another policy."""

    def __init__(self, path: Path, per_second: float) -> None:
        self.path = path
        policy = yaml.safe_load(share.find_policy("balanced").read_text())
        policy["telemetry"]["sample_s"] = 1.0 / per_second
        self._policy = policy
        self.good: dict[str, int] = {}
        self.edits = self.broken = 0

    def write(self, broken: bool) -> None:
        self.edits += 1
        number = self.edits
        self._policy["description"] = f"edit {number}"
        self._policy["objective"]["weights"]["energy"] = 1.0 + number % 7
        self._policy["admission"]["max_concurrent_requests"] = 200 + number % 50
        text = yaml.safe_dump(self._policy, sort_keys=False)
        if broken:
            self.broken += 1
            text += BROKEN[number % len(BROKEN)]
        partial = self.path.with_suffix(".partial")
        partial.write_text(text)
        try:
            made = yaml_files.load_policy(partial)
        except ConfigError:
            assert broken
        else:
            assert not broken
            self.good[yaml_files.digest(made)] = number
        partial.replace(self.path)


def magika() -> Path:
    spec = importlib.util.find_spec("magika")
    if spec is None or spec.origin is None:
        sys.exit("reloads: pip install magika, whose model is served")
    return Path(spec.origin).parent / "models/standard_v3_3/model.onnx"


def start_agent(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    settings = {
        "version": 1, "state_dir": str(folder / "state"), "profile": "generic-x86", "http": {"port": 0},
        "policy": str(folder / "policy.yaml"), "models": [{"name": "magika", "path": str(magika())}],
        "log_level": "warning",
    }  # fmt: skip
    (folder / "agent.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "agent.cli.main", "run", "--config", str(folder / "agent.yaml")]
    with (folder / "agent.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=HERE.parent)
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], 120.0)
    line = process.stdout.readline().decode() if ready else ""
    if not line.startswith("ready "):
        sys.exit(f"reloads: {(folder / 'agent.log').read_text()[-2000:]}")
    return process, line.split()[1]


def edit(editor: Editor, seconds: float, per_second: float) -> None:
    begun_s = time.monotonic()
    while (passed_s := time.monotonic() - begun_s) < seconds:
        editor.write(broken=editor.edits % 10 == 9)
        time.sleep(max(0.0, (editor.edits - 1) / per_second - passed_s))


def settled(url: str, wanted: str) -> float | None:
    """Seconds until that policy is in force; None where it never is."""
    begun_s = time.monotonic()
    with AgentClient(url) as client:
        while time.monotonic() - begun_s < PATIENCE_S:
            if client.get("/status")["agent"]["policy_digest"] == wanted:
                return time.monotonic() - begun_s
            time.sleep(0.02)
    return None


def rejected(url: str) -> dict[str, Any] | None:
    end_s = time.monotonic() + PATIENCE_S
    with AgentClient(url) as client:
        while time.monotonic() < end_s:
            for condition in client.get("/status")["conditions"]:
                if condition["type"] == "policy_rejected":
                    found: dict[str, Any] = condition
                    return found
            time.sleep(0.05)
    return None


def run(folder: Path, seconds: float, per_second: float) -> dict[str, Any]:
    editor = Editor(folder / "policy.yaml", per_second)
    editor.write(broken=False)
    process, url = start_agent(folder)
    command = [sys.executable, "-c", "import checking_client; checking_client.main()", url, "magika", str(magika())]
    client = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE)
    try:
        assert client.stdout is not None
        client.stdout.readline()
        edit(editor, seconds, per_second)
        editor.write(broken=False)
        last = max(editor.good, key=lambda digest: editor.good[digest])
        settled_s = settled(url, last)
        editor.write(broken=True)
        condition = rejected(url)
        with AgentClient(url) as asked:
            kept = asked.get("/status")["agent"]["policy_digest"] == last
        told = json.loads(client.communicate("", timeout=90)[0])
        digests = told.pop("digests")
        return {
            "edits": editor.edits, "broken": editor.broken, "seconds": seconds, "client": told,
            "policies that answered": len(digests), "answers under an unknown policy":
            sum(n for d, n in digests.items() if d not in editor.good), "last good in force after s": settled_s,
            "kept after a broken edit": kept, "condition": condition and condition["cause"],
            "file": str(folder / "policy.yaml"),
        }  # fmt: skip
    finally:
        if client.poll() is None:
            client.kill()
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def verdicts(made: dict[str, Any], quick: bool) -> list[str]:
    """Every aim that was missed, in words."""
    client = made["client"]
    missed = [f"{client[k]} requests {k}" for k in ("lost", "wrong", "duplicated") if client[k]]
    if made["answers under an unknown policy"]:
        missed.append(f"{made['answers under an unknown policy']} answers name a policy that nobody wrote")
    took_s = made["last good in force after s"]
    if took_s is None or (not quick and took_s > SETTLE_S):
        missed.append(f"the last good edit was not in force after {SETTLE_S:g} s")
    if not made["kept after a broken edit"]:
        missed.append("a broken edit changed the policy in force")
    if not str(made["condition"]).startswith(f"{made['file']}:"):
        missed.append(f"the broken edit is not reported with file and line: {made['condition']}")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--per-second", type=float, default=20.0)
    parser.add_argument("--quick", action="store_true", help="five seconds, no time is judged")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qeil-reloads-") as folder:
        made = run(Path(folder), 5.0 if given.quick else given.seconds, given.per_second)
    text = json.dumps(made, indent=1)
    print(text)
    if given.json:
        given.json.write_text(text)
    missed = verdicts(made, given.quick)
    for line in missed:
        print(f"MISSED: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
