"""`qeil plan`: the Pareto front of placements of a model – on this board, or on one that you do not have."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.tables import dash, print_table
from agent.errors import BadInput, PlacementError

if TYPE_CHECKING:
    from agent.placement.solve import Result
    from agent.placement.tables import Tables
    from agent.schema.device import DeviceProfile
    from agent.schema.policy import Policy
    from agent.schema.workload import Phase, Workload

MAX_ROWS = 20
MAX_NOTES = 6


@click.command("plan")
@click.argument("model", required=False)
@click.option("--problem", type=click.Path(path_type=Path), help="your own cost tables (.npz) instead of a model")
@click.option("--profile", default="auto", show_default=True, help="board: auto, a shipped profile's name, or a path")
@click.option("--policy", default="balanced", show_default=True, help="a shipped policy's name, or a path")
@click.option("--phase", type=click.Choice(["forward", "prefill", "decode"]), default="forward", show_default=True)
@click.option("--method", default="pgsam", show_default=True, help="pgsam, exact, greedy, random or single:NAME")
@click.option("--seed", default=1, show_default=True, help="same seed, same front")
@click.option("--budget-ms", type=click.FloatRange(1, 600_000), help="time to search; default: a fixed effort")
@click.option("--config", type=click.Path(path_type=Path), help="settings, for the calibration in their state folder")
@click.option("--plot", type=click.Path(path_type=Path), help="draw the front (.svg or .png)")
@click.option("--json", "as_json", is_flag=True, help="the front as JSON")
def plan_command(
    model: str | None, problem: Path | None, profile: str, policy: str, phase: Phase, method: str, seed: int,
    budget_ms: float | None, config: Path | None, plot: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Search placements of MODEL (a .onnx or .tflite file, or a well-known workload by name)."""
    if (model is None) == (problem is None):
        raise click.UsageError("give a MODEL or --problem FILE.npz")
    if problem is not None:
        from agent.cli.plan_problem import plan_problem

        document = plan_problem(problem, seed, method, budget_ms)
        if plot is not None:
            from agent.cli.plan_plot import draw

            draw(document, plot)
        if as_json:
            click.echo(json.dumps(document))
        else:
            _print_front(document, None)
        return
    assert model is not None  # noqa: S101  (checked above)
    document = plan_model(model, profile, policy, phase, method, seed, budget_ms, config)
    if plot is not None:
        from agent.cli.plan_plot import draw

        draw(document, plot)
    if as_json:
        click.echo(json.dumps(document))
        return
    _print_model(document)


def plan_model(
    model: str, profile: str, policy: str, phase: Phase, method: str, seed: int, budget_ms: float | None,
    config: Path | None,
) -> dict[str, Any]:  # fmt: skip
    """The document of `qeil plan MODEL --json`."""
    from agent.placement.tables import make_tables
    from agent.service import assembly, calibration, configuration
    from agent.storage import share, yaml_files

    settings = configuration.load_settings(config, {}, dict(os.environ))
    board = calibration.apply_saved(assembly.base_profile(profile), settings.state_dir)
    wishes = yaml_files.load_policy(share.find_policy(policy))
    workload = read_workload(model, phase)
    tables = make_tables(workload, board, wishes)
    began_s = time.perf_counter()
    result = _solve(tables, method, seed, budget_ms)
    elapsed_ms = (time.perf_counter() - began_s) * 1e3
    return _document(result, elapsed_ms, tables, workload, board, wishes)


def read_workload(model: str, phase: Phase) -> Workload:
    """A model file's workload, or one of the catalogue by name."""
    from agent.service.artifacts import open_artifact, workload_of

    path = Path(model)
    if path.suffix in (".onnx", ".tflite") or path.exists():
        return workload_of(open_artifact(path), path.stem, None)
    from agent.workload.catalogue import resolve_name
    from agent.workload.naming import others

    entry = resolve_name(model)
    if entry is None:
        raise BadInput(f"{model}: neither a model file nor a workload of the catalogue{others(model)}")
    return entry.workload(phase=phase)


def _solve(tables: Tables, method: str, seed: int, budget_ms: float | None) -> Result:
    from agent.placement.solve import solve

    if budget_ms is None:
        return solve(tables.problem, method, seed)
    return solve(tables.problem, method, seed, budget_s=budget_ms / 1e3, clock=time.perf_counter)


def _document(
    result: Result, elapsed_ms: float, tables: Tables, workload: Workload, board: DeviceProfile, policy: Policy
) -> dict[str, Any]:
    from agent.placement.selection import Constraints, select

    names = tables.problem.accelerators
    front = [{"objectives": list(p.objectives), "assignment": list(p.assignment)} for p in result.front]
    limits = Constraints(deadline_s=policy.admission.default_deadline_s, power_cap_w=policy.power_cap_w)
    choice = select(result.points(), policy.objective, limits)
    index = choice.index or 0  # never None without an incumbent
    served = _served(workload, board, policy)
    energy_j, latency_s, underutilisation = result.front[index].objectives
    stages = [
        {"stage": stage.name, "accelerator": names[a]}
        for stage, a in zip(workload.stages, result.front[index].assignment, strict=True)
    ]
    return {
        "model": workload.model, "phase": workload.phase, "board": board.name, "policy": policy.name,
        "method": result.method, "seed": result.seed, "elapsed_ms": elapsed_ms, "evaluations": result.evaluations,
        "exact": result.exact, "accelerators": list(names), "front": front,
        "chosen": {
            "assignment": list(result.front[index].assignment), "stages": stages, "energy_j": energy_j,
            "latency_s": latency_s, "underutilisation": underutilisation, "provenance": "modelled", "why": choice.why,
        },
        "served": served | {"same_as_chosen": _only(result.front[index].assignment, names) == served["accelerator"]},
        "baselines": _baselines(tables), "excluded": [{"accelerator": n, "why": w} for n, w in tables.excluded],
        "notes": [*workload.notes, *tables.notes],
    }  # fmt: skip


