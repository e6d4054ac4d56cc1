"""Serving side by side: the agent, its peers and raw `session.run` – same models, same threads, one client.

    python benchmarks/serving.py [--quick] [--json FILE] [--peers mlserver,litserve,pytriton | none]

Rounds alternate over the servers, and pieces of magika's over server and raw session, because machines of this kind
drift; figures are medians of the rounds, those over raw each of one round. Each server runs alone and is asked once it
has come to rest: what one does unasked is not the others' to bear. Peers are installed on first use under .venv-peers/.
MLServer's REST end takes no raw tensors, so it is also asked over gRPC.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, save
from serving_client import base64_request, binary_request, json_request, latencies_s, load_per_s
from serving_servers import Model, Running, scratch, start_agent, start_litserve, start_mlserver, start_pytriton

Maker = Callable[[], Running]
RAW, ALL = "raw session.run", "all"
PIECES = {"add1": 1, "magika": 5}
"""Of a round's requests, between which the raw session gets its turn: where a ratio is asked for, not a difference
of which raw is a hundredth."""
PEERS = ("mlserver", "litserve", "pytriton")
GRPC_PROBE = """
import json, sys, time
import numpy as np
import tritonclient.grpc as grpc
port, model, name, kind, count, shape = sys.argv[1:]
count, shape = int(count), json.loads(shape)
client = grpc.InferenceServerClient(f"127.0.0.1:{port}")
x = np.zeros(shape, {"FP32": np.float32, "INT32": np.int32}[kind])
times = []
for i in range(count + count // 10 + 5):
    tensor = grpc.InferInput(name, list(x.shape), kind)
    tensor.set_data_from_numpy(x)
    started = time.perf_counter()
    client.infer(model, [tensor])
    times.append(time.perf_counter() - started)
print(json.dumps(times[count // 10 + 5:]))
"""


def tiny(path: Path) -> Path:
    """y = x + 1 over any number of columns: nothing but the server is left."""
    port = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, "n"]) for n in "xy"]
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    graph = helper.make_graph([helper.make_node("Add", ["x", "one"], ["y"])], "add1", port[:1], port[1:], [one])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def models_in(folder: Path) -> list[Model]:
    spec = importlib.util.find_spec("magika")
    if spec is None or spec.origin is None:
        sys.exit("serving: pip install magika, whose model is one of the two")
    magika = Path(spec.origin).parent / "models/standard_v3_3/model.onnx"
    rng = np.random.default_rng(1)
    return [
        Model("add1", tiny(folder / "add1.onnx"), "x", "FP32", np.zeros((1, 2048), np.float32)),
        Model("magika", magika, "bytes", "INT32", rng.integers(0, 256, (1, 2048), dtype=np.int32)),
    ]


def raw_runner(model: Model, threads: int) -> Callable[[], object]:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(str(model.path), options, ["CPUExecutionProvider"])
    feeds = {model.input_name: model.x}
    return lambda: session.run(None, feeds)


def timed(run: Callable[[], object], count: int) -> np.ndarray:
    for _ in range(count // 10 + 5):
        run()
    times = []
    for _ in range(count):
        started_s = time.perf_counter()
        run()
        times.append(time.perf_counter() - started_s)
    return np.array(times)


def in_turn(
    raw: Callable[[], object], ask: Callable[[int], np.ndarray], count: int, pieces: int
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Times of both, a piece of each after the other, as the host's pace changes from minute to minute."""
    found = [(timed(raw, count // pieces), ask(count // pieces)) for _ in range(pieces)]
    return np.concatenate([times for times, _ in found]), np.concatenate([times for _, times in found])


def cell(times: np.ndarray, per_s: float | None) -> dict[str, float]:
    found = {"p50_ms": float(np.median(times)) * 1e3, "p99_ms": float(np.quantile(times, 0.99)) * 1e3}
    return found if per_s is None else {**found, "per_s": per_s}


def measure(makers: list[Maker], models: list[Model], wide: Model, rounds: int, scale: float) -> dict[str, Any]:
    """server → workload → statistic → one value a round; what holds for a whole server is under the workload "all"."""
    found: dict[str, Any] = {}
    threads = len(os.sched_getaffinity(0))

    def keep(server: str, workload: str, values: dict[str, float]) -> None:
        for name, value in values.items():
            found.setdefault(server, {}).setdefault(workload, {}).setdefault(name, []).append(value)

    counts = {"add1": int(1000 * scale), "magika": int(300 * scale), wide.name: int(400 * scale)}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for make in makers:
            with alone(make) as server:
                keep(server.name, ALL, {"ready_s": server.ready_s})
                for model in models:
                    port, request = server.requests[model.name]
                    ask = lambda n, p=port, r=request: latencies_s(p, r, n)  # noqa: E731
                    raw, times = in_turn(
                        raw_runner(model, threads), ask, counts[model.name], PIECES[model.name]
                    )  # fmt: skip
                    over = {f"over_raw_{q}": value - cell(raw, None)[q] for q, value in cell(times, None).items()}
                    over["of_raw"] = float(np.median(times) / np.median(raw))
                    keep(RAW, model.name, cell(raw, 1.0 / float(np.mean(raw))))
                    keep(server.name, model.name, cell(times, load_per_s(port, request, 2.0 * scale)) | over)
                port, request = wide_request(server, wide)
                times = latencies_s(port, request, counts[wide.name])
                keep(server.name, wide.name, cell(times, load_per_s(port, request, 2.0 * scale)))
                for model in models if server.grpc_port is not None else ():
                    keep(f"{server.name}, gRPC", model.name, cell(over_grpc(server, model, counts[model.name]), None))
                keep(server.name, ALL, {"pss_mb": server.pss_mb()})  # what it holds once it has worked
    return found


@contextlib.contextmanager
def alone(make: Maker) -> Iterator[Running]:
    """The started server, once it has come to rest; ended afterwards, so that no other computes while one is asked."""
    server = make()
    try:
        server.settle()
        yield server
    finally:
        server.stop()


def over_grpc(server: Running, model: Model, count: int) -> np.ndarray:
    python = Path(__file__).resolve().parent.parent / ".venv-peers/mlserver/bin/python"
    arguments = [str(server.grpc_port), model.name, model.input_name, model.datatype, str(count)]
    done = subprocess.run(
        [str(python), "-c", GRPC_PROBE, *arguments, json.dumps(model.x.shape)],
        check=True,
        capture_output=True,
        text=True,
    )
    return np.array(json.loads(done.stdout))


def medians(found: dict[str, Any]) -> dict[str, Any]:
    return {
        server: {w: {k: statistics.median(v) for k, v in values.items()} for w, values in workloads.items()}
        for server, workloads in found.items()
    }


def targets(table: dict[str, Any]) -> list[tuple[str, float, str, bool]]:
    """(what, figure, bound, kept)."""
    ours = table["qeil"]
    rows = [
        ("tiny, 8 KB: p50 over raw, ms", ours["add1"]["over_raw_p50_ms"], "≤", 0.5),
        ("tiny, 8 KB: p99 over raw, ms", ours["add1"]["over_raw_p99_ms"], "≤", 1.5),
        ("magika: p50 over raw, ratio", ours["magika"]["of_raw"], "≤", 1.25),
        ("ready, s", ours[ALL]["ready_s"], "≤", 1.5),
        ("PSS, MB", ours[ALL]["pss_mb"], "≤", 180.0),
    ]
    peer = table.get("MLServer, in process")
    if peer is not None:
        rows.append(
            ("tiny, 8 KB: answers/s over MLServer in process", ours["add1"]["per_s"] / peer["add1"]["per_s"], "≥", 5.0)
        )
        if "150 KB" in peer:
            rows.append(
                ("150 KB: answers/s over MLServer", ours["150 KB"]["per_s"] / peer["150 KB"]["per_s"], "≥", 8.0)
            )
    return [(w, f, f"{sign} {bound:g}", f <= bound if sign == "≤" else f >= bound) for w, f, sign, bound in rows]


def show(table: dict[str, Any], checks: list[tuple[str, float, str, bool]]) -> None:
    print(f"{'server':<28} {'workload':<9} {'p50 ms':>8} {'p99 ms':>8} {'× raw':>8} {'answers/s, 8 clients':>21}")
    for server, workloads in table.items():
        for workload, v in workloads.items():
            if workload != ALL:
                rate = f"{v['per_s']:.0f}" if "per_s" in v else "–"
                note = " (one loop)" if server == RAW else ""
                of_raw = f"{v['of_raw']:.2f}" if "of_raw" in v else "–"
                figures = f"{v['p50_ms']:>8.3f} {v['p99_ms']:>8.3f} {of_raw:>8} {rate + note:>21}"
                print(f"{server:<28} {workload:<9} {figures}")
    for server, workloads in table.items():
        if whole := workloads.get(ALL):
            print(f"{server}: both models ready after {whole['ready_s']:.2f} s, PSS {whole['pss_mb']:.0f} MB")
    for what, figure, bound, kept in checks:
        print(f"{'√' if kept else '×'} {what}: {figure:.2f} ({bound})")


def makers_of(models: list[Model], folder: Path, peers: list[str], threads: int) -> list[Maker]:
    """The agent's, and those of the peers that install here and come up."""
    makers: dict[str, list[Maker]] = {
        "mlserver": [
            lambda: start_mlserver(models, folder / "mlserver-0", threads, 0),
            lambda: start_mlserver(models, folder / "mlserver-1", threads, 1),
        ],
        "litserve": [lambda: start_litserve(models, folder / "litserve", threads)],
        "pytriton": [lambda: start_pytriton(models, folder / "pytriton", threads)],
    }
    starts = itertools.count()
    agent = lambda: start_agent(models, folder / f"qeil-{next(starts)}")  # noqa: E731 - a first start each time
    return [agent, *(make for peer in peers for make in makers[peer] if comes_up(peer, make))]


def comes_up(peer: str, make: Maker) -> bool:
    """Whether it does (installing it where it must be); else the reason on stderr."""
    try:
        make().stop()
    except (subprocess.CalledProcessError, TimeoutError) as error:
        print(f"left out: {peer}: {error}", file=sys.stderr)
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round, no peers unless named: is it alive?")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--peers", help="comma-separated, or none; default: all, with --quick none")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    named = arguments.peers or ("none" if arguments.quick else ",".join(PEERS))
    peers = [] if named == "none" else named.split(",")
    if unknown := set(peers) - set(PEERS):
        parser.error(f"unknown peers: {', '.join(sorted(unknown))} (known: {', '.join(PEERS)})")
    threads = len(os.sched_getaffinity(0))
    with scratch() as name:
        folder = Path(name)
        models = models_in(folder)
        wide = Model("150 KB", models[0].path, "x", "FP32", np.zeros((1, 37_500), np.float32))
        makers = makers_of(models, folder, peers, threads)
        rounds, scale = (1, 0.2) if arguments.quick else (arguments.rounds, 1.0)
        table = medians(measure(makers, models, wide, rounds, scale))
        checks = targets(table)
        show(table, checks)
        if arguments.json:
            checked = [dict(zip(("what", "figure", "bound", "kept"), c, strict=True)) for c in checks]
            arguments.json.write_text(json.dumps({"threads": threads, "medians": table, "targets": checked}, indent=1))
    return 0 if arguments.quick or all(kept for *_, kept in checks) else 1


def wide_request(server: Running, wide: Model) -> tuple[int, bytes]:
    """The 150 KB body goes to the same tiny model, in the form that the server takes."""
    port, _ = server.requests["add1"]
    if server.name in {"qeil", "PyTriton"}:
        request = binary_request("/v2/models/add1/infer", "x", wide.x, "FP32")
    elif server.name == "LitServe":
        request = base64_request("/predict", wide.x)
    else:
        request = json_request("/v2/models/add1/infer", "x", wide.x, "FP32")
    return port, request


if __name__ == "__main__":
    sys.exit(main())
