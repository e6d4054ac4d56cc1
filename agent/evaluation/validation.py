"""Validation: predicts every row of a table that can be mapped, and says of every other row why it cannot."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from agent.evaluation.catalogue import Catalogue
from agent.evaluation.forecast import Coefficients
from agent.evaluation.rows import Case, case_of
from agent.evaluation.scores import Score, by_quantity, grouped
from agent.evaluation.table import Measurement
from agent.evaluation.targets import UNITS, Comparison, Quantity, compare
from agent.records import record


@record(frozen=True, slots=True)
class Unmapped:
    """A row without a prediction."""

    row_id: str
    why: str


@record(frozen=True, slots=True)
class Validation:
    """Predictions next to measurements."""

    rows: int
    cases: Mapping[str, Case]
    comparisons: tuple[Comparison, ...]
    unmapped: tuple[Unmapped, ...]
    fitted_rows: frozenset[str] = frozenset()
    """Fingerprints of the measurements that the coefficients were fitted on, of this table or another."""

    def was_fitted(self, row_id: str) -> bool:
        """Whether the fit has seen this row, so that its error says little."""
        return self.cases[row_id].row.fingerprint in self.fitted_rows

    @property
    def mapped(self) -> int:
        """Rows with at least one prediction."""
        return len(self.cases)

    def document(self) -> dict[str, Any]:
        """The document of `qeil validate --json`."""
        return {
            "rows": self.rows,
            "mapped": self.mapped,
            "unmapped": [dataclasses.asdict(item) for item in self.unmapped],
            "unknown_power_modes": [
                {"row_id": row_id, "board": case.site.board, "power_mode": case.site.unknown_mode}
                for row_id, case in self.cases.items()
                if case.site.unknown_mode
            ],
            "summary": _scores(by_quantity(self.comparisons)),
            "fitted_on": {
                "measurements": len(self.fitted_rows),
                "rows_of_this_table": sorted(row_id for row_id in self.cases if self.was_fitted(row_id)),
            },
            "by_fit": self._by_fit(),
            "by_board": self._groups("board"),
            "by_tier": self._groups("tier"),
            "by_task": self._groups("task"),
            "rows_detail": [self._detail(item) for item in self.comparisons],
        }

    def _groups(self, field: str) -> dict[str, Any]:
        groups = grouped(self.comparisons, lambda c: getattr(self.cases[c.row_id].row, field) or "not stated")
        return {name: _scores(scores) for name, scores in groups.items()}

    def _by_fit(self) -> dict[str, Any]:
        names = {True: "rows of the fit", False: "rows the fit has not seen"}
        groups = grouped(self.comparisons, lambda c: names[self.was_fitted(c.row_id)])
        return {name: _scores(scores) for name, scores in groups.items()}

    def _detail(self, item: Comparison) -> dict[str, Any]:
        case = self.cases[item.row_id]
        return {
            "row_id": item.row_id,
            "quantity": item.quantity,
            "unit": UNITS[item.quantity],
            "measured": item.measured,
            "predicted": item.predicted,
            "ape": item.ape,
            "rel_uncertainty": item.rel_uncertainty,
            "provenance": "modelled",
            "fitted": self.was_fitted(item.row_id),
            "tier": case.row.tier,
            "board": case.row.board,
            "device": case.row.device,
            "mapped_board": case.site.board,
            "operating_point": case.site.operating_point,
            "software": case.path,
            "model": case.row.model,
            "statistic": case.statistic if item.quantity == "latency" else None,
            "scope": (case.scope or None) if item.quantity in ("power", "energy") else None,
        }


def validate(
    rows: Sequence[Measurement],
    catalogue: Catalogue,
    coefficients: Coefficients,
    tiers: frozenset[str] | None = None,
) -> Validation:
    """Compare every row, or every row of the given tiers."""
    chosen = [row for row in rows if tiers is None or row.tier in tiers]
    cases: dict[str, Case] = {}
    comparisons: list[Comparison] = []
    unmapped: list[Unmapped] = []
    for row in chosen:
        case = case_of(row, catalogue.hardware, catalogue.architectures)
        if isinstance(case, str):
            unmapped.append(Unmapped(row.row_id, case))
            continue
        cases[row.row_id] = case
        comparisons += compare(case, coefficients)
    return Validation(len(chosen), cases, tuple(comparisons), tuple(unmapped), coefficients.fitted_rows)


def _scores(scores: Mapping[Quantity, Score]) -> dict[str, Any]:
    return {quantity: dataclasses.asdict(score) for quantity, score in scores.items()}
