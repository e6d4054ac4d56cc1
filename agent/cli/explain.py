"""`qeil explain`: where a choice of placement comes from, what would change it, and where each joule comes from."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from agent.cli import complete
from agent.cli.pairs import PAIR, pairs
from agent.errors import BadInput, PlacementError
from agent.placement.state import State
from agent.schema.workload import Precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.placement.flips import Flip
    from agent.placement.reasons import Why
    from agent.placement.wishes import Binding
    from agent.schema.device import DeviceProfile
    from agent.schema.policy import Policy
    from agent.schema.workload import Workload
    from agent.storage.yaml_text import Document

MANY = click.IntRange(1, 1_048_576)


@click.command("explain")
@click.argument("model", required=False)
@click.option("--problem", type=click.Path(path_type=Path), help="your own cost tables (.npz) instead of a model")
@click.option("--profile", shell_complete=complete.names(complete.profiles),
              help="board: auto, a shipped profile's name, or a path; default: that of the settings")  # fmt: skip
@click.option("--policy", shell_complete=complete.names(complete.policies),
              help="a shipped policy's name, or a path; default: that of the settings")  # fmt: skip
@click.option(
    "--config", type=click.Path(path_type=Path), help="settings; the calibration in their state folder counts"
)
@click.option("--phase", type=click.Choice(["forward", "prefill", "decode", "both"]), default="forward",
              show_default=True, help="of a language model; both: the choice for each phase")  # fmt: skip
@click.option("--precision", type=click.Choice(get_args(Precision)), help="of a model of the catalogue")
@click.option("--prompt-tokens", type=MANY, help="tokens of input")
@click.option("--generate-tokens", type=MANY, help="tokens that a request generates")
@click.option("--batch", type=MANY, help="inputs in one pass")
@click.option("--lost", multiple=True, metavar="NAME", help="without this accelerator")
@click.option("--temperature", multiple=True, metavar=PAIR, help="junction of an accelerator now, in °C")
@click.option("--free", multiple=True, metavar=PAIR, help="memory that others leave free in a domain, in bytes")
@click.option("--power-cap-w", type=click.FloatRange(0, min_open=True), help="instead of the policy's power_cap_w")
@click.option("--deadline-ms", type=click.FloatRange(0, min_open=True), help="instead of the policy's default deadline")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True, help="for --problem")
@click.option("--all", "every", is_flag=True, help="the coefficients of every placement, not only of the chosen one")
@click.option("--json", "as_json", is_flag=True, help="everything as JSON")
def explain_command(
    model: str | None, problem: Path | None, policy: str | None, power_cap_w: float | None, deadline_ms: float | None,
    seed: int, every: bool, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Say why MODEL (or one's own tables) is placed where it is, which limit binds, and what would change it."""
    from agent.cli.explain_text import print_document, print_phases

    if (model is None) == (problem is None):
        raise click.UsageError("give a MODEL or --problem FILE.npz")
    _check_finite("--power-cap-w", power_cap_w)
    _check_finite("--deadline-ms", deadline_ms)
    if problem is not None:
        from agent.cli.explain_problem import explain_problem

        useless = [f"--{key.replace('_', '-')}" for key, value in options.items() if value and key != "phase"]
        if useless:
            raise click.UsageError(f"{', '.join(useless)}: for a MODEL; --problem has its own tables")
        document = explain_problem(problem, policy or "balanced", seed, power_cap_w, deadline_ms)
    else:
        document = explain_model(str(model), policy, power_cap_w, deadline_ms, options)
    if as_json:
        click.echo(json.dumps(document, indent=2))
    elif "phases" in document:
        print_phases(document["phases"], every)
    else:
        print_document(document, every)


def _check_finite(option: str, limit: float | None) -> None:
    if limit is not None and not math.isfinite(limit):
        raise click.UsageError(f"{option} must be a finite number, got {limit:g}; leave it out for no limit")


def explain_model(
    model: str, policy: str | None, power_cap_w: float | None, deadline_ms: float | None, options: dict[str, Any]
) -> dict[str, Any]:
    """The document of `qeil explain MODEL --json`; for both phases one with a document of each as `phases`.

    Raises BadInput for a name or number that makes no sense here.
    """
    from agent.cli.board_choice import about_board, board_and_policy
    from agent.cli.plan_model import Ask
    from agent.cli.plan_variants import of_settings
    from agent.cli.plan_workload import Sizes, read_workloads

    board, wishes = board_and_policy(options["profile"], policy, options["config"])
    state = State(
        temperatures_c=pairs("--temperature", options["temperature"]), free_bytes=pairs("--free", options["free"]),
        lost=frozenset(options["lost"]),
    )  # fmt: skip
    try:
        state.check(board)
    except ValueError as error:
        raise BadInput(str(error)) from error
    sizes = Sizes(options["precision"], options["prompt_tokens"], options["generate_tokens"], options["batch"])
    wishes = _limited(wishes, power_cap_w, deadline_ms)
    served, _ = of_settings(Ask(model, config=options["config"], state=state), board, wishes)
    workloads = read_workloads(served.model, options["phase"], sizes, served.mode)
    try:
        documents = phase_documents(workloads, board, wishes, state, options["profile"], options["config"])
    except PlacementError as error:
        raise about_board(error, board, wishes, assumed=options["profile"] is None) from error
    if len(documents) == 1:
        return documents[0]
    same = {key: documents[0][key] for key in ("model", "board", "policy")}
    return same | {"phase": "both", "phases": documents}


