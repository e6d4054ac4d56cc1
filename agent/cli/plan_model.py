"""Plan model: the document of `qeil plan MODEL --json`, from what was asked to front, choice and what is said of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli.plan_workload import Sizes, Wanted, generated, read_workloads
from agent.errors import BadInput, PlacementError
from agent.placement.state import State
from agent.records import record

if TYPE_CHECKING:
    from agent.placement.fronts import Effort, Front, Placed
    from agent.placement.tables import Tables
    from agent.placement.ways import Way
    from agent.schema.device import DeviceProfile
    from agent.schema.policy import Goal, Policy
    from agent.schema.workload import Workload


@record(frozen=True)
class Ask:
    """What is to be planned. profile, policy: None for those of the settings; points: operating points too."""

    model: str
    profile: str | None = None
    policy: str | None = None
    config: Path | None = None
    wanted: Wanted = "forward"
    sizes: Sizes = field(default_factory=Sizes)
    method: str = "pgsam"
    seed: int = 1
    budget_ms: float | None = None
    state: State = field(default_factory=State)
    points: bool = False
    goal: Goal | None = None
    mode: str | None = None
    """Of a language model's folder; None: its default."""


@record(frozen=True)
class _Case:
    """The ask with everything read. workloads: one for each phase, cut alike."""

    board: DeviceProfile
    policy: Policy
    workloads: tuple[Workload, ...]
    state: State
    tokens: int
    effort: Effort


def plan_model(ask: Ask) -> dict[str, Any]:
    """The document. Raises BadInput for what cannot be understood, PlacementError where nothing fits."""
    from agent.cli.board_choice import about_board, board_and_policy, calibration_notes
    from agent.cli.plan_variants import of_settings
    from agent.placement.fronts import Effort

    board, policy = board_and_policy(ask.profile, ask.policy, ask.config)
    if ask.goal is not None:
        goal = {"goal": ask.goal}
        policy = policy.model_copy(update={"objective": policy.objective.model_copy(update=goal)})
    budget_s = None if ask.budget_ms is None else ask.budget_ms / 1e3
    clock = time.perf_counter if budget_s else None
    effort = Effort(ask.method, ask.seed, budget_s, clock, policy.power_cap_w)
    try:
        ask.state.check(board)
        ask, variants = of_settings(ask, board, policy)
        phases = read_workloads(ask.model, ask.wanted, ask.sizes, ask.mode)
        workloads = _cut(phases)
        case = _Case(board, policy, workloads, ask.state, generated(ask.sizes), effort)
        document = _planned(case, ask.points)
    except ValueError as error:
        raise BadInput(str(error)) from error
    except PlacementError as error:
        raise about_board(error, board, policy, assumed=ask.profile is None) from error
    document["board_from"] = "the settings" if ask.profile is None else "--profile"
    document["notes"] = [*calibration_notes(ask.config, board), *document["notes"]]
    if len(phases) > 1:
        document |= _reasons(ask, phases, board, policy, document["notes"])
    return document | ({"variants": variants} if variants else {})


def _reasons(
    ask: Ask, phases: tuple[Workload, ...], board: DeviceProfile, policy: Policy, notes: list[str]
) -> dict[str, Any]:
    """`phases`: what `qeil explain --phase both` says of each; a note where no accelerator may hold a whole phase."""
    from agent.cli.explain import phase_documents

    try:
        return {"phases": phase_documents(phases, board, policy, ask.state, ask.profile, ask.config)}
    except PlacementError as error:
        notes.append(f"no phase is explained by itself: {error.message}")
        return {"phases": []}


def _cut(workloads: tuple[Workload, ...]) -> tuple[Workload, ...]:
    from agent.placement.phases import aligned

    return aligned(*workloads) if len(workloads) == 2 else workloads


def _planned(case: _Case, points: bool) -> dict[str, Any]:
    """Search; with lost accelerators as an agent would: the board as it was first, then again from there."""
    from dataclasses import replace

    from agent.placement.candidates import check_left
    from agent.placement.fronts import again, search

    for workload in case.workloads:
        check_left(workload, case.board, case.policy, case.state)

    goal, lost = case.policy.objective.goal, sorted(case.state.lost)
    warm = bool(lost) and case.effort.method == "pgsam"
    whole = replace(case, state=replace(case.state, lost=frozenset())) if warm else case
    ways, tables, notes = _possible(whole, *_ways(whole, points))
    began_s = time.perf_counter()
    front = search(ways, tables, case.effort, goal)
    if not warm:
        return _document(case, front, ways, _chosen(front, case.policy), began_s, notes, None)
    before = _chosen(front, case.policy)
    running = front.pool[before[0]]
    lost_s = time.perf_counter()
    after = again(front, ways, lost, case.effort, goal)
    names = {"lost": lost, "from": _stages(case, front, running), "replan_ms": (time.perf_counter() - lost_s) * 1e3}
    return _document(case, after, ways, _chosen(after, case.policy, running), began_s, notes, names)


