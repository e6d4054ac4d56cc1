"""`qeil simulate`: what a scenario's models would cost on its boards under each placement, beside published claims."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from agent.cli.progress import Progress
from agent.cli.tables import dash, print_table
from agent.errors import ConfigError

Row = dict[str, Any]


@click.command("simulate")
@click.argument("scenario", metavar="SCENARIO")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="instead of the scenario's")
@click.option(
    "--evaluations", type=click.IntRange(1, 10**9), help="placements each search scores, instead of the scenario's"
)
@click.option("--details", is_flag=True, help="also with several boards: each one's rows, sensitivity and reasons")
@click.option("--plot", type=click.Path(path_type=Path), help="draw the changes (.svg, .png or .pdf)")
@click.option("--json", "as_json", is_flag=True, help="everything as JSON")
def simulate_command(
    scenario: str, seed: int | None, evaluations: int | None, details: bool, plot: Path | None, as_json: bool
) -> None:
    """Answer SCENARIO (a file, or the name of a shipped one) with the cost model; every number is modelled.

    A scenario of kind board-run is a day on simulated boards: the agent's own thermal governor and lane supervision
    against boards that heat up, lose sensors and reset, in accelerated time.
    """
    from agent.cli.simulate_table import comparison
    from agent.simulation import references
    from agent.simulation.document import simulate
    from agent.storage import share, yaml_files

    if plot is not None:
        from agent.cli.simulate_plot import check_target

        check_target(plot)
    path = share.find_scenario(scenario)
    kind = yaml_files.detect_kind(yaml_files.read_document(path).data, path)
    if kind == "board-scenario":
        _days(path, seed, plot, as_json)
        return
    if kind not in (None, "scenario"):
        raise ConfigError(f"{path} is no scenario, by its keys it is a file of kind {kind}; qeil check looks at it")
    resolved = references.load(path)
    asked = {"seed": seed, "search_evaluations": evaluations}
    changes = {key: value for key, value in asked.items() if value is not None}
    with Progress("simulating", as_json) as report:
        document = simulate(resolved.changed(**changes), report)
    document["comparison"] = comparison(document)
    if plot is not None:
        from agent.cli.simulate_plot import draw

        draw(document, plot)
    if as_json:
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
        return
    _print(document, details)


def _days(path: Path, seed: int | None, plot: Path | None, as_json: bool) -> None:
    from agent.cli.simulate_boards import draw_days, print_days
    from agent.simulation import board_document

    days = board_document.load(path)
    if seed is not None:
        days = replace(days, scenario=days.scenario.model_copy(update={"seed": seed}))
    with Progress("simulating", as_json) as report:
        document = board_document.simulate(days, report)
    if plot is not None:
        draw_days(document, plot)
    if as_json:
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        print_days(document)


def _print(document: dict[str, Any], details: bool) -> None:
    from agent.cli.simulate_experiment import print_experiment
    from agent.cli.simulate_table import print_comparison, print_reasons

    click.echo(f"{document['title']}: every number is {document['provenance']}; changes against {document['baseline']}")
    click.echo(f"pgsam chooses by policy {document['policy']}, seed {document['seed']}\n")
    several, one_table = len(document["boards"]) > 1, document["experiment"] is not None
    if one_table:
        print_experiment(document)
    if several:
        print_comparison(document)
        print_reasons(document)
    for board in document["boards"]:
        if details or not several:
            _print_board(board)
        elif one_table and not board["beside"]:
            _print_depends(board)
    if details or not one_table:
        _print_answers(document)
        _print_means(document)
    if several and not details:
        click.echo("--details: each board's rows with uncertainty, what they depend on, and why; --json: everything")


def _print_board(board: Row) -> None:
    _print_rows(board)
    _print_depends(board)


def _print_depends(board: Row) -> None:
    """Claims, what they depend on and why: all of it empty for a board that is only compared."""
    _print_claims(board)
    _print_swings(board)
    _print_growth(board)
    if not board["explanation"]:
        return
    click.echo(f"Why, on {board['board']}")
    for sentence in board["explanation"]:
        click.echo(f"  {sentence}")
    click.echo()


def _print_answers(document: dict[str, Any]) -> None:
    """Published pass@k at the power that is modelled for each placement, beside what is published."""
    lines = [
        [
            row["board"], row["of"], row["placement"], dash(row["pass_at_k"], ".1%"), dash(row["power_w"], ".1f"),
            dash(row["ipw"], ".3g"), dash(row["times_baseline"], ".2f"),
            *(
                [f"{there['power_w']:g}", f"{there['ipw']:g}", dash(there["times_baseline"], "g")]
                if there["placement"] == row["placement"] else ["", "", ""]
            ),
        ]
        for row in document["answers"] for there in [row["published"]]
    ]  # fmt: skip
    if lines:
        print_table(
            "Answers right at power: pass@k as published (a placement changes no answer), watts modelled",
            ["board", "models", "placement", "pass@k", "W", "IPW %/W", "× baseline", "published W", "IPW", "×"], lines,
        )  # fmt: skip


def _print_means(document: dict[str, Any]) -> None:
    columns = ["board", "phase", "placement", "energy", "latency", "models that have both"]
    lines = []
    last: tuple[str, str] | None = None
    for mean in document["means"]:
        here = (mean["board"], mean["phase"])
        energy, latency = mean["energy_change"], mean["latency_change"]
        lines.append([
            *(here if here != last else ("", "")), mean["placement"],
            *(_change(m["mean"], None) if m else "–" for m in (energy, latency)),
            f"{energy['models'] if energy else 0} of {mean['models']}",
        ])  # fmt: skip
        last = here
    print_table(f"Mean change over the models against {document['baseline']} (modelled)", columns, lines)


def _print_rows(board: Row) -> None:
    columns = ["model", "phase", "placement", "J", "ms", "W", "energy", "latency", "accelerators, or why not"]
    lines = []
    last: tuple[str, str] | None = None
    for row in board["rows"]:
        here = (row["model"], _phase(row))
        lines.append([*(here if here != last else ("", "")), row["placement"], *_cells(row)])
        last = here
    print_table(f"{board['board']} – {board['title']} (modelled)", columns, lines)


def _phase(row: Row) -> str:
    prompt, generated, batch = row["prompt_tokens"], row["generated_tokens"], row["batch"]
    each = f" × {batch}" if batch > 1 else ""
    if row["phase"] == "prefill":
        return f"prefill, {prompt} tokens{each}"
    if row["phase"] == "decode":
        return f"decode, a token{each}"
    if row["phase"] == "request":
        return f"request, {prompt} + {generated} tokens{each}"
    return f"{row['phase']}{each}"


def _cells(row: Row) -> list[str]:
    if not row["feasible"]:
        return ["–", "–", "–", "", "", row["why_not"]]
    return [
        f"{row['energy_j']:.4g}{_share(row['energy_rel_uncertainty'])}",
        f"{row['latency_s'] * 1e3:.4g}{_share(row['latency_rel_uncertainty'])}",
        f"{row['power_w']:.3g}",
        _change(row["energy_change"], row["energy_change_uncertainty"]),
        _change(row["latency_change"], row["latency_change_uncertainty"]),
        " + ".join(row["accelerators"]),
    ]


def _share(uncertainty: float | None) -> str:
    """A relative uncertainty; from 100 % on, where a ± would reach below nothing, as the factor it is known to."""
    if uncertainty is None:
        return ""
    return f" ± {100 * uncertainty:.0f} %" if uncertainty < 1.0 else f" (to a factor of {1.0 + uncertainty:.2g})"


def _change(change: float | None, uncertainty: float | None) -> str:
    """A change in percent; an uncertainty of 100 points and more is that of a multiple of what it is compared with."""
    if change is None:
        return ""
    percent = f"{round(100 * change, 1) + 0.0:+.1f}"  # + 0.0: never -0.0
    if uncertainty is None:
        return f"{percent} %"
    if uncertainty < 1.0:
        return f"{percent} ± {100 * uncertainty:.1f} %"
    return f"{percent} % (known to {uncertainty:.2g} × the baseline only)"


def _print_claims(board: Row) -> None:
    if not board["claims"]:
        return
    columns = ["of a request", "placement", "against", "published", "modelled mean", "from", "to", "models", "as far"]
    lines = []
    for claim in board["claims"]:
        ours = claim["modelled"] or {"mean": None, "low": None, "high": None, "models": 0}
        verdict = {True: "yes", False: "no", None: "–"}[claim["met"]]
        lines.append([
            claim["quantity"], claim["placement"], claim["relative_to"], _change(claim["claimed_change"], None),
            _change(ours["mean"], claim["uncertainty"]) or "–", _change(ours["low"], None), _change(ours["high"], None),
            str(ours["models"]), verdict,
        ])  # fmt: skip
    print_table(f"Published claims beside the model's means on {board['board']}", columns, lines)
    short = [c for c in board["claims"] if c["met"] is False]
    if short:
        texts = [f"{_change(c['claimed_change'], None)} {c['quantity']} ({_got(c)})" for c in short]
        click.echo(f"Not reproduced by this model: {', '.join(texts)}. Where and why it differs is said below.\n")


def _got(claim: Row) -> str:
    return f"modelled {_change(claim['modelled']['mean'], None)}"


def _print_swings(board: Row) -> None:
    if not board["sensitivity"]:
        return
    columns = ["assumption", "low", "high", "energy at low", "at high", "latency at low", "at high", "why this range"]
    lines = [
        [
            s["vary"], f"{s['low']:g}", f"{s['high']:g}", *(_change(c, None) for c in s["energy_change"]),
            *(_change(c, None) for c in s["latency_change"]),
            s["why"] if s["unaffected"] is None else f"no effect: {s['unaffected']}",
        ]
        for s in board["sensitivity"]
    ]  # fmt: skip
    print_table(f"What the mean change depends on, widest first, on {board['board']} (modelled)", columns, lines)


def _print_growth(board: Row) -> None:
    """Energy and latency over the weights' bytes, where the models support a law."""
    if not board["growth"]:
        return
    columns = ["phase", "placement", "of a pass", "grows as W^", "95 %", "R²", "at 1 GB of weights", "models"]
    units = {"energy": "J", "latency": "s"}
    lines = [
        [
            g["phase"], g["placement"], g["quantity"],
            *(
                ["–", "–", "–", f"no law: {g['unsupported_because']}"]
                if g["exponent"] is None or g["unsupported_because"]
                else [
                    f"{g['exponent']:.2f}", f"{g['low']:.2f} to {g['high']:.2f}", f"{g['r_squared']:.2f}",
                    f"{g['at_reference']:.3g} {units[g['quantity']]}",
                ]
            ),
            str(g["models"]),
        ]
        for g in board["growth"]
    ]  # fmt: skip
    print_table(f"How a pass grows with the bytes of its weights W on {board['board']} (modelled)", columns, lines)
