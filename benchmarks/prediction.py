"""Predicted against measured: calibrate this machine, then predict models that calibration has not seen.

    python benchmarks/prediction.py [--quick] [--lanes NAME,…] [--json FILE] [--calibrate-only | --calibration FILE]
    python benchmarks/prediction.py --combine FILE…

Every case is predicted before its model is run: models × runtimes × threads. Measured is the median of the fastest
third of all calls through the agent's own lanes, in several rounds over all models, as calibration keeps the fastest
third of its runs: a call that shared its core with something else is only ever slower. The median of all calls is
shown beside it, and how much slower a reference kernel ran then than at its fastest (drift); no figure is corrected
with either. `--lanes` runs a part, `--combine` puts the parts together. Ends with 1 where the median error is above
15 % or the worst above 40 %; `--quick` only shows that everything runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from prediction_models import Case, fresh, generated, installed

from agent.backends.lane import ProcessLane
from agent.errors import QeilError
from agent.placement import costing
from agent.ports import Lane, LaneSpec, LoadSpec
from agent.schema.device import Accelerator, DeviceProfile, Runtime
from agent.schema.workload import Workload
from agent.service import assembly
from agent.service.board import Board, make_board
from agent.service.calibration import calibration
from agent.service.calibration.calibrate_run import calibrate
from agent.service.calibration.calibration import Calibration
from agent.service.clock import SystemClock
from agent.workload.inspect import inspect_in_child
from agent.workload.micro import MicroModel, write_in_child

MEDIAN_LIMIT, WORST_LIMIT = 0.15, 0.40
LOAD_TIMEOUT_S = 300.0
INSPECT_TIMEOUT_S = 120.0
ROUNDS = 3
QUICK_CASES = ("open-nsfw", "face landmark", "magika", "encoder fp32")


@dataclass(frozen=True)
class Prediction:
    """What is said about a case before it runs."""

    case: Case
    accelerator: Accelerator
    runtime: Runtime
    threads: int
    predicted_s: float


@dataclass(frozen=True)
class Result:
    """A case with what came out.

    measured_s: median of the fastest third of all runs; median_s: of all runs, disturbed ones included; drift: the
    reference kernel beside the model over its fastest until then, minus 1, in the best round.
    """

    model: str
    provider: str
    threads: int
    predicted_s: float
    measured_s: float
    median_s: float
    drift: float
    fresh: bool = False

    @property
    def error(self) -> float:
        """Predicted over measured, minus 1."""
        return self.predicted_s / self.measured_s - 1.0


def board_with_every_way(lanes: Sequence[str] = ()) -> Board:
    """The detected board, with OpenVINO on one thread beside what the profile has; only `lanes` where named."""
    profile = assembly.base_profile("auto")
    extra = []
    for accelerator in profile.accelerators:
        runtime = accelerator.runtimes[0] if accelerator.runtimes else None
        if runtime is None or runtime.provider != "OpenVINOExecutionProvider" or accelerator.threads == 1:
            continue
        options = {**runtime.options, "load_config": _one_thread(runtime.options.get("load_config", "{}"))}
        single = runtime.model_copy(update={"options": options})
        update = {"name": f"{accelerator.name}-eco", "threads": 1, "runtimes": (single,)}
        extra.append(accelerator.model_copy(update=update))
    ways = tuple(a for a in (*profile.accelerators, *extra) if not lanes or a.name in lanes)
    if not ways:
        raise SystemExit(f"prediction: none of --lanes {','.join(lanes)}; this machine has "
                         f"{', '.join(a.name for a in (*profile.accelerators, *extra))}")  # fmt: skip
    return make_board(profile.model_copy(update={"accelerators": ways}), (), assembly.named_profile)


def _one_thread(config: str) -> str:
    settings = json.loads(config)
    settings.setdefault("CPU", {})["INFERENCE_NUM_THREADS"] = 1
    return json.dumps(settings)


def predict(board: Board, calibrated: DeviceProfile, cases: Iterable[Case]) -> list[Prediction]:
    """Every case on every accelerator that can run it."""
    found = []
    for case in cases:
        workloads = inspect_in_child(case.path, case.format, case.dims, INSPECT_TIMEOUT_S)
        workload = next(w for w in workloads if w.phase == case.phase)
        for accelerator in calibrated.accelerators:
            if accelerator.kind != "cpu" or costing.cannot_compute(workload, accelerator):
                continue
            runtime = costing.choose_runtime(accelerator, workload.format, _operators(workload))
            if isinstance(runtime, str):
                print(f"{case.name} on {accelerator.name}: not predicted: {runtime}", file=sys.stderr)
                continue
            cost = costing.model_cost(workload, calibrated, accelerator, runtime)
            threads = runtime.threads or board.threads(accelerator)
            found.append(Prediction(case, accelerator, runtime, threads, cost.time_s))
    return found


def _operators(workload: Workload) -> tuple[str, ...]:
    return tuple(sorted({op for stage in workload.stages for op in stage.operators}))


class Bench:
    """Measures through lanes of the agent, a reference kernel beside each model."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._clock = SystemClock()
        self._folder = folder
        self._seconds = seconds
        self._fastest: dict[tuple[str, str], float] = {}
        self._micros, _ = write_in_child(folder, ("onnx", "tflite"))

    def measure(self, accelerator: Accelerator, mine: Sequence[Prediction]) -> list[Result]:
        """All predictions of one accelerator, in a lane of its own."""
        threads = mine[0].threads
        lane = self._lane(accelerator, threads)
        rounds: dict[int, list[tuple[list[float], float]]] = {}
        try:
            for _ in range(ROUNDS):
                for index, item in enumerate(mine):
                    found = self._round(lane, item, threads)
                    rounds.setdefault(index, []).extend([found] if found else [])
                    if not lane.alive():
                        lane = self._lane(accelerator, threads)
        finally:
            lane.stop(2.0)
        return [_result(item, threads, rounds[index]) for index, item in enumerate(mine) if rounds.get(index)]

    def _lane(self, accelerator: Accelerator, threads: int) -> ProcessLane:
        lane = ProcessLane(LaneSpec(accelerator.name, threads), self._clock)
        lane.start(lambda _cause: None)
        return lane

    def _round(self, lane: Lane, item: Prediction, threads: int) -> tuple[list[float], float] | None:
        """(seconds of every run, how much slower the reference beside them was than its fastest so far)."""
        try:
            return self._beside(lane, item, threads)
        except (QeilError, TimeoutError) as error:
            print(f"  {item.case.name} on {item.runtime.provider}: not run: {error}", file=sys.stderr)
            return None

    def _beside(self, lane: Lane, item: Prediction, threads: int) -> tuple[list[float], float]:
        case, reference = item.case, self._reference(item)
        path, feeds = self._folder / reference.file, {"": np.full(reference.inputs[0][1], 0.5, np.float32)}
        beside = fast(self._timed(lane, item.runtime, threads, reference.name, path, case.format, feeds, 0.1))
        key = (item.accelerator.name, case.format)
        self._fastest[key] = min(beside, self._fastest.get(key, beside))
        measured = self._timed(
            lane, item.runtime, threads, case.name, case.path, case.format, case.feeds, self._seconds
        )
        return measured, beside / self._fastest[key] - 1.0

    def _reference(self, item: Prediction) -> MicroModel:
        return next(m for m in self._micros if m.format == item.case.format and m.family == "gemm" and m.flops > 1e7)

    def _timed(
        self,
        lane: Lane,
        runtime: Runtime,
        threads: int,
        name: str,
        path: Path,
        format_: Literal["onnx", "tflite"],
        feeds: dict[str, Any],
        seconds: float,
    ) -> list[float]:
        """Seconds inside the runtime of each call, first ones left out."""
        load = LoadSpec(name.replace(" ", "-"), path, format_, runtime, threads)
        report = lane.load(load, LOAD_TIMEOUT_S).result(LOAD_TIMEOUT_S + 5)
        if runtime.provider not in report.actual:
            raise QeilError(f"ran on {', '.join(report.actual)}")
        inputs = {key or report.inputs[0].name: value for key, value in feeds.items()}
        times: list[float] = []
        end_s = self._clock.monotonic_s() + seconds
        while len(times) < 7 or (self._clock.monotonic_s() < end_s and len(times) < 400):
            now_s = self._clock.monotonic_s()
            lane.renew_permit(now_s + 60.0)
            times.append(lane.submit(load.model, inputs, None, now_s + 60.0).result(60.0).execute_s)
        lane.unload(load.model).result(30.0)
        return times[2:]


