"""Predicted against measured: calibrate this machine, then predict models that calibration has not seen.

    python benchmarks/prediction.py [--quick] [--lanes NAME,…] [--json FILE] [--calibrate-only | --calibration FILE]
    python benchmarks/prediction.py --combine FILE…

Every case is predicted before its model is run: models × runtimes × threads. Measured is the median of the fastest
third of the calls through the agent's own lanes, in several rounds over all models, as calibration keeps the fastest
third of its runs: a call that shared its core with something else is only ever slower. A round counts where a reference
product before and after it took at most 15 % longer than at its fastest, calibration included; models are measured
again until three rounds do, for two minutes at most. Where none does, all count. How many did, the median of all calls
and how much slower the reference was in the best round (drift) are shown; no figure is corrected with them. `--lanes`
runs a part, `--combine` puts the parts together. Ends with 1 where the median error is above 15 % or the worst above
40 %; `--quick` only shows that everything runs.
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
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

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
from agent.service.calibration.steadiness import Reference, Rounds
from agent.service.clock import SystemClock
from agent.workload.inspect import inspect_in_child
from agent.workload.micro import write_in_child

MEDIAN_LIMIT, WORST_LIMIT = 0.15, 0.40
LOAD_TIMEOUT_S = 300.0
INSPECT_TIMEOUT_S = 120.0
ROUNDS, MOST_ROUNDS = 3, 10
"""Rounds over all models of a runtime, and how many more until each model has so many steady ones."""
MORE_S = 120.0
"""No model of a runtime is measured again later than this after its first rounds."""
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

    measured_s: median of the fastest third of the runs that count; median_s: of all that count; drift: the reference
    product beside the model over its fastest, calibration included, minus 1, in the best round; steady: rounds in which
    it was at most 15 % above that. They count; where there is none, all rounds do.
    """

    model: str
    provider: str
    threads: int
    predicted_s: float
    measured_s: float
    median_s: float
    drift: float
    fresh: bool = False
    steady: int = 0

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
    """Measures through lanes of the agent, a reference product before and after each model."""

    def __init__(self, folder: Path, seconds: float, calibrated: Calibration, patient: bool) -> None:
        self._clock = SystemClock()
        self._folder = folder
        self._seconds = seconds
        self._calibrated = calibrated
        self._most = MOST_ROUNDS if patient else ROUNDS
        self._micros, _ = write_in_child(folder, ("onnx", "tflite"))

    def measure(self, accelerator: Accelerator, mine: Sequence[Prediction]) -> list[Result]:
        """All predictions of one accelerator, a runtime at a time."""
        results: list[Result] = []
        for runtime in dict.fromkeys(item.runtime.provider for item in mine):
            results += self._runtime(accelerator, [item for item in mine if item.runtime.provider == runtime])
        return results

    def _runtime(self, accelerator: Accelerator, mine: Sequence[Prediction]) -> list[Result]:
        by_name = {item.case.name: item for item in mine}
        rounds = Rounds(self._reference_s(accelerator, mine[0].runtime))
        lane = _Beside(self, accelerator, mine[0])
        names, until_s = list(by_name), 0.0
        try:
            for turn in range(self._most):
                if turn == ROUNDS:
                    until_s = self._clock.monotonic_s() + MORE_S
                if turn >= ROUNDS:
                    names = rounds.wanting(names, ROUNDS)
                for name in names:
                    if turn < ROUNDS or self._clock.monotonic_s() < until_s:
                        lane.measure(by_name[name], rounds)
        finally:
            lane.stop()
        return [_result(item, rounds) for item in mine if rounds.counted(item.case.name)]

    def _reference_s(self, accelerator: Accelerator, runtime: Runtime) -> float | None:
        """How long the reference took while this runtime was calibrated."""
        return next((k.reference_s for k in self._calibrated.kernel_times
                     if (k.accelerator, k.provider) == (accelerator.name, runtime.provider)), None)  # fmt: skip

    def lane(self, accelerator: Accelerator, item: Prediction) -> tuple[ProcessLane, Reference]:
        """A new process with the reference loaded."""
        lane = ProcessLane(LaneSpec(accelerator.name, item.threads), self._clock)
        lane.start(lambda _cause: None)
        mine = [m for m in self._micros if m.format == item.case.format]
        return lane, Reference(lane, self._clock, item.runtime, item.threads, mine, self._folder)

    def timed(self, lane: Lane, item: Prediction) -> list[float]:
        """Seconds inside the runtime of each call, first ones left out."""
        case, runtime = item.case, item.runtime
        load = LoadSpec(case.name.replace(" ", "-"), case.path, case.format, runtime, item.threads)
        report = lane.load(load, LOAD_TIMEOUT_S).result(LOAD_TIMEOUT_S + 5)
        if runtime.provider not in report.actual:
            raise QeilError(f"ran on {', '.join(report.actual)}")
        inputs = {key or report.inputs[0].name: value for key, value in case.feeds.items()}
        times: list[float] = []
        end_s = self._clock.monotonic_s() + self._seconds
        while len(times) < 7 or (self._clock.monotonic_s() < end_s and len(times) < 400):
            now_s = self._clock.monotonic_s()
            lane.renew_permit(now_s + 60.0)
            times.append(lane.submit(load.model, inputs, None, now_s + 60.0).result(60.0).execute_s)
        lane.unload(load.model).result(30.0)
        return times[2:]


