"""What crossing into a lane's process costs, beside running the same call in a thread of the asking process.

    python benchmarks/hop.py [--quick] [--json FILE]

The model copies out one number, so that nearly all of the time is the way there and back; the time inside
`session.run` is subtracted per call. The event loop serves the lane's doorbells itself, as the HTTP server's does; "by
the reader thread" leaves that to the thread that serves them otherwise. Rounds of every variant alternate, because this
kind of machine drifts.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, save

from agent.backends.io import LaneIO
from agent.backends.lane import ProcessLane
from agent.ports import LaneReply, LaneSpec, LoadSpec
from agent.schema.device import Runtime
from agent.service.clock import SystemClock

SIZES = {"8 KB": 2048, "150 KB": 38_400, "5 MB": 1_310_720}
LANE, IN_PLACE, EIGHT = "lane", "lane, in place", "lane, 8 in flight, each"
TARGETS_US = [
    ("8 KB", LANE, 100, 200), ("150 KB", LANE, 100, 200), ("8 KB", EIGHT, 25, None), ("150 KB", EIGHT, 25, None),
    ("5 MB", IN_PLACE, 120, None), ("5 MB", LANE, 800, None),
]  # fmt: skip
"""(size, variant, most for p50, most for p99)."""
T = TypeVar("T")
Call = Callable[[], Awaitable[float]]


def model(path: Path, elements: int) -> Path:
    """y = x[0:1], which reads nothing: only the crossing is left."""
    ends = [helper.make_tensor(n, TensorProto.INT64, [1], [v]) for n, v in (("a", 0), ("b", 1), ("axis", 1))]
    graph = helper.make_graph(
        [helper.make_node("Slice", ["x", "a", "b", "axis"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, elements])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])], ends,
    )  # fmt: skip
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


async def answer(future: Future[LaneReply]) -> LaneReply:
    """The reply of a lane whose doorbells the running loop serves: no change of thread, no call across threads."""
    waiter = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda _: waiter.set_result(None))
    await waiter
    return future.result()


def variants(
    lane: ProcessLane, apart: ProcessLane, session: Any, pool: ThreadPoolExecutor, name: str, elements: int
) -> dict[str, Call]:
    """Each call returns the seconds it spent inside the runtime."""
    loop = asyncio.get_running_loop()
    x = {"x": np.random.default_rng(0).random((1, elements), dtype=np.float32)}

    def timed_run() -> float:
        started = time.perf_counter()
        session.run(None, x)
        return time.perf_counter() - started

    async def executor() -> float:
        return await loop.run_in_executor(pool, timed_run)

    async def copied() -> float:
        return (await answer(lane.submit(name, x, None, time.monotonic() + 10))).execute_s

    async def in_place() -> float:
        inputs = lane.reserve(name)
        assert inputs is not None
        return (await answer(lane.submit(name, inputs, None, time.monotonic() + 10))).execute_s

    async def by_thread() -> float:
        return (await asyncio.wrap_future(apart.submit(name, x, None, time.monotonic() + 10))).execute_s

    async def no_loop() -> float:
        return apart.submit(name, x, None, time.monotonic() + 10).result().execute_s

    async def eight() -> float:
        deadline_s = time.monotonic() + 10
        futures = [lane.submit(name, x, None, deadline_s) for _ in range(8)]
        await answer(futures[-1])  # a lane answers in order
        return sum(future.result().execute_s for future in futures)

    return {"run_in_executor": executor, LANE: copied, IN_PLACE: in_place, "lane, by the reader thread": by_thread,
            "lane, no event loop": no_loop, EIGHT: eight}  # fmt: skip


async def measure(call: Call, calls: int) -> list[float]:
    """Seconds of each call without the runtime's own."""
    seconds = []
    for _ in range(calls):
        started = time.perf_counter()
        inside = await call()
        seconds.append(time.perf_counter() - started - inside)
    return seconds