def fast(times: Sequence[float]) -> float:
    """Median of the fastest third."""
    return statistics.median(sorted(times)[: max(1, len(times) // 3)])


def _result(item: Prediction, threads: int, rounds: Sequence[tuple[list[float], float]]) -> Result:
    pooled = [seconds for times, _ in rounds for seconds in times]
    drift = min((fast(times), drift) for times, drift in rounds)[1]
    return Result(
        item.case.name, item.runtime.provider, threads, item.predicted_s, fast(pooled), statistics.median(pooled),
        drift, item.case.fresh,
    )  # fmt: skip


def table(rows: Sequence[Result]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| model | runtime | threads | predicted ms | measured ms | error | median ms | drift |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for r in rows:
        name = f"{r.model}{'*' if r.fresh else ''} | {r.provider.removesuffix('ExecutionProvider')}"
        lines.append(
            f"| {name} | {r.threads} | {r.predicted_s * 1e3:.3f} | {r.measured_s * 1e3:.3f} | {r.error:+.0%} | "
            f"{r.median_s * 1e3:.3f} | {r.drift:+.0%} |"
        )
    return "\n".join(lines)


def judged(results: Sequence[Result], took: str) -> int:
    """Print the table and what it comes to; 1 where a limit is missed."""
    print(table(results))
    errors = [abs(r.error) for r in results]
    median, worst = statistics.median(errors), max(errors)
    print(f"\n{len(results)} cases: median error {median:.1%} (limit {MEDIAN_LIMIT:.0%}), worst {worst:.1%} (limit "
          f"{WORST_LIMIT:.0%}); {took}")  # fmt: skip
    new = [abs(r.error) for r in results if r.fresh]
    if new:
        print(f"* {len(new)} cases of models not seen before: median error {statistics.median(new):.1%}, worst "
              f"{max(new):.1%}")  # fmt: skip
    return 1 if median > MEDIAN_LIMIT or worst > WORST_LIMIT else 0


def combined(files: Sequence[Path]) -> int:
    """The parts of a run put together."""
    parts = [json.loads(file.read_text()) for file in files]
    rows = [{k: v for k, v in row.items() if k != "error"} for part in parts for row in part["cases"]]
    return judged([Result(**row) for row in rows], f"all {sum(part['took_s'] for part in parts):.0f} s in parts")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short calibration, few models: a sanity check")
    parser.add_argument("--lanes", default="", metavar="NAME,…", help="only these: a part of the run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the results as JSON too")
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="of an earlier run's --json; none is made")
    parser.add_argument("--calibrate-only", action="store_true", help="write the calibration to --json and end")
    parser.add_argument("--combine", type=Path, nargs="+", metavar="FILE", help="only put parts together")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    if given.combine:
        return combined(given.combine)
    started = time.monotonic()
    board = board_with_every_way([name for name in given.lanes.split(",") if name])
    if given.calibration:
        result = Calibration.model_validate(json.loads(given.calibration.read_text())["calibration"])
    else:
        result = calibrate(board, SystemClock(), given.quick, lambda what, i, n: _progress(f"{i}/{n} {what}"))
    for line in result.refused:
        print(f"calibration: {line}", file=sys.stderr)
    calibrated_s = time.monotonic() - started
    document: dict[str, Any] = {"calibration": result.model_dump(mode="json")}
    if given.calibrate_only:
        print(f"calibration {calibrated_s:.0f} s")
        if given.json:
            given.json.write_text(json.dumps(document, indent=2))
        return 0
    with tempfile.TemporaryDirectory(prefix="qeil-prediction-") as name:
        folder = Path(name)
        cases = installed() + (generated(folder) + fresh() if not given.quick else [])
        predictions = predict(board, calibration.apply(board.profile, result), cases)
        bench = Bench(folder, 0.1 if given.quick else 0.25)
        results: list[Result] = []
        for accelerator in board.profile.accelerators:
            mine = [p for p in predictions if p.accelerator.name == accelerator.name]
            results += bench.measure(accelerator, mine) if mine else []
    took_s = time.monotonic() - started
    status = judged(results, f"calibration {calibrated_s:.0f} s, all {took_s:.0f} s")
    if given.json:
        document |= {"cases": [{**asdict(r), "error": r.error} for r in results], "took_s": took_s}
        given.json.write_text(json.dumps(document, indent=2))
    return 0 if given.quick else status  # so short a calibration shows that everything runs, not how well it predicts


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