def _ways(case: _Case, points: bool) -> tuple[tuple[Way, ...], tuple[str, ...]]:
    from agent.placement.candidates import candidates
    from agent.placement.ways import Way, ways

    if not points:
        return (Way(),), ()
    taking_part = {
        c.accelerator.name for w in case.workloads for c in candidates(w, case.board, case.policy, case.state)[0]
    }
    return ways(case.board, sorted(taking_part))


def _possible(
    case: _Case, ways: Sequence[Way], notes: Sequence[str]
) -> tuple[tuple[Way, ...], list[Tables], tuple[str, ...]]:
    """Tables of the ways under which some accelerator is left; the reason of the first where there is none."""
    tried = [(way, _tried(case, way)) for way in ways]
    made = [(way, tables) for way, tables in tried if not isinstance(tables, PlacementError)]
    errors = [error for _, error in tried if isinstance(error, PlacementError)]
    if not made:
        raise errors[0]
    said = (*notes, *(f"one combination of operating points is left out: {error.message}" for error in errors))
    return tuple(way for way, _ in made), [tables for _, tables in made], said


def _tried(case: _Case, way: Way) -> Tables | PlacementError:
    try:
        return _tables(case, way)
    except PlacementError as error:
        return error


def _tables(case: _Case, way: Way) -> Tables:
    from agent.placement.phases import request_tables
    from agent.placement.tables import make_tables

    made = [(w, make_tables(w, case.board, case.policy, state=case.state, points=way.points)) for w in case.workloads]
    if len(made) == 1:
        return made[0][1]
    return request_tables(made[0], made[1], case.tokens, case.board, case.policy, case.state)


def _chosen(front: Front, policy: Policy, running: Placed | None = None) -> tuple[int, str]:
    """Index of the point that the policy wants, and why; the placement that runs stays where nothing is better."""
    from agent.placement.selection import Constraints, Incumbent, select

    limits = Constraints(deadline_s=policy.admission.default_deadline_s, power_cap_w=policy.power_cap_w)
    stays = None if running is None else next((i for i, p in enumerate(front.pool) if _same(p, running)), None)
    rows = front.rows(policy.objective.goal)
    incumbent = None if stays is None else Incumbent((rows[stays][0], rows[stays][1], rows[stays][2]))
    choice = select(
        rows, policy.objective, limits, incumbent, request_s=[p.objectives[1] for p in front.pool]
    )  # fmt: skip
    index = stays if choice.index is None else choice.index
    return index or 0, choice.why


def _same(one: Placed, other: Placed) -> bool:
    return (one.way, one.row) == (other.way, other.row)