async def bench(rounds: int, calls: int) -> dict[str, dict[str, tuple[float, float]]]:
    """size → variant → (p50, p99) in µs."""
    clock = SystemClock()
    io = LaneIO(clock)
    lane, apart = ProcessLane(LaneSpec("cpu", 1), clock, io), ProcessLane(LaneSpec("cpu", 1), clock)
    for one in (lane, apart):
        one.start(print)
        one.renew_permit(clock.monotonic_s() + 3600)
    io.adopt()
    asyncio.get_running_loop().add_reader(io.fileno(), io.serve)
    table: dict[str, dict[str, tuple[float, float]]] = {}
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    runtime = Runtime(backend="onnx", provider="CPUExecutionProvider")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        for size, elements in SIZES.items():
            path = model(Path(folder) / f"{elements}.onnx", elements)
            for one in (lane, apart):
                await asyncio.wrap_future(one.load(LoadSpec(size, path, "onnx", runtime, 1), 60))
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            table[size] = await rounds_of(variants(lane, apart, session, pool, size, elements), rounds, calls)
    asyncio.get_running_loop().remove_reader(io.fileno())
    io.release()
    for one in (lane, apart):
        one.stop(5)
    io.close()
    return table


async def rounds_of(calls_by_name: dict[str, Call], rounds: int, calls: int) -> dict[str, tuple[float, float]]:
    """Alternate the variants; the median over the rounds of each round's p50 and p99."""
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in calls_by_name}
    for index in range(rounds + 1):
        for name, call in calls_by_name.items():
            seconds = sorted(await measure(call, calls))
            share = 8 if name == EIGHT else 1
            if index > 0:  # the first round only touches pages
                p50, p99 = (seconds[int(len(seconds) * q)] / share * 1e6 for q in (0.5, 0.99))
                seen[name].append((p50, p99))
    return {
        name: (statistics.median(p for p, _ in values), statistics.median(p for _, p in values))
        for name, values in seen.items()
    }


def run_fast(main: Coroutine[Any, Any, T]) -> T:
    """On uvloop where it is installed, as the HTTP server does."""
    if importlib.util.find_spec("uvloop") is None:
        print("event loop: asyncio\n")
        return asyncio.run(main)
    print("event loop: uvloop\n")
    result: T = importlib.import_module("uvloop").run(main)
    return result


def show(table: dict[str, dict[str, tuple[float, float]]]) -> None:
    """Print the table, ratios and targets."""
    print("µs p50 / p99 (ratio of p50 to run_in_executor)\n")
    print(f"{'':28}" + "".join(f"{size:>26}" for size in table))
    for name in next(iter(table.values())):
        cells = []
        for rows in table.values():
            p50, p99 = rows[name]
            cells.append(f"{p50:7.0f} / {p99:5.0f} ({p50 / rows['run_in_executor'][0]:4.1f}×)")
        print(f"{name:28}" + "".join(f"{cell:>26}" for cell in cells))
    print()
    for size, variant, p50_limit, p99_limit in TARGETS_US:
        p50, p99 = table[size][variant]
        met = p50 <= p50_limit and (p99_limit is None or p99 <= p99_limit)
        limits = f"{p50_limit} / {p99_limit}" if p99_limit else f"{p50_limit}"
        print(f"target {size}, {variant}: {limits} µs, seen {p50:.0f} / {p99:.0f}: {'met' if met else 'missed'}")


def main() -> None:
    """See module."""
    parser = argparse.ArgumentParser(description="Latency of the hop into a lane's process.")
    parser.add_argument("--quick", action="store_true", help="fewer calls and rounds")
    parser.add_argument("--json", type=Path, help="also write the table there")
    given = parser.parse_args()
    rounds, calls = (3, 200) if given.quick else (7, 1000)
    table = run_fast(bench(rounds, calls))
    show(table)
    if given.json:
        given.json.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
