"""`qeil plan`: the Pareto front of placements of a model – on this board, or on one that you do not have."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource

from agent.cli import complete
from agent.cli.pairs import PAIR, pairs
from agent.schema.policy import Goal
from agent.schema.workload import Precision

if TYPE_CHECKING:
    from agent.cli.plan_model import Ask

MANY = click.IntRange(1, 1_048_576)


def _finite(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is no time")
    return value


@click.command("plan")
@click.argument("model", required=False)
@click.option("--problem", type=click.Path(path_type=Path), help="your own cost tables (.npz) instead of a model")
@click.option("--profile", shell_complete=complete.names(complete.profiles),
              help="board: auto, a shipped profile's name, or a path; default: that of the settings")  # fmt: skip
@click.option("--policy", shell_complete=complete.names(complete.policies),
              help="a shipped policy's name, or a path; default: that of the settings")  # fmt: skip
@click.option(
    "--config", type=click.Path(path_type=Path), help="settings; the calibration in their state folder counts"
)
@click.option(
    "--phase",
    type=click.Choice(["forward", "prefill", "decode", "both"]),
    default="forward",
    show_default=True,
    help="both: a whole request of a language model, accelerators for each phase",
)
@click.option("--precision", type=click.Choice(get_args(Precision)), help="of a model of the catalogue")
@click.option("--prompt-tokens", type=MANY, help="tokens of input")
@click.option("--generate-tokens", type=MANY, help="tokens that a request generates")
@click.option("--batch", type=MANY, help="inputs in one pass")
@click.option("--operating-points", is_flag=True, help="power modes and clocks of the profile as choices too")
@click.option("--goal", type=click.Choice(get_args(Goal)), help="what latency means, instead of the policy's goal")
@click.option("--lost", multiple=True, metavar="NAME", help="plan, then plan again without this accelerator")
@click.option("--temperature", multiple=True, metavar=PAIR, help="junction of an accelerator now, in °C")
@click.option("--queue", multiple=True, metavar=PAIR, help="work that waits for an accelerator, in s")
@click.option("--free", multiple=True, metavar=PAIR, help="memory that others leave free in a domain, in bytes")
@click.option("--method", default="pgsam", show_default=True, help="pgsam, exact, greedy, random or single:NAME")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=1, show_default=True, help="same seed, same front")
@click.option(
    "--budget-ms", type=click.FloatRange(1, 600_000), callback=_finite, help="time to search; default: a fixed effort"
)
@click.option("--plot", type=click.Path(path_type=Path), help="draw the front (.svg, .png or .pdf)")
@click.option("--json", "as_json", is_flag=True, help="the front as JSON")
@click.option("--no-timings", is_flag=True, help="leave out of --json how long it took: same seed, same bytes")
def plan_command(
    model: str | None, problem: Path | None, method: str, seed: int, budget_ms: float | None, plot: Path | None,
    as_json: bool, no_timings: bool, **options: Any,
) -> None:  # fmt: skip
    """Search placements of MODEL (a model file, or a well-known workload by name)."""
    if (model is None) == (problem is None):
        raise click.UsageError("give a MODEL or --problem FILE.npz")
    if problem is not None:
        from agent.cli.plan_marks import marked
        from agent.cli.plan_problem import plan_problem

        _only_for_models([key for key in options if key != "policy"])
        document = marked(plan_problem(problem, seed, method, budget_ms), problem, options["policy"] or "balanced")
    else:
        from agent.cli.plan_model import plan_model

        document = plan_model(_ask(str(model), method, seed, budget_ms, options))
    if plot is not None:
        from agent.cli.plan_plot import draw

        draw(document, plot)
    if as_json:
        click.echo(json.dumps(_timeless(document) if no_timings else document))
        return
    from agent.cli import plan_show

    if problem is not None:
        plan_show.show_problem(document)
    else:
        plan_show.show_model(document)


def _timeless(document: dict[str, Any]) -> dict[str, Any]:
    """Without what depends on how busy the machine was."""
    kept = {key: value for key, value in document.items() if key != "elapsed_ms"}
    if "replanned" in kept:
        kept["replanned"] = {key: value for key, value in kept["replanned"].items() if key != "replan_ms"}
    return kept


def _only_for_models(keys: list[str]) -> None:
    given = click.get_current_context()
    useless = [key for key in keys if given.get_parameter_source(key) is ParameterSource.COMMANDLINE]
    if useless:
        names = ", ".join(f"--{key.replace('_', '-')}" for key in useless)
        raise click.UsageError(f"{names}: for a MODEL; --problem has its own tables")


def _ask(model: str, method: str, seed: int, budget_ms: float | None, given: dict[str, Any]) -> Ask:
    from agent.cli.plan_model import Ask
    from agent.cli.plan_workload import Sizes
    from agent.placement.state import State

    state = State(
        pairs("--temperature", given["temperature"]), pairs("--free", given["free"]),
        pairs("--queue", given["queue"]), frozenset(given["lost"]),
    )  # fmt: skip
    sizes = Sizes(given["precision"], given["prompt_tokens"], given["generate_tokens"], given["batch"])
    return Ask(
        model, given["profile"], given["policy"], given["config"], given["phase"], sizes, method, seed, budget_ms,
        state, given["operating_points"], given["goal"],
    )  # fmt: skip
