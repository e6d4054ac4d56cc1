"""Throughput of two lanes over one: two processes, a core each, computing the same model for full queues.

    python benchmarks/lanes.py [--quick] [--json FILE]

Needs two cores that nothing else uses; on a busy machine the second lane has less than a core. Rounds of one and two
lanes alternate, because this kind of machine drifts. The bare line is two processes of the runtime without the agent:
what this machine gives at most.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent.backends.factory import LaneFactory
from agent.ports import Lane, LaneReply, LaneSpec, LoadSpec
from agent.schema.device import Runtime
from agent.service.clock import SystemClock

SIZE = 512
LAYERS = 8
IN_FLIGHT = 4
MIN_SCALING = 1.6
DEADLINE_S = 60.0

BARE = """
import os, sys, time
os.sched_setaffinity(0, [int(sys.argv[3])])
import numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
x = {"x": np.ones((16, %d), np.float32)}
session.run(None, x)
sys.stdin.readline()
end_s, count = time.perf_counter() + float(sys.argv[2]), 0
while time.perf_counter() < end_s:
    session.run(None, x)
    count += 1
print(count)
"""


def model(path: Path) -> Path:
    """Products of matrices: all of it is computing, and its weights fit a cache."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [16, SIZE]) for n in ("x", "y")]
    weights = numpy_helper.from_array(np.eye(SIZE, dtype=np.float32), "w")
    names = ["x", *(f"h{i}" for i in range(LAYERS - 1)), "y"]
    nodes = [helper.make_node("MatMul", [names[i], "w"], [names[i + 1]]) for i in range(LAYERS)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weights])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


class Load:
    """Keeps a lane's queue full; counts answers."""

    def __init__(self, lane: Lane, clock: SystemClock) -> None:
        self._lane, self._clock = lane, clock
        self._x = {"x": np.ones((16, SIZE), np.float32)}
        self._over = threading.Event()
        self._left = threading.Semaphore(0)
        self.count = 0

    def begin(self) -> None:
        self.count = 0
        self._over.clear()
        for _ in range(IN_FLIGHT):
            self._next()

    def end(self) -> None:
        self._over.set()
        for _ in range(IN_FLIGHT):
            self._left.acquire()

    def _next(self) -> None:
        self._lane.renew_permit(self._clock.monotonic_s() + DEADLINE_S)
        self._lane.submit("m", self._x, None, self._clock.monotonic_s() + DEADLINE_S).add_done_callback(self._answered)

    def _answered(self, done: Future[LaneReply]) -> None:
        done.result()
        if self._over.is_set():
            self._left.release()
            return
        self.count += 1
        self._next()


def rate(loads: list[Load], seconds: float) -> float:
    """Answers a second of these lanes together."""
    began_s = time.perf_counter()
    for load in loads:
        load.begin()
    time.sleep(seconds)
    count, elapsed_s = sum(load.count for load in loads), time.perf_counter() - began_s
    for load in loads:
        load.end()
    return count / elapsed_s


def bare(path: Path, cores: list[int], seconds: float) -> float:
    """The same by processes of the runtime alone, one on each core."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", BARE % SIZE, str(path), str(seconds), str(core)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for core in cores
    ]  # fmt: skip
    time.sleep(1.5)
    return sum(int(one.communicate("\n")[0]) for one in started) / seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two short rounds; is not judged")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    rounds, seconds = (2, 0.5) if given.quick else (7, 3.0)
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        print("one core: two lanes have nothing to scale on")
        return 0
    clock = SystemClock()
    factory = LaneFactory("process", clock)
    lanes = [factory(LaneSpec(f"cpu{core}", 1, cpu_affinity=(core,))) for core in cores]
    seen: dict[str, list[float]] = {"one lane": [], "two lanes": [], "one process": [], "two processes": []}
    with tempfile.TemporaryDirectory(prefix="qeil-lanes-") as folder:
        path = model(Path(folder) / "m.onnx")
        for lane in lanes:
            lane.start(lambda cause: print(cause, file=sys.stderr))
            lane.renew_permit(clock.monotonic_s() + DEADLINE_S)
            runtime = Runtime(backend="onnx", provider="CPUExecutionProvider")
            lane.load(LoadSpec("m", path, "onnx", runtime, 1), DEADLINE_S).result()
        loads = [Load(lane, clock) for lane in lanes]
        for _ in range(rounds):
            seen["one lane"].append(rate(loads[:1], seconds))
            seen["two lanes"].append(rate(loads, seconds))
            seen["one process"].append(bare(path, cores[:1], seconds))
            seen["two processes"].append(bare(path, cores, seconds))
        for lane in lanes:
            lane.stop(5.0)
        factory.close()
    medians = {name: statistics.median(rates) for name, rates in seen.items()}
    for name, median in medians.items():
        print(f"{name}: {median:.0f}/s")
    scaling, most = medians["two lanes"] / medians["one lane"], medians["two processes"] / medians["one process"]
    good = scaling >= min(MIN_SCALING, 0.95 * most)
    print(f"{'√' if good else '×'} two lanes over one: {scaling:.2f} (≥ {MIN_SCALING:g} where cores allow)")
    print(f"  two bare processes over one: {most:.2f}")
    if given.json:
        given.json.write_text(json.dumps({"rates": seen, "scaling": scaling, "bare": most}, indent=1) + "\n")
    return 0 if given.quick or good else 1


if __name__ == "__main__":
    sys.exit(main())