def _served(workload: Workload, board: DeviceProfile, policy: Policy) -> dict[str, Any]:
    """What `qeil run` would load: the whole model on one accelerator, by the same rule of preference."""
    from agent.placement.candidates import whole_models

    found, rejected = whole_models(workload, board, policy)
    if not found:
        return {"accelerator": None, "why": "; ".join(f"{name}: {why}" for name, why in rejected)}
    cost = found[0].cost
    others = f"best of {len(found)} placements of the whole model" if len(found) > 1 else "the only one that may run it"
    return {
        "accelerator": cost.accelerator, "energy_j": cost.energy_j, "latency_s": cost.time_s,
        "underutilisation": cost.underutilisation, "provenance": "modelled", "why": others,
        "then": [c.accelerator.name for c in found[1:]],
    }  # fmt: skip


def _only(assignment: Sequence[int], names: Sequence[str]) -> str | None:
    """The accelerator that runs every stage; None for a split."""
    return names[assignment[0]] if len(set(assignment)) == 1 else None


def _baselines(tables: Tables) -> dict[str, dict[str, float]]:
    found = {}
    for method in ("greedy", *(f"single:{name}" for name in tables.problem.accelerators)):
        try:
            objectives = _solve(tables, method, 0, None).front[0].objectives
        except PlacementError:
            continue
        found[method] = {"energy_j": objectives[0], "latency_s": objectives[1]}
    return found


def _print_model(document: dict[str, Any]) -> None:
    chosen = document["chosen"]
    _print_front(document, chosen["assignment"])
    rows = [[n, f"{b['energy_j']:.4g}", f"{b['latency_s'] * 1e3:.4g}"] for n, b in document["baselines"].items()]
    print_table("Baselines (modelled)", ["method", "J", "ms"], rows)
    click.echo(f"chosen under {document['policy']}: {_runs(chosen['stages'])}")
    click.echo(
        f"  {chosen['energy_j']:.4g} J, {chosen['latency_s'] * 1e3:.4g} ms, {chosen['provenance']}; {chosen['why']}"
    )
    click.echo(_serving(document))
    for entry in document["excluded"]:
        click.echo(f"left out: {entry['accelerator']}: {entry['why']}")
    for note in document["notes"][:MAX_NOTES]:
        click.echo(f"note: {note}")
    if len(document["notes"]) > MAX_NOTES:
        click.echo(f"note: {len(document['notes']) - MAX_NOTES} more in --json")


def _serving(document: dict[str, Any]) -> str:
    served = document["served"]
    if served["accelerator"] is None:
        return f"served by qeil run: nothing; {served['why']}"
    if served["same_as_chosen"]:
        return f"served by qeil run: the same, the whole model on {served['accelerator']}"
    joules = "energy unknown" if served["energy_j"] is None else f"{served['energy_j']:.4g} J"
    return (
        f"served by qeil run: the whole model on {served['accelerator']}, {joules}, "
        f"{served['latency_s'] * 1e3:.4g} ms, {served['provenance']} (the agent loads a model on one accelerator)"
    )


def _runs(stages: list[dict[str, str]]) -> str:
    """Consecutive stages on one accelerator as one item."""
    parts: list[list[Any]] = []
    for stage in stages:
        if parts and parts[-1][0] == stage["accelerator"]:
            parts[-1][1] += 1
        else:
            parts.append([stage["accelerator"], 1])
    return " → ".join(f"{name} ({count} stage{'s' if count > 1 else ''})" for name, count in parts)


def _print_front(document: dict[str, Any], chosen: list[int] | None) -> None:
    front = document["front"]
    certificate = "exact" if document["exact"] else "best known, not certified"
    title = (
        f"Pareto front: {len(front)} placements, {certificate}, {document['method']}, {document['elapsed_ms']:.0f} ms"
    )
    step = max(1, -(-len(front) // MAX_ROWS))
    shown = [p for i, p in enumerate(front) if i % step == 0 or p["assignment"] == chosen]
    rows = [
        ["►" if p["assignment"] == chosen else "", dash(p["objectives"][0], ".5g"),
         dash(p["objectives"][1] * 1e3, ".5g"), dash(p["objectives"][2], ".3f"), _short(p["assignment"])]
        for p in shown
    ]  # fmt: skip
    print_table(title, ["", "J", "ms", "under-utilisation", "accelerator of each stage"], rows)
    if step > 1:
        click.echo(f"every {step}th point shown; --json has all")


def _short(assignment: list[int]) -> str:
    text = " ".join(str(a) for a in assignment)
    return text if len(text) <= 60 else text[:57] + "…"