class _Beside:
    """A lane with a reference in it, and a new one where it dies."""

    def __init__(self, bench: Bench, accelerator: Accelerator, item: Prediction) -> None:
        self._bench, self._accelerator = bench, accelerator
        self._lane, self._reference = bench.lane(accelerator, item)

    def measure(self, item: Prediction, rounds: Rounds) -> None:
        """One round of a case; where its process ends, once more in a new one."""
        if not self._ran(item, rounds) and not self._lane.alive():
            self._lane, self._reference = self._bench.lane(self._accelerator, item)
            if not self._ran(item, rounds) and not self._lane.alive():
                self._lane, self._reference = self._bench.lane(self._accelerator, item)

    def _ran(self, item: Prediction, rounds: Rounds) -> bool:
        try:
            before_s = self._reference.seconds()
            times = self._bench.timed(self._lane, item)
            rounds.add(item.case.name, times, before_s, self._reference.seconds())
        except (QeilError, TimeoutError) as error:
            print(f"  {item.case.name} on {item.runtime.provider}: not run: {error}", file=sys.stderr)
            return False
        return True

    def stop(self) -> None:
        """End the process."""
        self._lane.stop(2.0)


def fast(times: Sequence[float]) -> float:
    """Median of the fastest third."""
    return statistics.median(sorted(times)[: max(1, len(times) // 3)])


def _result(item: Prediction, rounds: Rounds) -> Result:
    counted, name = rounds.counted(item.case.name), item.case.name
    pooled = [seconds for round_ in counted for seconds in round_.times_s]
    return Result(
        name, item.runtime.provider, item.threads, item.predicted_s, fast(pooled), statistics.median(pooled),
        rounds.slowness(name), item.case.fresh, len(rounds.steady(name)),
    )  # fmt: skip


def table(rows: Sequence[Result]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| model | runtime | threads | predicted ms | measured ms | error | median ms | drift | steady rounds |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for r in rows:
        name = f"{r.model}{'*' if r.fresh else ''} | {r.provider.removesuffix('ExecutionProvider')}"
        lines.append(
            f"| {name} | {r.threads} | {r.predicted_s * 1e3:.3f} | {r.measured_s * 1e3:.3f} | {r.error:+.0%} | "
            f"{r.median_s * 1e3:.3f} | {r.drift:+.0%} | {r.steady} |"
        )
    return "\n".join(lines)


def judged(results: Sequence[Result], took: str) -> int:
    """Print the table and what it comes to; 1 where a limit is missed."""
    print(table(results))
    errors = [abs(r.error) for r in results]
    median, worst = statistics.median(errors), max(errors)
    print(f"\n{len(results)} cases: median error {median:.1%} (limit {MEDIAN_LIMIT:.0%}), worst {worst:.1%} (limit "
          f"{WORST_LIMIT:.0%}); {took}")  # fmt: skip
    if rough := sum(r.steady == 0 for r in results):
        print(f"{rough} cases had no round in which the machine was as fast as during calibration")
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
        bench = Bench(folder, 0.1 if given.quick else 0.25, result, not given.quick)
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
