"""One table of a published experiment: what is printed beside what every board is modelled to give."""

from __future__ import annotations

from typing import Any

import click

from agent.cli.tables import print_table

Row = dict[str, Any]


def print_experiment(document: Row) -> None:
    """Energy, latency, answers at power, heat and faults, a column a board; then models that a board does not run."""
    boards = [board["board"] for board in document["boards"]]
    rows = [*_claims(document), *_answers(document, boards), *_heat(document, boards), *_faults(document, boards)]
    print_table(
        "The experiment: what is published beside what is modelled for every board", ["", "published", *boards], rows
    )
    experiment = document["experiment"]
    first = experiment["endurance"][0]
    click.echo(
        "Watts are those of accelerators at work, without the board's idle power; means are over models that run so."
    )
    click.echo(
        f"Heat: requests of all models in turn for {first['hours']:g} h without a pause, air of {first['ambient_c']:g} "
        f"°C, {_simulated(experiment)}; firmware trips, and °C of the hottest zone (modelled)."
    )
    click.echo(_recovery_text(experiment["recovery"], experiment["measured"]))
    if experiment["without"]:
        click.echo()
        lines = [[row["board"], row["model"], _why(row)] for row in experiment["without"]]
        print_table(f"Without {experiment['placement']}", ["board", "model", "why"], lines)


def _claims(document: Row) -> list[list[str]]:
    rows = []
    for index, claim in enumerate(document["boards"][0]["claims"]):
        cells = [_mean(board["claims"][index], _models(board)) for board in document["boards"]]
        name = f"{claim['quantity']} of a request, {claim['placement']} against {claim['relative_to']}"
        rows.append([name, _percent(claim["claimed_change"]), *cells])
    return rows


def _mean(claim: Row, models: int) -> str:
    ours = claim["modelled"]
    if ours is None:
        return f"– (no model runs under {claim['placement']} and {claim['relative_to']})"
    return f"{_percent(ours['mean'])}{_spread(claim['uncertainty'])} ({ours['models']} of {models} models)"


def _spread(uncertainty: float | None) -> str:
    return "" if uncertainty is None else f" ± {100 * uncertainty:.1f} %"


def _models(board: Row) -> int:
    return len({row["model"] for row in board["rows"]})


def _percent(change: float) -> str:
    return f"{round(100 * change, 1) + 0.0:+.1f} %"


def _answers(document: Row, boards: list[str]) -> list[list[str]]:
    """A line each for pass@k at power, IPW and its multiple of the baseline's, where something is published."""
    rows: list[list[str]] = []
    figures: dict[tuple[str, float], dict[str, Row]] = {}
    for row in document["answers"]:
        there = row["published"]
        if row["placement"] == there["placement"]:
            figures.setdefault((row["of"], there["power_w"]), {})[row["board"]] = row
    for (of, _), found in figures.items():
        one = next(iter(found.values()))
        there, models = one["published"], "" if of == "all" else f", {of}"
        known = one["pass_at_k"] is not None
        at = f"{one['pass_at_k']:.1%} at " if known else ""
        rows.append([
            f"{'pass@k at power' if known else 'power'}, {there['placement']}{models}", f"{at}{there['power_w']:g} W",
            *(_cell(found[b]["power_w"], f"{at}{{:.1f}} W") for b in boards),
        ])  # fmt: skip
        ipw = f"IPW, % per W{models}"
        ipw += "" if known else " (its pass@k unknown)"
        rows.append([ipw, f"{there['ipw']:g}", *(_cell(found[b]["ipw"], "{:.3g}") for b in boards)])
        if there["times_baseline"] is not None:
            text = f"IPW over {document['baseline']}'s{models}"
            cells = (_cell(found[b]["times_baseline"], "× {:.2f}") for b in boards)
            rows.append([text, f"× {there['times_baseline']:g}", *cells])
    return rows


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _heat(document: Row, boards: list[str]) -> list[list[str]]:
    """A line for each placement with and without a governor; the published count stands beside the governed one."""
    lines: dict[tuple[str, str], dict[str, Row]] = {}
    for run in document["experiment"]["endurance"]:
        lines.setdefault((run["placement"], run["governor"]), {})[run["board"]] = run
    rows = []
    for (placement, governor), found in lines.items():
        governed = governor != "none"
        how = "with the agent's governor" if governed else "without governor"
        published = str(document["experiment"]["published"]["throttles"]) if governed else "–"
        rows.append([f"throttles, {placement} {how}", published, *(_hot(found[b]) for b in boards)])
    return rows


def _hot(run: Row) -> str:
    if run["unknown"] is not None:
        return f"unknown: {run['unknown']}"
    trips = f"{run['trips']}"
    if run["trips"]:
        trips += f" ({run['throttled_s'] / 60:.0f} min)"
    off = f", off {run['shutdowns']} times" if run["shutdowns"] else ""
    return f"{trips}{off}; {run['peak_c']:.0f} °C, {run['speed_share']:.0%} of full speed"


def _faults(document: Row, boards: list[str]) -> list[list[str]]:
    """The same on every board: the supervisor and its limits are, and what a start takes is assumed."""
    experiment = document["experiment"]
    published, back, measured = experiment["published"], experiment["recovery"], experiment["measured"]
    rows = [[
        "lane in service again after its death", "–", *(f"{back['service_s']:.3g} s" for _ in boards),
    ]]  # fmt: skip
    shared = ["unknown here"] * len(boards)
    rows.append(["faults recovered", f"{published['recovered_share']:.0%}", *shared])
    rows.append(["fault seen within", f"{1e3 * published['detection_s']:.0f} ms", *shared])
    if measured is not None:
        rows[1][0] += f" (measured elsewhere: {measured['recovered']:,} of {measured['injected']:,})"
        low, high = (1e3 * seconds for seconds in measured["detection_p99_s"])
        rows[2][0] += f" (measured elsewhere: {low:g} to {high:g} ms)"
    return rows


def _recovery_text(back: Row, measured: Row | None) -> str:
    text = (
        f"Recovery: the supervisor starts a dead lane after {back['restart_s']:g} s, its start is assumed to take "
        f"{back['start_takes_s']:g} s without reading weights; it serves {back['service_share']:.0%} of its "
        f"capacity at {back['service_s']:g} s, all at {back['full_s']:g} s (modelled)."
    )
    if measured is None:
        return text
    return (
        f"{text} Measured elsewhere, by {measured['source']}: seen within the p99 above, capacity back within "
        f"{measured['capacity_back_s']:g} s; it says nothing of these boards."
    )


def _simulated(experiment: Row) -> str:
    pairs = {row["board"]: row["simulated_board"] for row in experiment["endurance"] if row["simulated_board"]}
    if not pairs:
        return "no simulated board"
    return "simulated boards " + ", ".join(f"{board} as {truth}" for board, truth in pairs.items())


def _why(row: Row) -> str:
    if row["needed_bytes"] is None:
        return str(row["why"])
    return f"does not fit: {row['needed_bytes'] / 1e9:.1f} GB of {row['room_bytes'] / 1e9:.1f}"
