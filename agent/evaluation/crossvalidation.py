"""Cross-validation: what the fit would have said of rows it has not seen.

    python -m agent.evaluation.crossvalidation MEASUREMENTS.csv

Ways to hold rows back: at random, whole cells (one model on one board with one software path), whole pairs (one model
on one board with any software), whole power modes of a board, whole boards – these by family of silicon too.
Terms and levels were kept or dropped by these errors; the stated uncertainties are scaled by those of the pairs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from agent.errors import QeilError
from agent.evaluation.catalogue import load_catalogue
from agent.evaluation.fitting import cases, fit
from agent.evaluation.rows import Case
from agent.evaluation.scores import Score, by_quantity, grouped
from agent.evaluation.table import read_table
from agent.evaluation.targets import Comparison, Quantity, compare

FOLDS = 4
COVERAGE = 0.68
"""Share of held-out measurements that the stated ± should contain: one standard deviation."""


def at_random(case: Case) -> str:
    """Every row by itself."""
    return case.row.row_id


def by_cell(case: Case) -> str:
    """A model on a board with a software path: unseen there, perhaps seen elsewhere."""
    return f"{case.path}/{case.row.board}/{case.row.device}/{case.row.model}"


def by_pair(case: Case) -> str:
    """A model on a board, whatever the software: what people ask who have the board but not the model's figures."""
    return f"{case.site.board}/{case.row.device}/{case.model}"


def by_mode(case: Case) -> str:
    """A power mode of a board."""
    return f"{case.site.board}/{case.site.operating_point}"


def by_board(case: Case) -> str:
    """A whole board."""
    return case.site.board


SCHEMES: dict[str, Callable[[Case], str]] = {
    "rows": at_random,
    "cells": by_cell,
    "pairs": by_pair,
    "modes": by_mode,
    "boards": by_board,
}


def held_out(known: Sequence[Case], group_of: Callable[[Case], str], folds: int, seed: int) -> list[Comparison]:
    """Predictions of every case by fits that did not see its group; groups are dealt to `folds` folds."""
    groups = sorted({group_of(case) for case in known})
    dealt = np.random.default_rng(seed).permutation(len(groups)) % folds
    fold_of = dict(zip(groups, dealt.tolist(), strict=True))
    found: list[Comparison] = []
    for fold in range(folds):
        seen = [case for case in known if fold_of[group_of(case)] != fold]
        unseen = [case for case in known if fold_of[group_of(case)] == fold]
        if seen and unseen:
            coefficients = fit(seen)
            found += [item for case in unseen for item in compare(case, coefficients)]
    return found


def uncertainty_factor(held: Sequence[Comparison], coverage: float = COVERAGE) -> float:
    """What the stated spreads must be multiplied by so that `coverage` of the held-out measurements lie inside."""
    ratios = [abs(np.log(item.predicted / item.measured)) / item.rel_uncertainty for item in held]
    return float(np.quantile(ratios, coverage)) if ratios else 1.0


def _line(name: str, scores: Mapping[Quantity, Score]) -> str:
    cells = [f"{q} {100 * s.median_ape:.1f} % (n {s.n})" for q, s in scores.items() if s.median_ape is not None]
    return f"{name:22s} {', '.join(cells)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m agent.evaluation.crossvalidation`: median errors of each scheme by tier."""
    parser = argparse.ArgumentParser(
        prog="python -m agent.evaluation.crossvalidation", description="Errors on rows the fit has not seen."
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--folds", type=int, default=FOLDS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scheme", action="append", choices=tuple(SCHEMES), help="only this way; may be repeated")
    options = parser.parse_args(arguments)
    try:
        known = cases(read_table(options.table), load_catalogue())
    except QeilError as error:
        sys.stderr.write(f"crossvalidation: {error.message}\n")
        return 1
    tiers = {case.row.row_id: case.row.tier for case in known}
    kin = {case.row.row_id: case.site.accelerator.kin for case in known}
    board = {case.row.row_id: case.site.board for case in known}
    for name in options.scheme or SCHEMES:
        group_of = SCHEMES[name]
        folds = len({group_of(case) for case in known}) if name == "boards" else options.folds
        held = held_out(known, group_of, folds, options.seed)
        trusted = [item for item in held if tiers[item.row_id] in ("A", "A-", "B")]
        sys.stdout.write(_line(f"{name}, all tiers", by_quantity(held)) + "\n")
        sys.stdout.write(_line(f"{name}, tiers A A- B", by_quantity(trusted)) + "\n")
        if name == "boards":
            for family, scores in grouped(held, lambda item: kin[item.row_id]).items():
                sys.stdout.write(_line(f"  {family}", scores) + "\n")
            for site, scores in grouped(held, lambda item: board[item.row_id]).items():
                sys.stdout.write(_line(f"    {site}", scores) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
