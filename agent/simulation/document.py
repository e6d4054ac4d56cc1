"""Document: a simulated scenario as plain data, the one source of what is printed, drawn and written as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from agent.records import record
from agent.schema.scenario import Assumption, Scenario
from agent.simulation.answers import answers
from agent.simulation.claims import Mean, Verdict, mean_change, verdicts
from agent.simulation.coefficients import Coefficient
from agent.simulation.comparison import REQUEST, BoardResult, CaseResult, Progress, compare
from agent.simulation.experiment import experiment
from agent.simulation.explanation import explain
from agent.simulation.growth import growth
from agent.simulation.references import Resolved
from agent.simulation.sensitivity import Swing, swings
from agent.simulation.uncertainty import BoardSpread, Spread, board_spread

PROVENANCE = "modelled"


def simulate(resolved: Resolved, progress: Progress) -> dict[str, Any]:
    """Everything a scenario asks for. The same scenario, seed and search_evaluations give the same document."""
    scenario = resolved.scenario
    boards = compare(resolved, progress)
    return {
        "scenario": scenario.name, "title": scenario.title, "kind": scenario.kind, "policy": resolved.policy.name,
        "seed": scenario.seed, "search_evaluations": scenario.search_evaluations, "baseline": scenario.baseline,
        "placements": list(scenario.placements), "provenance": PROVENANCE,
        "boards": [
            _board(resolved, board, progress) if board.profile in resolved.profiles else _beside(scenario, board)
            for board in boards
        ],
        "answers": [row for board in boards for row in answers(scenario, board)],
        "means": [mean for board in boards for mean in _means(scenario, board)],
        "experiment": experiment(resolved, boards, progress),
    }  # fmt: skip


def _means(scenario: Scenario, board: BoardResult) -> list[dict[str, Any]]:
    """Mean changes over the models, by phase and placement: the comparison in a few lines."""
    phases = dict.fromkeys([*(w.phase for c in board.cases for w in c.case.passes), REQUEST])
    found = []
    for phase in phases:
        for placement in scenario.placements:
            energy = mean_change(board, placement, scenario.baseline, "energy", phase)
            latency = mean_change(board, placement, scenario.baseline, "latency", phase)
            found.append({
                "board": board.profile.name, "phase": phase, "placement": placement, "energy_change": _mean(energy),
                "latency_change": _mean(latency), "models": len(board.cases), "provenance": PROVENANCE,
            })  # fmt: skip
    return found


def _board(resolved: Resolved, board: BoardResult, progress: Progress) -> dict[str, Any]:
    scenario = resolved.scenario
    spread = board_spread(
        board, resolved.policy, scenario.baseline, _Steps(progress, board, "how certain", lambda c: c.name)
    )
    found: tuple[Swing, ...] = ()
    if scenario.sensitivity is not None:
        found = swings(
            board, resolved.policy, scenario.sensitivity.assumptions, scenario.sensitivity.placement,
            scenario.baseline, _Steps(progress, board, "what if", lambda a: a.vary),
        )  # fmt: skip
    judged = verdicts(board, scenario.claims)
    return {
        "board": board.profile.name, "title": board.profile.title, "beside": False,
        "rows": [row for c, s in zip(board.cases, spread.spreads, strict=True) for row in _rows(scenario, c, s)],
        "claims": [_claim(verdict, spread, scenario.baseline) for verdict in judged],
        "sensitivity": [_swing(swing) for swing in found],
        "growth": [asdict(law) | {"provenance": PROVENANCE} for law in growth(board, scenario.placements)],
        "coefficients": {"stated": spread.stated, "unstated": spread.unstated, "assumed": spread.assumed},
        "explanation": explain(scenario, board, judged, spread, found),
        "notes": _notes(board),
    }  # fmt: skip


def _beside(scenario: Scenario, board: BoardResult) -> dict[str, Any]:
    """A board that is compared only: the same keys, with nothing where nothing was computed."""
    unknown = BoardSpread(tuple({} for _ in board.cases), {}, 0, 0, 0)
    return {
        "board": board.profile.name, "title": board.profile.title, "beside": True,
        "rows": [row for case in board.cases for row in _rows(scenario, case, {})],
        "claims": [_claim(verdict, unknown, scenario.baseline) for verdict in verdicts(board, scenario.claims)],
        "sensitivity": [], "growth": [], "coefficients": None, "explanation": [], "notes": _notes(board),
    }  # fmt: skip


def _notes(board: BoardResult) -> list[str]:
    return sorted({note for case in board.cases for p in case.placed if p.tables for note in p.tables.notes})


@record(frozen=True)
class _Steps:
    """Progress of work whose number of steps is not known beforehand."""

    progress: Progress
    board: BoardResult
    what: str
    name: Callable[[Any], str]

    def __call__(self, item: Coefficient | Assumption) -> None:
        self.progress(f"{self.board.profile.name}: {self.what}, {self.name(item)}", 0, 0)


def _rows(scenario: Scenario, result: CaseResult, spreads: dict[tuple[str, str], Spread]) -> list[dict[str, Any]]:
    phases = [*(w.phase for w in result.case.passes)]
    whole = [REQUEST] if len(phases) > 1 or result.case.repeats(phases[0]) > 1 else []
    return [
        _row(scenario, result, (phase, placement), spreads.get((phase, placement)))
        for phase in (*phases, *whole)
        for placement in scenario.placements
    ]


def _row(scenario: Scenario, result: CaseResult, key: tuple[str, str], spread: Spread | None) -> dict[str, Any]:
    phase, placement = key
    asked, cost = result.case.asked, result.costs.get(key)
    exact = all(p.exact for p in result.placed if phase in (REQUEST, p.workload.phase))
    row: dict[str, Any] = {
        "model": result.case.label, "phase": phase, "placement": placement, "prompt_tokens": asked.prompt_tokens,
        "generated_tokens": asked.generated_tokens, "batch": asked.batch, "feasible": cost is not None,
        "why_not": None if cost is not None else result.why[key],
    }  # fmt: skip
    if cost is None:
        return row
    return row | {
        "energy_j": cost.energy_j, "latency_s": cost.latency_s, "power_w": cost.power_w, "provenance": PROVENANCE,
        "energy_rel_uncertainty": spread.energy if spread else None,
        "latency_rel_uncertainty": spread.latency if spread else None,
        "energy_change": result.change(key, scenario.baseline, "energy"),
        "latency_change": result.change(key, scenario.baseline, "latency"),
        "energy_change_uncertainty": spread.energy_change if spread else None,
        "latency_change_uncertainty": spread.latency_change if spread else None,
        "accelerators": list(result.accelerators(phase, placement)), "front_exact": exact,
    }  # fmt: skip


def _claim(verdict: Verdict, spread: BoardSpread, baseline: str) -> dict[str, Any]:
    claim = verdict.claim
    column = 0 if claim.quantity == "energy" else 1
    known = spread.mean_changes.get(claim.placement, (None, None)) if claim.relative_to == baseline else (None, None)
    return {
        "quantity": claim.quantity, "claimed_change": claim.change, "placement": claim.placement,
        "relative_to": claim.relative_to, "source": claim.source, "modelled": _mean(verdict.ours),
        "uncertainty": known[column], "bound": _mean(verdict.bound), "met": verdict.met, "provenance": PROVENANCE,
    }  # fmt: skip


def _mean(mean: Mean | None) -> dict[str, Any] | None:
    return None if mean is None else {"mean": mean.mean, "low": mean.low, "high": mean.high, "models": mean.count}


def _swing(swing: Swing) -> dict[str, Any]:
    return {
        "vary": swing.assumption.vary, "low": swing.assumption.low, "high": swing.assumption.high,
        "why": swing.assumption.why, "energy_change": list(swing.energy), "latency_change": list(swing.latency),
        "unaffected": swing.unaffected,
    }  # fmt: skip
