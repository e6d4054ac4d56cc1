"""Faults by the hundred under load on real lanes: is each one seen and mended, with no request lost or answered wrong?

    python benchmarks/faults.py [--count N] [--quick] [--json FILE]

One agent in this process, its lanes in processes of their own, four clients in another one that compare every answer
with onnxruntime's (checking_client.py). Faults are real where the kernel can make them (SIGKILL, SIGSTOP, SIGSEGV, an
address-space limit), and made inside the lane's process where they stand for hardware (wrong numbers until it is
restarted, a failed allocation, a device that is gone, one that was reset and is back at the next call, one slow call,
thirty of them, one that never ends). The policy verifies answers
(recovery.release: verified); its breaker is opened wide because every lane is broken every few seconds on purpose.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import yaml

from agent.control import fault_detector
from agent.errors import LaneDied
from agent.service import logs
from agent.service.app import App
from agent.service.serving.lane_keeper import LaneDiedEvent, LaneKeeper
from agent.storage import share, yaml_files

HERE = Path(__file__).resolve().parent
SIMULATED = {"npu0": "jetson-orin-nano-super/gpu", "npu1": "jetson-orin-nano-super/gpu"}
BACK_S = 5.0
PATIENCE_S = 20.0
SETTLE_S = 1.0
"""A fault without a death is given this long to show."""
PAUSE_S = (0.1, 0.8)
"""Time that a lane serves before it is broken again."""
LEFT_OUT = ("cpu-openvino", "cpu-eco")
"""Three lanes are enough for two cores."""
FOREVER = 10**9
CRASHES = ("kill -9", "segfault")
HANGS = ("SIGSTOP", "hang")


@dataclass
class Fault:
    """One injected fault and what became of it."""

    kind: str
    lane: str
    detected_s: float | None = None
    cause: str = ""
    back_s: float | None = None
    """From its death to its first moment back in service; None: it never left."""
    recovered: bool = False


@dataclass
class Deaths:
    """When each lane died last, told by the lane itself."""

    seen: dict[str, list[tuple[float, str]]] = field(default_factory=lambda: defaultdict(list))

    def listen(self, keeper: LaneKeeper) -> None:
        tell = keeper.post

        def post(event: object) -> None:
            if isinstance(event, LaneDiedEvent):
                self.seen[keeper.name].append((time.monotonic(), event.cause))
            tell(event)  # type: ignore[arg-type] # passed on as it came

        keeper.post = post

    def since(self, lane: str, begun_s: float) -> tuple[float, str] | None:
        return next(((t, c) for t, c in list(self.seen[lane]) if t >= begun_s), None)


def settings_in(folder: Path) -> Path:
    policy = yaml.safe_load(share.find_policy("balanced").read_text())
    policy.update(name="faults", standby="all")
    policy["forbidden"] = [{"model": "*", "accelerator": name} for name in LEFT_OUT]
    policy["recovery"].update(
        release="verified", canary_s=1, restart_backoff_s=0.05, max_backoff_s=0.2, breaker_failures=100,
        breaker_window_s=1, ramp_s=1, max_replays=10,
    )  # fmt: skip
    (folder / "policy.yaml").write_text(yaml.safe_dump(policy))
    document = {
        "version": 1, "state_dir": str(folder / "state"), "board": "faults", "profile": "generic-x86",
        "policy": str(folder / "policy.yaml"), "http": {"port": 0}, "log_level": "error",
        "models": [{"name": "magika", "path": str(magika())}],
        "simulated_accelerators": [{"name": n, "like": like} for n, like in SIMULATED.items()],
    }  # fmt: skip
    (folder / "agent.yaml").write_text(yaml.safe_dump(document))
    return folder / "agent.yaml"


def magika() -> Path:
    spec = importlib.util.find_spec("magika")
    if spec is None or spec.origin is None:
        sys.exit("faults: pip install magika, whose model is served")
    return Path(spec.origin).parent / "models/standard_v3_3/model.onnx"


def limit_memory(pid: int) -> None:
    """No more address space than it has now: the next real allocation fails."""
    used = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.prlimit(pid, resource.RLIMIT_AS, (used, used))


def inject(keeper: LaneKeeper, kind: str, rng: random.Random) -> None:
    lane = keeper.lane
    pid = lane.pid() if lane is not None else None
    if lane is None or pid is None:
        raise ProcessLookupError(keeper.name)
    if kind == "kill -9":
        os.kill(pid, signal.SIGKILL)
    elif kind == "segfault":
        os.kill(pid, signal.SIGSEGV)
    elif kind == "SIGSTOP":
        os.kill(pid, signal.SIGSTOP)
    elif kind == "address-space limit":
        limit_memory(pid)
    else:
        name, runs = {
            "wrong": ("wrong", FOREVER), "allocation failure": ("memory", 3), "vanished": ("vanish", FOREVER),
            "driver reset": ("vanish", 1), "delayed reply": ("slow", 1), "slow-down": ("slow", 30), "hang": ("hang", 1),
        }[kind]  # fmt: skip
        seconds = rng.uniform(0.02, 0.1) if kind == "slow-down" else rng.uniform(0.02, 1.0)
        lane.inject(name, runs, seconds)  # type: ignore[attr-defined] # both kinds of lane have it


EVERYWHERE = ("kill -9", "segfault", "SIGSTOP", "address-space limit")
INSIDE = ("wrong", "allocation failure", "vanished", "driver reset", "delayed reply", "slow-down", "hang")
MAY_PASS = ("delayed reply", "slow-down", "driver reset", "allocation failure", "address-space limit")
"""Faults that a lane may get over without a restart."""


class Breaker(threading.Thread):
    """Breaks one lane again and again, each time waiting until it serves again."""

    def __init__(self, keeper: LaneKeeper, deaths: Deaths, take: Callable[[], bool], seed: int) -> None:
        super().__init__(name=f"break-{keeper.name}", daemon=True)
        self.keeper, self.deaths, self.take = keeper, deaths, take
        self.rng = random.Random(seed)
        self.faults: list[Fault] = []

    def run(self) -> None:
        kinds = [*EVERYWHERE, *(INSIDE if self.keeper.spec.simulated else ())]
        order: list[str] = []
        while self.take():
            order = order or self.rng.sample(kinds, len(kinds))
            self._once(order.pop())

    def _serving(self) -> bool:
        keeper = self.keeper
        return keeper.health.phase == "ready" and keeper.lane is not None and keeper.lane.alive()

    def _await(self, happened: Callable[[], object], timeout_s: float) -> bool:
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            if happened():
                return True
            time.sleep(0.005)
        return False

    def _once(self, kind: str) -> None:
        fault = Fault(kind, self.keeper.name)
        self.faults.append(fault)
        lane = self.keeper.lane
        while True:
            self._await(self._serving, PATIENCE_S)
            time.sleep(self.rng.uniform(*PAUSE_S))
            begun_s, lane = time.monotonic(), self.keeper.lane
            if lane is None or not self._serving():
                continue  # an earlier fault, a failed allocation, shows only now
            with contextlib.suppress(ProcessLookupError, PermissionError, LaneDied):
                inject(self.keeper, kind, self.rng)
                if self.deaths.since(self.keeper.name, begun_s) or (self.keeper.lane is lane and lane.alive()):
                    break
        shows_s = SETTLE_S if kind in MAY_PASS else PATIENCE_S
        self._await(lambda: self.deaths.since(self.keeper.name, begun_s), shows_s)
        death = self.deaths.since(self.keeper.name, begun_s)
        if death is not None:
            fault.detected_s, fault.cause = death[0] - begun_s, death[1]
        back = self._await(self._serving, PATIENCE_S)
        fault.recovered = back and (death is not None or shows_s == SETTLE_S)
        if death is not None and back:
            fault.back_s = time.monotonic() - death[0]


def quantile(values: list[float], share: float) -> float | None:
    return float(np.quantile(values, share)) if values else None


def summary(faults: list[Fault], client: dict[str, object], answered: int, seconds: float) -> dict[str, object]:
    by_kind: dict[str, dict[str, object]] = {}
    for kind in sorted({f.kind for f in faults}):
        some = [f for f in faults if f.kind == kind]
        seen = [f.detected_s for f in some if f.detected_s is not None]
        back = [f.back_s for f in some if f.back_s is not None]
        by_kind[kind] = {
            "faults": len(some), "recovered": sum(f.recovered for f in some), "lane restarted": len(seen),
            "detected p50 ms": _ms(quantile(seen, 0.5)), "p99 ms": _ms(quantile(seen, 0.99)),
            "back p50 s": _round(quantile(back, 0.5)), "max s": _round(max(back, default=None)),
        }  # fmt: skip
    crashes = [f.detected_s for f in faults if f.kind in CRASHES and f.detected_s is not None]
    return {
        "faults": len(faults), "recovered": sum(f.recovered for f in faults), "seconds": round(seconds),
        "crash detected p99 ms": _ms(quantile(crashes, 0.99)),
        "back max s": _round(max((f.back_s for f in faults if f.back_s is not None), default=None)),
        "back p99 s": _round(quantile([f.back_s for f in faults if f.back_s is not None], 0.99)),
        "answers the agent counted": answered, "client": client, "by kind": by_kind,
    }  # fmt: skip


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 1)


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def wait_ready(app: App) -> None:
    """Until every lane serves: one that is slow to come up on a busy machine is no finding."""
    end_s = time.monotonic() + 120.0
    while time.monotonic() < end_s:
        lanes = [k for k in app.supervisor.keepers.values() if k.models]
        if app.service.ready() and all(k.health.phase == "ready" for k in lanes):
            return
        time.sleep(0.1)
    sys.exit(f"faults: not ready, {[(k.name, k.health.phase, k.health.last_fault) for k in lanes]}")


def run(folder: Path, count: int, seed: int) -> dict[str, object]:
    logs.configure("error")
    app = App(yaml_files.load_settings(settings_in(folder)), {})
    deaths = Deaths()
    for keeper in app.supervisor.keepers.values():
        deaths.listen(keeper)
    app.start()
    client = None
    try:
        wait_ready(app)
        command = [sys.executable, "-c", "import checking_client; checking_client.main()", app.http.url, "magika"]
        client = subprocess.Popen(
            [*command, str(magika())], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE
        )
        assert client.stdout is not None
        client.stdout.readline()
        time.sleep(2.0)
        left, lock = [count], threading.Lock()

        def take() -> bool:
            with lock:
                left[0] -= 1
                return left[0] >= 0

        begun_s = time.monotonic()
        keepers = [k for k in app.supervisor.keepers.values() if k.models]
        breakers = [Breaker(k, deaths, take, seed + i) for i, k in enumerate(keepers)]
        for breaker in breakers:
            breaker.start()
        while any(b.is_alive() for b in breakers):
            time.sleep(1.0)
            print(f"\r{sum(len(b.faults) for b in breakers)} of {count}", end="", file=sys.stderr, flush=True)
        seconds = time.monotonic() - begun_s
        time.sleep(1.0)
        told = json.loads(client.communicate("", timeout=90)[0])
        answered = app.dispatcher.meters["magika"].read()
        made = summary([f for b in breakers for f in b.faults], told, answered.requests - answered.failed, seconds)
        made["not recovered"] = [str(f) for b in breakers for f in b.faults if not f.recovered][:5]
        made["canaries"] = dict(app.canaries.counters)
        return made
    finally:
        if client is not None and client.poll() is None:
            client.kill()
        app.stop()


def verdicts(made: dict[str, object], quick: bool) -> list[str]:
    """Every aim that was missed, in words."""
    client = made["client"]
    assert isinstance(client, dict)
    missed = []
    if made["recovered"] != made["faults"]:
        missed.append(f"{made['faults']} faults, {made['recovered']} recovered")
    missed += [f"{client[k]} requests {k}" for k in ("lost", "wrong", "duplicated") if client[k]]
    if made["answers the agent counted"] != client["answered"]:
        missed.append(f"the agent counted {made['answers the agent counted']} answers, clients {client['answered']}")
    crash_ms, back_s = made["crash detected p99 ms"], made["back max s"]
    if not quick and isinstance(crash_ms, float) and crash_ms > 100.0:
        missed.append(f"crashes were detected within {crash_ms} ms (p99), not 100")
    if not quick and isinstance(back_s, float) and back_s > BACK_S:
        missed.append(f"capacity came back within {back_s} s, not {BACK_S:g}")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a dozen faults; times are not judged")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qeil-faults-") as folder:
        made = run(Path(folder), 12 if given.quick else given.count, given.seed)
    text = json.dumps(made, indent=1)
    print(f"\n{text}")
    print(f"hang deadline: max(100 ms, 3 × p99); heartbeat lost after {fault_detector.HEARTBEAT_LOST_S:g} s")
    if given.json:
        given.json.write_text(text)
    missed = verdicts(made, given.quick)
    for line in missed:
        print(f"MISSED: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
