"""What benchmark figures are relative to: the exact front, or the union of long searches, kept in a folder.

A search that is measured for a second must not be its own yardstick, so each reference is searched for `SEARCH_S`
seconds of processor time with each of `SEEDS`, with an archive several times larger than the default.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agent.placement.exact import exact_front
from agent.placement.pareto import Archive
from agent.placement.pgsam import Search
from agent.placement.problem import Problem
from agent.placement.tuning import Tuning

SEEDS = (9001, 9002)
SEARCH_S = 25.0
MEMBERS = 40_000
COMPARISONS = 1_500_000_000
_KNOWN_EFFORT = 100_000_000


@dataclass(frozen=True, eq=False)
class Reference:
    """The best known objectives [n, 3] of a problem."""

    points: np.ndarray
    exact: bool


def reference(problem: Problem, search_s: float = SEARCH_S) -> Reference:
    """The reference of a problem, from the folder if it is there."""
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in problem.arrays().values()))
    file = folder() / f"{digest.hexdigest()[:32]}-{search_s:g}.npz"
    if file.is_file():
        with np.load(file) as kept:
            return Reference(kept["points"], bool(kept["exact"]))
    found = _find(problem, search_s)
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, points=found.points, exact=found.exact)
    return found


def folder() -> Path:
    """Where references are kept."""
    return Path(tempfile.gettempdir()) / "qeil-placement-references"


def _find(problem: Problem, search_s: float) -> Reference:
    short = Search(problem, SEEDS[0])
    while short.effort < _KNOWN_EFFORT:
        short.step(short.effort / _KNOWN_EFFORT)
    known = (short.archive.points, short.archive.assignments)
    proof = exact_front(problem, comparison_limit=COMPARISONS, known=known, paced=True)
    if proof.complete:
        return Reference(proof.points, True)
    best = Archive(problem.stage_count, limit=1 << 30)
    best.merge(*known)
    for seed in SEEDS:
        search = Search(problem, seed, tuning=Tuning(archive_limit=MEMBERS))
        begun_s = time.process_time()
        while (used := (time.process_time() - begun_s) / search_s) < 1.0:
            search.step(used)
        best.merge(search.archive.points, search.archive.assignments)
    return Reference(best.points, False)
