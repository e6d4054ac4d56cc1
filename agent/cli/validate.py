"""`qeil validate`: how far predictions are from a table of measurements, row by row and summed up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.tables import print_table
from agent.errors import ConfigError

if TYPE_CHECKING:
    from agent.evaluation.validation import Validation

SHOWN_REASONS = 12
"""Reasons for unmapped rows on the screen; --json has every row."""


@click.command("validate")
@click.argument("table", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="everything as JSON, one entry per row and quantity")
@click.option("--plot", type=click.Path(path_type=Path), help="write a parity plot (.png, .svg or .pdf)")
@click.option("--tier", help="only rows of these tiers, separated by commas, e.g. A,A-,B")
@click.option("--rows", "every_row", is_flag=True, help="print every row, not only the summaries")
def validate_command(table: Path, as_json: bool, plot: Path | None, tier: str | None, every_row: bool) -> None:
    """Predict every row of the measurements in TABLE and print the errors."""
    from agent.evaluation import parity
    from agent.evaluation.catalogue import find_coefficients, load_catalogue
    from agent.evaluation.coefficients_file import load_coefficients
    from agent.evaluation.table import read_table
    from agent.evaluation.validation import validate

    tiers = frozenset(name.strip() for name in tier.split(",")) if tier is not None else None
    rows = read_table(table)
    _check_tiers(table, tiers, {row.tier for row in rows})
    result = validate(rows, load_catalogue(), load_coefficients(find_coefficients()), tiers)
    if plot is not None and result.mapped:
        parity.plot(result.comparisons, {name: case.row.tier for name, case in result.cases.items()}, plot)
    if as_json:
        click.echo(json.dumps(result.document(), indent=2))
    else:
        _print(result, every_row)
    if not result.mapped:
        raise ConfigError(f"{table}: none of its rows ({result.rows}) can be predicted, so nothing was compared")


def _check_tiers(table: Path, asked: frozenset[str] | None, there: set[str]) -> None:
    """Raises ConfigError for a tier that no row has."""
    missing = sorted((asked or frozenset()) - there)
    if missing:
        have = ", ".join(sorted(name or "(none)" for name in there))
        names = ", ".join(name or "(empty)" for name in missing)
        raise ConfigError(f"{table}: no row has tier {names}; its tiers are {have}")


def _print(result: Validation, every_row: bool) -> None:
    document = result.document()
    if every_row:
        _print_rows(document["rows_detail"])
    if result.mapped:
        for title, key in (("board", "by_board"), ("task", "by_task"), ("tier", "by_tier")):
            _print_scores(f"By {title}", title, document[key])
        _print_scores("All", "", {**document["by_fit"], "all rows": document["summary"]})
    reasons: dict[str, list[str]] = {}
    for item in document["unmapped"]:
        reasons.setdefault(item["why"], []).append(item["row_id"])
    click.echo(f"{document['mapped']} of {document['rows']} rows mapped; errors are modelled against measured")
    fitted = document["fitted_on"]
    here = len(fitted["rows_of_this_table"])
    click.echo(
        f"coefficients were fitted on {fitted['measurements']} distinct measurements: {here} rows mapped here are of "
        f"them, {document['mapped'] - here} were not seen by the fit (--json marks each)"
    )
    nameless = list(dict.fromkeys(item["row_id"] for item in document["rows_detail"] if item["software"] == "unknown"))
    if nameless:
        some = f"{', '.join(nameless[:4])}{' …' if len(nameless) > 4 else ''}"
        click.echo(
            f"‼ rows that name no known software, {len(nameless)} ({some}), are predicted from hardware alone: "
            "write it into notes (TensorRT, llama.cpp, ONNX Runtime …)"
        )
    _print_modes(document["unknown_power_modes"])
    for why, ids in sorted(reasons.items(), key=lambda pair: -len(pair[1]))[:SHOWN_REASONS]:
        click.echo(f"  not mapped, {len(ids)} rows ({', '.join(ids[:4])}{' …' if len(ids) > 4 else ''}): {why}")
    if len(reasons) > SHOWN_REASONS:
        click.echo(f"  and {len(reasons) - SHOWN_REASONS} more reasons; --json lists every row")


def _print_modes(unknown: list[dict[str, str]]) -> None:
    modes: dict[tuple[str, str], list[str]] = {}
    for item in unknown:
        modes.setdefault((item["board"], item["power_mode"]), []).append(item["row_id"])
    for (board, mode), ids in list(modes.items())[:SHOWN_REASONS]:
        click.echo(
            f"‼ {len(ids)} rows ({', '.join(ids[:4])}{' …' if len(ids) > 4 else ''}): power mode {mode!r} of {board} "
            "is not known, its full clocks are assumed: state the clocks column (GPU 612 MHz; EMC 2133)"
        )
    if len(modes) > SHOWN_REASONS:
        click.echo(f"‼ and {len(modes) - SHOWN_REASONS} more power modes that are not known; --json lists every row")


def _print_scores(title: str, first: str, groups: dict[str, Any]) -> None:
    quantities = ("latency", "throughput", "power", "energy")
    lines = [[name, *(_cell(scores[quantity]) for quantity in quantities)] for name, scores in groups.items()]
    print_table(title, [first, *(f"{quantity} (median, p90, n)" for quantity in quantities)], lines)


def _print_rows(details: list[dict[str, Any]]) -> None:
    lines = [
        [
            item["row_id"],
            item["board"],
            item["model"],
            item["software"],
            item["quantity"],
            f"{item['measured']:.4g} {item['unit']}",
            f"{item['predicted']:.4g} {item['unit']} ± {100 * item['rel_uncertainty']:.0f} %",
            f"{100 * item['ape']:.1f} %",
        ]
        for item in details
    ]
    print_table("By row", ["row", "board", "model", "software", "quantity", "measured", "modelled", "error"], lines)


def _cell(score: dict[str, Any]) -> str:
    if not score["n"]:
        return "–"
    return f"{100 * score['median_ape']:.1f} %, {100 * score['p90_ape']:.0f} %, {score['n']}"