def phase_documents(
    workloads: Sequence[Workload], board: DeviceProfile, wishes: Policy, state: State, profile: str | None,
    config: Path | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Choice and reasons of each phase by itself, as both `explain` and `plan` give them.

    profile, config: as on the command line. Raises PlacementError where no accelerator may hold the whole model.
    """
    from agent.cli.board_choice import calibration_notes

    documents = [_document(workload, board, wishes, state) for workload in workloads]
    for document in documents:
        document["board_from"] = "the settings" if profile is None else "--profile"
        document["notes"] = [*calibration_notes(config, board), *document["notes"]]
        _add_lines(document["placements"], profile)
    return documents


def _document(workload: Workload, board: DeviceProfile, wishes: Policy, state: State) -> dict[str, Any]:
    from agent.placement.candidates import candidates, check_left
    from agent.placement.costing import REFERENCE_TEMPERATURE_C
    from agent.placement.explain import explain
    from agent.placement.reasons import why

    check_left(workload, board, wishes, state)
    reasons = why(workload, board, wishes, state)
    found = {c.accelerator.name: c for c in candidates(workload, board, wishes, state)[0]}
    explained = []
    for option in reasons.ranked:
        candidate = found[option.name]
        temperature_c = state.temperatures_c.get(option.name, REFERENCE_TEMPERATURE_C)
        made = explain(workload, board, candidate.accelerator, candidate.runtime, temperature_c)
        explained.append(dataclasses.asdict(made))
    return {
        "model": workload.model, "phase": workload.phase, "board": board.name, "policy": wishes.name,
        "chosen": reasons.chosen.name, "provenance": "modelled", **why_document(reasons),
        "why": f"{_rule(wishes)} of {len(reasons.ranked)} that may run the whole model, as the agent serves it",
        "placements": explained, "rejected": [{"accelerator": n, "why": w} for n, w in reasons.rejected],
        "notes": [*reasons.notes, *workload.notes],
    }  # fmt: skip


def why_document(reasons: Why) -> dict[str, Any]:
    """Choice, runner-up, binding limits and flips as plain data."""
    return {
        "choice": dataclasses.asdict(reasons.chosen),
        "runner_up": dataclasses.asdict(reasons.ranked[1]) if len(reasons.ranked) > 1 else None,
        "binding": [binding_document(b) for b in reasons.binding],
        "flips": [flip_document(f) for f in reasons.flips],
    }


def binding_document(bound: Binding) -> dict[str, Any]:
    """One limit that binds."""
    return dataclasses.asdict(bound) | {"least": None if bound.least is None else flip_document(bound.least)}


def flip_document(flip: Flip) -> dict[str, Any]:
    """One flip with its relative change."""
    place = ".".join(str(key) for key in flip.place)
    return dataclasses.asdict(flip) | {"relative": flip.relative, "place": place or None}


def read_policy(policy: str, power_cap_w: float | None, deadline_ms: float | None) -> Policy:
    """A policy with the limits given on the command line in the place of its own."""
    from agent.storage import share, yaml_files

    return _limited(yaml_files.load_policy(share.find_policy(policy)), power_cap_w, deadline_ms)


def _limited(wishes: Policy, power_cap_w: float | None, deadline_ms: float | None) -> Policy:
    if power_cap_w is not None:
        wishes = wishes.model_copy(update={"power_cap_w": power_cap_w})
    if deadline_ms is not None:
        admission = wishes.admission.model_copy(update={"default_deadline_s": deadline_ms / 1e3})
        wishes = wishes.model_copy(update={"admission": admission})
    return wishes


def _rule(policy: Policy) -> str:
    objective = policy.objective
    if objective.method == "weights" and objective.weights is not None:
        weights = objective.weights.model_dump()
        return "least ln-product by weights (" + ", ".join(f"{k} {v:g}" for k, v in weights.items()) + ")"
    if objective.method == "knee":
        return "closest to the ideal"
    return f"least {', then '.join(objective.order)} (within {objective.tolerance:.0%})"


def _add_lines(explained: list[dict[str, Any]], profile: str | None) -> None:
    """File and line of each coefficient that still is what the profile's file says."""
    from agent.storage import share, yaml_files

    document: Document | None = None
    name = ""
    if profile not in (None, "auto"):
        path = share.find_profile(str(profile))
        document, name = yaml_files.read_document(path), path.name
    for entry in explained:
        for row in entry["coefficients"]:
            line = None if document is None else _line(document, (*row["place"], "value"), row["value"])
            row["file"], row["line"] = (name, line) if line else (None, None)
            row["place"] = ".".join(str(key) for key in row["place"])


def _line(document: Document, place: tuple[str | int, ...], value: float) -> int | None:
    if place not in document.positions:
        return None
    found = document.data
    for key in place:
        found = found[key]
    return document.line(place) if found == value else None
