"""What batches cost: strategies on a recorded run, were a batch to cost so many samples beside its own.

`python benchmarks/sampling_batches.py [RUN]` prints the cost of each as a share of all 16 samples in one batch: by the
overhead of a batch in samples, the last one as the recording has it (`agent.evaluation.questions.pricing`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from agent.evaluation.questions import document, generated, pricing, reading
from agent.evaluation.questions.journal import recorded
from agent.evaluation.questions.scoring import Answered
from agent.sampling.strategy import Progress, Sample, Strategy, decide

RUN = Path(__file__).parent / "data" / "sampling" / "additions-2027"
SAMPLES = 16
DEFAULT = Strategy("csvet", SAMPLES, certify="majority")
WORTH = Strategy("csvet", SAMPLES, certify="majority", worth_samples=800.0)
STRATEGIES = {
    "csvet, majority of 16": (DEFAULT, ()), "the same, batches of 8 and 8": (DEFAULT, (8, 8)),
    "worth 800 samples": (WORTH, ()), "that, batches of 8 and 8": (WORTH, (8, 8)),
}  # fmt: skip


def drawn(strategy: Strategy, pool: Sequence[Sample], sizes: Sequence[int]) -> tuple[int, int]:
    """Samples and batches until the strategy stops; in batches of its own where no sizes are given."""
    progress, batches = Progress(), 0
    while (wanted := decide(strategy, progress).next_samples) and len(progress.samples) < len(pool):
        size = sizes[batches] if batches < len(sizes) else wanted
        progress = progress.add(*pool[len(progress.samples) : len(progress.samples) + size])
        batches += 1
    return len(progress.samples), batches


def share(results: Sequence[Answered], strategy: Strategy, sizes: Sequence[int], overhead: float) -> float:
    """Cost of the strategy, of that of all samples as one batch."""
    runs = [drawn(strategy, result.pool, sizes) for result in results]
    return sum(samples + overhead * batches for samples, batches in runs) / (len(runs) * (SAMPLES + overhead))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", type=Path, default=RUN)
    parser.add_argument("--quick", action="store_true", help="the same: it takes a second")
    run = recorded(parser.parse_args().run)
    task, _, seed = str(run.header["dataset"]).rpartition("-")
    lines = next(
        (generated.lines(t, int(run.header["questions"]), int(seed)) for t in generated.TASKS if t == task), None
    )
    if lines is None:
        raise SystemExit(f"the run is of {run.header['dataset']}, which is no generated set")
    asked = reading.parsed(run.header["dataset"], lines)
    results = document.answered(asked, run, SAMPLES)
    base_j, each_j = pricing.line(results)
    overheads = (0.0, 4.0, base_j / each_j)
    print(
        f"a batch: {base_j:.2f} J and {each_j:.2f} J a sample; all {SAMPLES} at once {base_j + SAMPLES * each_j:.1f} J"
    )
    print(f"{'overhead of a batch in samples':32}" + "".join(f"{overhead:9.1f}" for overhead in overheads))
    for name, (strategy, sizes) in STRATEGIES.items():
        print(f"{name:32}" + "".join(f"{share(results, strategy, sizes, o):9.0%}" for o in overheads))


if __name__ == "__main__":
    main()
