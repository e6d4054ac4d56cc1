"""What prompt, step and row cost, and what strategies take of a recorded run where questions share the decoder's rows.

    python benchmarks/sampling_costs.py [--folder FOLDER] [--costs PROMPT STEP ROW] [--run RUN] [--quick]

With a decoder folder (`qeil models import`) the core seconds of a prompt, of a decode step and of each of its rows are
measured on one thread, the least of several rounds. With them, or with those given by --costs, the recorded pools are
replayed as the decoder would run them: 16 rows, questions in flight side by side, a step shared evenly by the rows that
take it, a prompt computed once (`kept`) or for every batch (`again`). Joules would be these seconds times the watts of
each phase, so shares are of seconds. Token counts are those recorded; nothing is drawn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent.evaluation.questions import document, generated, reading
from agent.evaluation.questions.journal import recorded
from agent.evaluation.questions.scoring import Answered
from agent.llm.engine import Engine, Finished, Job
from agent.sampling.strategy import Progress, Strategy, decide

RUN = Path(__file__).parent / "data" / "sampling" / "additions-2027"
SAMPLES, ROWS, PARALLEL = 16, 16, (1, 8)
SIZES = (1, 2, 4, 8, 16)
MEASURED = (0.194, 0.0267, 0.0058)
"""Of SmolLM2-135M-Instruct (Q4_1, fast) on one of two shared cores; what is replayed where nothing is said."""
ASKED = "What is 17 + 5? Answer with a number."
STRATEGIES = {
    "majority of 16": Strategy("majority", SAMPLES),
    "csvet, majority of 16": Strategy("csvet", SAMPLES, certify="majority"),
    "the same, worth 800 samples": Strategy("csvet", SAMPLES, certify="majority", worth_samples=800.0),
    "Beta(0.95)": Strategy("beta", SAMPLES),
}


@dataclass(frozen=True)
class Costs:
    """Core seconds: of a prompt, of a decode step beside its rows, of each row in it."""

    prompt_s: float
    step_s: float
    row_s: float


def measured(folder: Path, rounds: int) -> Costs:
    """By the engine that serves, on one thread, prompts of the recorded run's kind; fast mode."""
    from agent.llm.chat import render  # noqa: PLC0415
    from agent.llm.folder import open_folder  # noqa: PLC0415
    from agent.llm.row import Prompt  # noqa: PLC0415
    from agent.llm.session import DecoderSession  # noqa: PLC0415

    decoder = open_folder(folder)
    mode = "fast" if "fast" in decoder.graphs else None
    engine = Engine(DecoderSession(decoder, threads=1, mode=mode), rows=ROWS, context=256, clock=time.process_time)
    ids = tuple(decoder.encode(render(decoder, [{"role": "user", "content": ASKED}]), special=False))
    prompts, points = [], []
    for size in SIZES:
        spent = []
        for _ in range(rounds + 1):
            engine.add(Job(1, Prompt(ids, 10, size, through_end=True), tuple(range(size))))
            while not engine.idle:
                spent += [event.usage for event in engine.turn() if isinstance(event, Finished)]
        prompts += [usage.prefill_s for usage in spent[1:]]
        best = min(spent[1:], key=lambda usage: usage.decode_s)
        points.append((size, best.decode_s / best.steps))
        print(f"{size:3} rows: prompt {min(u.prefill_s for u in spent[1:]):.3f} s, step {points[-1][1] * 1e3:.1f} ms")
    row_s, step_s = statistics.linear_regression(*zip(*points, strict=True))
    return Costs(min(prompts), max(0.0, step_s), row_s)


@dataclass(eq=False)
class _Open:
    """A question under way: its pool, what it has drawn, rows that still write."""

    pool: Answered
    progress: Progress = field(default_factory=Progress)
    drawing: int = 0
    left: list[int] = field(default_factory=list)


def seconds_each(results: Sequence[Answered], strategy: Strategy, costs: Costs, parallel: int, kept: bool) -> float:
    """Mean core seconds of a question where so many are in flight, steps in shares of their rows."""
    coming, under_way, waiting = deque(results), 0, deque[_Open]()
    places: list[_Open] = []
    total_s = 0.0
    while coming or waiting or places:
        while coming and under_way < parallel:
            waiting.append(_next(_Open(coming.popleft()), strategy))
            under_way += 1
        while waiting and len(places) + waiting[0].drawing <= ROWS:
            question = waiting.popleft()
            total_s += costs.prompt_s if not kept or not question.progress.samples else 0.0
            start = len(question.progress.samples)
            drawn = question.pool.pool[start : start + question.drawing]
            question.left = [max(1, sample.tokens - 1) for sample in drawn]  # the prompt gives the first token
            places += [question] * len(question.left)
        if places:
            total_s += costs.step_s + costs.row_s * len(places)
        for question in dict.fromkeys(places):
            question.left = [steps - 1 for steps in question.left if steps > 0]
            if any(question.left):
                continue
            start = len(question.progress.samples)
            question.progress = question.progress.add(*question.pool.pool[start : start + question.drawing])
            if _next(question, strategy).drawing:
                waiting.append(question)
            else:
                under_way -= 1
        places = [q for q in dict.fromkeys(places) for steps in q.left if steps > 0]
    return total_s / len(results)


def _next(question: _Open, strategy: Strategy) -> _Open:
    question.drawing = decide(strategy, question.progress).next_samples
    return question


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, help="measure the costs of this decoder")
    parser.add_argument("--costs", type=float, nargs=3, metavar=("PROMPT", "STEP", "ROW"), help="core seconds of each")
    parser.add_argument("--run", type=Path, default=RUN)
    parser.add_argument("--quick", action="store_true", help="one round of measuring, 50 questions")
    given = parser.parse_args()
    if given.folder is None and given.costs is None:
        given.costs = MEASURED
    costs = measured(given.folder, 1 if given.quick else 5) if given.folder is not None else Costs(*given.costs)
    print(
        f"prompt {costs.prompt_s:.3f} s, step {costs.step_s * 1e3:.1f} ms, each of its rows {costs.row_s * 1e3:.1f} ms"
    )
    run = recorded(given.run)
    task, _, seed = str(run.header["dataset"]).rpartition("-")
    lines = generated.lines(task, int(run.header["questions"]), int(seed))  # type: ignore[arg-type]
    results = document.answered(reading.parsed(run.header["dataset"], lines), run, SAMPLES)
    results = results[:50] if given.quick else results
    for parallel in PARALLEL:
        print(f"\n{len(results)} questions, {parallel} in flight, {ROWS} rows; share of the majority's in one batch")
        whole_s = seconds_each(results, STRATEGIES["majority of 16"], costs, parallel, kept=True)
        for name, strategy in STRATEGIES.items():
            again, kept = (seconds_each(results, strategy, costs, parallel, kept=keeps) for keeps in (False, True))
            print(
                f"{name:28} prompt again {again:.2f} s {again / whole_s:5.0%}, kept {kept:.2f} s {kept / whole_s:5.0%}"
            )


if __name__ == "__main__":
    main()