def _document(
    case: _Case, front: Front, ways: Sequence[Way], choice: tuple[int, str], began_s: float, notes: Sequence[str],
    replanned: dict[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    elapsed_ms = (time.perf_counter() - began_s) * 1e3
    index, why = choice
    point, first = front.pool[index], case.workloads[0]
    energy_j, latency_s, underutilisation = point.objectives
    said = [note for w in case.workloads for note in w.notes]
    said += [*notes, *(note for t in front.tables for note in t.notes)]
    served = _served(case, front)
    alone = {place for places in front.places(point) for place in places}
    same = len(alone) == 1 and alone == {served["accelerator"]} and not ways[point.way].points
    document = {
        "model": first.model, "phase": "both" if len(case.workloads) > 1 else first.phase, "board": case.board.name,
        "policy": case.policy.name, "goal": case.policy.objective.goal, "method": front.method, "seed": front.seed,
        "elapsed_ms": elapsed_ms, "evaluations": front.evaluations, "exact": front.exact,
        "accelerators": list(front.choices),
        "front": [
            {"objectives": list(p.objectives), "assignment": list(p.assignment), "period_s": p.period_s}
            for p in front.points
        ],
        "chosen": {
            "assignment": list(point.assignment), "stages": _stages(case, front, point), "energy_j": energy_j,
            "latency_s": latency_s, "underutilisation": underutilisation, "period_s": point.period_s,
            "provenance": "modelled", "why": why,
        },
        "served": served | {"same_as_chosen": same},
        "baselines": _baselines(front), "excluded": _excluded(case, front),
        "notes": list(dict.fromkeys(said)),
    }  # fmt: skip
    if len(case.workloads) > 1:
        document["request"] = {"generated_tokens": case.tokens, **_phases(case, ways, point, front)}
    return document if replanned is None else document | {"replanned": replanned}


def _excluded(case: _Case, front: Front) -> list[dict[str, str]]:
    found = dict(front.tables[0].excluded) | dict.fromkeys(sorted(case.state.lost), "it does not answer")
    return [{"accelerator": name, "why": why} for name, why in found.items()]


def _stages(case: _Case, front: Front, point: Placed) -> list[dict[str, str]]:
    """Each stage with its choice, and with the accelerator of either phase where there are two."""
    phases = [w.phase for w in case.workloads]
    return [
        {"stage": stage.name, "accelerator": front.choices[at]}
        | (dict(zip(phases, places, strict=True)) if len(phases) > 1 else {})
        for stage, at, places in zip(case.workloads[0].stages, point.assignment, front.places(point), strict=True)
    ]


def _phases(case: _Case, ways: Sequence[Way], point: Placed, front: Front) -> dict[str, float]:
    """Time to the first token and from one to the next under the chosen placement."""
    from agent.placement.tables import make_tables

    seconds = []
    for phase, workload in enumerate(case.workloads):
        points = ways[point.way].points
        tables = make_tables(workload, case.board, case.policy, state=case.state, points=points)
        names = [places[phase] for places in front.places(point)]
        row = [tables.problem.accelerators.index(name) for name in names]
        seconds.append(float(tables.problem.objectives(row)[0, 1]))
    return {"prefill_s": seconds[0], "token_s": seconds[1], "hand_over_s": _rest(point, seconds, case.tokens)}


def _rest(point: Placed, seconds: Sequence[float], tokens: int) -> float:
    rest_s = point.objectives[1] - seconds[0] - tokens * seconds[1]
    return rest_s if rest_s > 1e-9 * point.objectives[1] else 0.0  # what is left of rounding is no hand-over


def _served(case: _Case, front: Front) -> dict[str, Any]:
    """What `qeil run` would load: the whole model on one accelerator, by the same rule of preference."""
    from agent.placement.candidates import whole_models

    if len(case.workloads) > 1:
        return _served_request(case, front)
    found, rejected = whole_models(case.workloads[0], case.board, case.policy, case.state)
    if not found:
        return {"accelerator": None, "why": "; ".join(f"{name}: {why}" for name, why in rejected)}
    cost = found[0].cost
    others = f"best of {len(found)} placements of the whole model" if len(found) > 1 else "the only one that may run it"
    return {
        "accelerator": cost.accelerator, "energy_j": cost.energy_j, "latency_s": cost.time_s,
        "underutilisation": cost.underutilisation, "provenance": "modelled", "why": others,
        "then": [c.accelerator.name for c in found[1:]],
    }  # fmt: skip


def _served_request(case: _Case, front: Front) -> dict[str, Any]:
    """The same for a request of two phases, from the pairs that have one accelerator for both."""
    from agent.placement.ranking import Option, rank

    tables = front.tables[0]
    options = []
    for at, places in enumerate(tables.places):
        row = [at] * tables.problem.stage_count
        if len(set(places)) == 1 and tables.problem.feasible(row)[0]:
            options.append(Option(places[0], *tables.problem.objectives(row)[0].tolist()))
    if not options:
        return {"accelerator": None, "why": "no accelerator may hold the whole model in both phases"}
    ranked = rank(options, case.policy.objective)
    return {
        "accelerator": ranked[0].name, "energy_j": ranked[0].energy_j, "latency_s": ranked[0].latency_s,
        "underutilisation": ranked[0].underutilisation, "provenance": "modelled",
        "why": f"best of {len(ranked)} placements of the whole model", "then": [o.name for o in ranked[1:]],
    }  # fmt: skip


def _baselines(front: Front) -> dict[str, dict[str, float]]:
    """Greedy and everything on one choice, at full figures."""
    from agent.placement.solve import solve

    tables, found = front.tables[0], {}
    allowed = tables.problem.allowed
    names = [
        name
        for at, name in enumerate(tables.problem.accelerators)
        if len(set(tables.places[at])) == 1 and allowed[:, at].any()
    ]
    for method in ("greedy", *(f"single:{name}" for name in names)):
        try:
            point = solve(tables.problem, method).front[0]
        except PlacementError:
            continue
        period_s = float(tables.pace.period_s(point.assignment)[0])
        found[method] = {"energy_j": point.objectives[0], "latency_s": point.objectives[1], "period_s": period_s}
    return found
