"""Plan show: the document of `qeil plan` as text."""

from __future__ import annotations

from typing import Any

import click

from agent.cli.tables import dash, print_table

MAX_ROWS = 20
MAX_NOTES = 6


def show_problem(document: dict[str, Any]) -> None:
    """Front, baselines and choice of one's own cost tables."""
    chosen = document["chosen"]
    show_front(document, chosen and chosen["assignment"])
    rows = [[n, f"{b['energy_j']:.4g}", f"{b['latency_s'] * 1e3:.4g}"] for n, b in document["baselines"].items()]
    print_table("Baselines", ["method", "J", "ms"], rows)
    if chosen is None:
        click.echo(f"chosen under {document['policy']}: nothing; {document['why']}")
        return
    what = f"{chosen['energy_j']:.4g} J, {chosen['latency_s'] * 1e3:.4g} ms"
    click.echo(f"chosen under {document['policy']}: {what}; {document['why']}")


def show_model(document: dict[str, Any]) -> None:
    """Front, baselines, choice, and what is to be said about them."""
    chosen = document["chosen"]
    show_front(document, chosen["assignment"])
    click.echo(f"accelerators: {', '.join(f'{i} {name}' for i, name in enumerate(document['accelerators']))}")
    rows = [
        [n, f"{b['energy_j']:.4g}", f"{b['latency_s'] * 1e3:.4g}", f"{b['period_s'] * 1e3:.4g}"]
        for n, b in document["baselines"].items()
    ]
    print_table("Baselines (modelled)", ["method", "J", "ms", "period ms"], rows)
    if "replanned" in document:
        again = document["replanned"]
        click.echo(f"before {', '.join(again['lost'])} was lost: {runs(again['from'])}; planned again from there in "
                   f"{again['replan_ms']:.0f} ms")  # fmt: skip
    click.echo(f"chosen under {document['policy']}: {runs(chosen['stages'])}")
    click.echo(
        f"  {chosen['energy_j']:.4g} J, {chosen['latency_s'] * 1e3:.4g} ms, one every "
        f"{chosen['period_s'] * 1e3:.4g} ms in a pipeline, {chosen['provenance']}; {chosen['why']}"
    )
    if "request" in document:
        asked = document["request"]
        prefill_ms, token_ms, moved_ms = (asked[key] * 1e3 for key in ("prefill_s", "token_s", "hand_over_s"))
        click.echo(
            f"  a request of {asked['generated_tokens']} tokens: {prefill_ms:.4g} ms prefill, {token_ms:.4g} ms for "
            f"each token, {moved_ms:.4g} ms hand-over of the cache"
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
        f"{served['latency_s'] * 1e3:.4g} ms, {served['provenance']} (a split is served where it is better by a fifth)"
    )


def runs(stages: list[dict[str, str]]) -> str:
    """Consecutive stages on one choice as one item."""
    parts: list[list[Any]] = []
    for stage in stages:
        if parts and parts[-1][0] == stage["accelerator"]:
            parts[-1][1] += 1
        else:
            parts.append([stage["accelerator"], 1])
    return " → ".join(f"{name} ({count} stage{'s' if count > 1 else ''})" for name, count in parts)


def show_front(document: dict[str, Any], chosen: list[int] | None) -> None:
    """The front as a table; of a long one every so manieth point, and the chosen one."""
    front = document["front"]
    certificate = "exact" if document["exact"] else "best known, not certified"
    title = (
        f"Pareto front: {len(front)} placements, {certificate}, {document['method']}, {document['elapsed_ms']:.0f} ms"
    )
    step = max(1, -(-len(front) // MAX_ROWS))
    shown = [p for i, p in enumerate(front) if i % step == 0 or p["assignment"] == chosen]
    paced = all("period_s" in p for p in front)
    rows = [
        ["►" if p["assignment"] == chosen else "", dash(p["objectives"][0], ".5g"),
         dash(p["objectives"][1] * 1e3, ".5g"), *([dash(p["period_s"] * 1e3, ".5g")] if paced else []),
         dash(p["objectives"][2], ".3f"), _short(p["assignment"])]
        for p in shown
    ]  # fmt: skip
    columns = ["", "J", "ms", *(["period ms"] if paced else []), "under-utilisation", "accelerator of each stage"]
    print_table(title, columns, rows)
    if step > 1:
        click.echo(f"every {step}th point shown; --json has all")


def _short(assignment: list[int]) -> str:
    text = " ".join(str(a) for a in assignment)
    return text if len(text) <= 60 else text[:57] + "…"
