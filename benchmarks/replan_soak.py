"""A thousand re-plans in a row beside a 10 Hz tick: how late the tick comes, and whether memory stays flat.

    python benchmarks/replan_soak.py [--replans N] [--rows nothing,search,…] [--objects] [--markdown FILE]

The tick waits on a mailbox like the supervisor's; plans are made on a thread pool of one, as `ModelSet` makes them.
"service" is what the service does when an accelerator is lost or hot: the whole planner, in a process of its own;
"thread" the same planner on a thread of the agent, for comparison. "nothing" is the tick alone: late there is the
machine's own doing. Memory, that of the planning process included, is read after a tenth of the re-plans and at the
end; with --objects those alive in the agent are counted by tracemalloc in a second round, because counting them slows
everything down.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import queue
import statistics
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from agent.placement.state import State
from agent.schema.settings import ModelEntry
from agent.service.board import Board, make_board
from agent.service.planning.planner_process import PlannerProcess, Plans
from agent.service.planning.split_planner import SplittingPlanner
from agent.storage import share, yaml_files

TICK_S = 0.1
IDLE_S = 20.0
LAYERS, WIDTH = 50, 256
Subject = Callable[[int], object]


class Ticker:
    """A 10 Hz tick on a thread of its own that notes how late it comes."""

    def __init__(self) -> None:
        self.late_s: list[float] = []
        self._mailbox: queue.Queue[None] = queue.Queue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ticker", daemon=True)

    def __enter__(self) -> Ticker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        next_s = time.monotonic() + TICK_S
        while not self._stop.is_set():
            with contextlib.suppress(queue.Empty):
                self._mailbox.get(timeout=max(next_s - time.monotonic(), 0.0))
            now_s = time.monotonic()
            self.late_s.append(now_s - next_s)
            next_s = max(next_s + TICK_S, now_s)


@dataclass(frozen=True)
class Outcome:
    """Of one subject."""

    name: str
    replans: int
    late_s: list[float]
    longest_s: float
    early_bytes: int
    final_bytes: int
    early_alive: int
    final_alive: int


def board() -> Board:
    """A shipped board with a GPU and a CPU on one memory."""
    profile = yaml_files.load_profile(share.find_profile("jetson-orin-nano"))
    return make_board(profile, (), lambda _: profile)


def service(folder: Path, planner: Plans) -> Subject:
    """Plans for a model of its own making: hotter, or without its GPU, every time from the plan before, with the search
    for the best placement of the stages."""
    policy = yaml_files.load_policy(share.find_policy("balanced"))
    accelerators = board().profile.accelerators
    models = (ModelEntry(name="mlp", path=mlp(folder / "mlp.onnx")),)
    digest = yaml_files.digest(policy)

    running = [planner.plan(policy, digest, models)]

    def plan(number: int) -> object:
        temperatures = {a.name: 40.0 + 10.0 * (number % 3) for a in accelerators}
        state = State(temperatures, lost=frozenset({"gpu"} if number % 2 else ()))
        running[0] = planner.plan(policy, digest, models, state, running[0])
        return running[0]

    return plan


def mlp(path: Path) -> Path:
    """A chain of matrix products, 24 layers of 256 × 256."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for layer in range(LAYERS):
        weights.append(numpy_helper.from_array(rng.random((WIDTH, WIDTH), dtype=np.float32), f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [f"h{layer}", f"w{layer}"], [f"h{layer + 1}"]))
    ends = [helper.make_tensor_value_info(f"h{n}", TensorProto.FLOAT, [1, WIDTH]) for n in (0, LAYERS)]
    graph = helper.make_graph(nodes, "mlp", ends[:1], ends[1:], weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def resident_bytes(planner: Plans) -> int:
    """Memory of this process and its planning process that is in RAM now."""
    processes = [os.getpid()]
    if isinstance(planner, PlannerProcess) and planner.pid is not None:
        processes.append(planner.pid)
    pages = [int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) for pid in processes]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


def soak(name: str, subject: Subject, planner: Plans, replans: int, objects: bool) -> Outcome:
    """Run the subject beside the tick, then, for the objects alive, again under tracemalloc."""
    longest_s = 0.0
    memory, alive = [0, 0], [0, 0]
    early = max(replans // 10, 1)
    with ThreadPoolExecutor(1, thread_name_prefix="planner") as executor:
        with Ticker() as ticker:
            for number in range(replans):
                begun_s = time.monotonic()
                executor.submit(subject, number).result()
                longest_s = max(longest_s, time.monotonic() - begun_s)
                if number + 1 in (early, replans):
                    gc.collect()
                    memory[number + 1 != early] = resident_bytes(planner)
        if objects:
            tracemalloc.start()
            for number in range(replans):
                executor.submit(subject, number).result()
                if number + 1 in (early, replans):
                    gc.collect()
                    alive[number + 1 != early] = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
    return Outcome(name, replans, ticker.late_s, longest_s, *memory, *alive)


def idle() -> Outcome:
    """The tick alone."""
    with Ticker() as ticker:
        time.sleep(IDLE_S)
    return Outcome("nothing", 0, ticker.late_s, 0.0, 1, 1, 0, 0)


def table(rows: list[Outcome]) -> list[str]:
    """Markdown lines."""
    lines = [
        "| beside the tick | re-plans | longest | ticks | late, median | late, 99 % | latest | RSS growth | alive |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        late_ms = sorted(1000.0 * late_s for late_s in row.late_s)
        high_ms = late_ms[int(0.99 * (len(late_ms) - 1))]
        growth = row.final_bytes / row.early_bytes - 1.0
        alive = f"{row.final_alive - row.early_alive:+d} bytes" if row.final_alive else "–"
        memory = f"{growth:+.2%} | {alive}" if row.replans else "– | –"
        lines.append(
            f"| {row.name} | {row.replans} | {1000.0 * row.longest_s:.0f} ms | {len(late_ms)} "
            f"| {statistics.median(late_ms):.2f} ms | {high_ms:.2f} ms | {late_ms[-1]:.2f} ms | {memory} |"
        )
    return lines


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replans", type=int, default=1000)
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    parser.add_argument("--rows", default="nothing,service,thread,nothing", help="what to run, in order")
    parser.add_argument("--objects", action="store_true", help="count objects alive too; takes twice as long")
    parser.add_argument("--quick", action="store_true", help="10 re-plans: shows that everything runs")
    chosen = parser.parse_args()
    count = 10 if chosen.quick else chosen.replans
    rows = []
    with tempfile.TemporaryDirectory() as name_:
        folder = Path(name_)
        process = PlannerProcess(board(), folder / "process", dict)
        for name in chosen.rows.split(","):
            if name == "nothing":
                rows.append(idle())
                continue
            planner: Plans = SplittingPlanner(board(), folder / "thread", dict) if name == "thread" else process
            subject = service(folder, planner)
            subject(0)
            rows.append(soak(name, subject, planner, count, chosen.objects))
        process.close()
    lines = table(rows)
    print("\n".join(lines))
    if chosen.markdown is not None:
        chosen.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
