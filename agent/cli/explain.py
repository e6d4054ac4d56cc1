"""`qeil explain`: why a model runs where it runs, down to the coefficients and their sources."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.tables import dash, print_table
from agent.errors import PlacementError

if TYPE_CHECKING:
    from agent.placement.explain import Explanation


@click.command("explain")
@click.argument("model")
@click.option("--profile", default="auto", show_default=True, help="board: auto, a shipped profile's name, or a path")
@click.option("--policy", default="balanced", show_default=True, help="a shipped policy's name, or a path")
@click.option("--config", type=click.Path(path_type=Path), help="settings, for the calibration in their state folder")
@click.option("--json", "as_json", is_flag=True, help="everything as JSON")
def explain_command(model: str, profile: str, policy: str, config: Path | None, as_json: bool) -> None:
    """Take the predicted time and energy of MODEL apart, for every accelerator that could run it."""
    document = explain_model(model, profile, policy, config)
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    for entry in document["placements"]:
        _print(entry, entry["accelerator"] == document["chosen"])
    click.echo(f"chosen under {document['policy']}: {document['chosen']}; {document['flip']}")
    for left_out in document["rejected"]:
        click.echo(f"left out: {left_out['accelerator']}: {left_out['why']}")


def explain_model(model: str, profile: str, policy: str, config: Path | None) -> dict[str, Any]:
    """The document of `qeil explain --json`."""
    from agent.cli.plan import read_workload
    from agent.placement import costing
    from agent.placement.candidates import forbidden
    from agent.placement.explain import explain, flip
    from agent.placement.ranking import Option, rank
    from agent.service import assembly, calibration, configuration
    from agent.storage import share, yaml_files

    settings = configuration.load_settings(config, {}, dict(os.environ))
    board = calibration.apply_saved(assembly.base_profile(profile), settings.state_dir)
    wishes = yaml_files.load_policy(share.find_policy(policy))
    workload = read_workload(model, "forward")
    operators = sorted({op for stage in workload.stages for op in stage.operators})
    found: dict[str, Explanation] = {}
    rejected = []
    for accelerator in board.accelerators:
        why = forbidden(wishes, workload.model, accelerator.name)
        why = why or costing.cannot_compute(workload, accelerator)
        runtime = why or costing.choose_runtime(accelerator, workload.format, operators)
        if isinstance(runtime, str):
            rejected.append({"accelerator": accelerator.name, "why": runtime})
        else:
            found[accelerator.name] = explain(workload, board, accelerator, runtime)
    if not found:
        raise PlacementError("; ".join(f"{r['accelerator']}: {r['why']}" for r in rejected))
    options = [Option(e.accelerator, e.energy_j, e.time_s, 1.0 - e.dasi) for e in found.values()]
    ranked = rank(options, wishes.objective)
    return {
        "model": workload.model, "board": board.name, "policy": wishes.name, "chosen": ranked[0].name,
        "flip": flip(options, wishes.objective), "provenance": "modelled",
        "placements": [dataclasses.asdict(found[o.name]) for o in ranked], "rejected": rejected,
        "notes": list(workload.notes),
    }  # fmt: skip


def _print(entry: dict[str, Any], chosen: bool) -> None:
    mark = "► " if chosen else "  "
    click.secho(f"{mark}{entry['accelerator']} through {entry['provider']} (modelled)", bold=chosen)
    click.echo(
        f"    {entry['time_s'] * 1e3:.4g} ms = {entry['compute_bound_s'] * 1e3:.4g} bound by compute + "
        f"{entry['memory_bound_s'] * 1e3:.4g} by memory + {entry['overhead_s'] * 1e3:.4g} dispatch; "
        f"DASI {entry['dasi']:.2f}"
    )
    click.echo(
        f"    {dash(entry['energy_j'], '.4g')} J = {dash(entry['switching_j'], '.4g')} switching + "
        f"{dash(entry['static_j'], '.4g')} being on; thermal yield Φ {dash(entry['thermal_yield'], '.2f')}"
    )
    rows = [[c["name"], f"{c['value']:.4g} {c['unit']}", c["provenance"], c["source"]] for c in entry["coefficients"]]
    print_table("", ["coefficient", "value", "is", "source"], rows)
    for note in entry["notes"]:
        click.echo(f"    note: {note}")
