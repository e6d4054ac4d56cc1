"""Plan show: the document of `qeil plan` as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from agent.cli.board_choice import headline, prediction
from agent.cli.explain_text import phase_sentence
from agent.cli.tables import dash, print_table

MAX_ROWS = 20
MAX_NOTES = 6
_WIDEST = 60
LEGEND = (
    "►: chosen by the policy; #: number in the front, as in --json; of two in the front neither is better in all of "
    "energy, time and use, so some are there for one of the three alone"
)


def show_problem(document: dict[str, Any]) -> None:
    """Front, baselines and choice of one's own cost tables."""
    chosen = document["chosen"]
    show_front(document, chosen)
    _show_baselines(document, chosen, "Baselines")
    if chosen is None:
        click.echo(f"chosen under {document['policy']}: nothing; {document['why']}")
        return
    what = f"{chosen['energy_j']:.4g} J, {chosen['latency_s'] * 1e3:.4g} ms"
    click.echo(f"chosen under {document['policy']}: {what}; {document['why']}")


def show_model(document: dict[str, Any]) -> None:
    """Front, baselines, choice, and what is to be said about them."""
    chosen = document["chosen"]
    click.echo(f"{headline(document)}\n")
    show_front(document, chosen)
    _show_baselines(document, chosen, "Baselines (modelled)")
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
        for phase in document["phases"]:
            click.echo(f"  {phase_sentence(phase)}")
    click.echo(_serving(document))
    if document["served"]["accelerator"] is not None:
        click.echo(f"  {prediction(document)}")
    if "variants" in document:
        print_table(
            "Files of the model (modelled)", ["", "file", "quality", "best on", "ms", "J", ""],
            [_variant(row) for row in document["variants"]],
        )  # fmt: skip
    for entry in document["excluded"]:
        click.echo(f"left out: {entry['accelerator']}: {entry['why']}")
    for note in document["notes"][:MAX_NOTES]:
        click.echo(f"note: {note}")
    if len(document["notes"]) > MAX_NOTES:
        click.echo(f"note: {len(document['notes']) - MAX_NOTES} more in --json")


def _show_baselines(document: dict[str, Any], chosen: dict[str, Any] | None, title: str) -> None:
    """What greedy and everything on one accelerator take; the chosen placement first, and its share of each."""
    paced = all("period_s" in b for b in document["baselines"].values()) and "period_s" in (chosen or {})
    entries = [*([("► chosen", chosen)] if chosen is not None else []), *document["baselines"].items()]
    rows = []
    for name, entry in entries:
        row = [name, f"{entry['energy_j']:.4g}", f"{entry['latency_s'] * 1e3:.4g}"]
        row += [f"{entry['period_s'] * 1e3:.4g}"] if paced else []
        against = [_times(chosen, entry, key) for key in ("energy_j", "latency_s")] if entry is not chosen else ["", ""]
        rows.append(row + against)
    columns = ["method", "J", "ms", *(["period ms"] if paced else []), "chosen ÷ it: J", "ms"]
    print_table(title, columns, rows)


def _times(chosen: dict[str, Any] | None, entry: dict[str, Any], key: str) -> str:
    return "–" if chosen is None or not entry[key] else f"×{chosen[key] / entry[key]:.2f}"


def _serving(document: dict[str, Any]) -> str:
    served = document["served"]
    if served["accelerator"] is None:
        return f"served by qeil run: nothing; {served['why']}"
    if served["same_as_chosen"]:
        return f"served by qeil run: the same, the whole model on {served['accelerator']}{_file(document)}"
    joules = "energy unknown" if served["energy_j"] is None else f"{served['energy_j']:.4g} J"
    return (
        f"served by qeil run: the whole model on {served['accelerator']}{_file(document)}, {joules}, "
        f"{served['latency_s'] * 1e3:.4g} ms, {served['provenance']} (a split is served where it is better by a fifth)"
    )


def _file(document: dict[str, Any]) -> str:
    """Which file of the model that is, and its quality; empty where it has but one."""
    row = next((row for row in document.get("variants", ()) if row["chosen"]), None)
    if row is None:
        return ""
    file = "the model file" if row["variant"] == "model file" else f"variant {row['variant']}"
    return f" from {file} (quality {dash(row['quality'], '.4g')})"


def runs(stages: list[dict[str, str]]) -> str:
    """Consecutive stages on one choice as one item."""
    counted = _counted([stage["accelerator"] for stage in stages])
    return " → ".join(f"{name} ({count} stage{'s' if count > 1 else ''})" for name, count in counted)


def _variant(row: dict[str, Any]) -> list[str]:
    latency_s = row["latency_s"]
    return [
        "►" if row["chosen"] else "", row["variant"], dash(row["quality"], ".4g"),
        ", ".join(row["accelerators"]) or "–",
        dash(None if latency_s is None else latency_s * 1e3, ".4g"), dash(row["energy_j"], ".4g"), row["why"] or "",
    ]  # fmt: skip


def show_front(document: dict[str, Any], chosen: dict[str, Any] | None) -> None:
    """The front as a table; of a long one every so manieth point, and the chosen one, which may lie beside it."""
    front = document["front"]
    certificate = "exact" if document["exact"] else "best known, not certified"
    many = f"{len(front)} placement{'s' if len(front) != 1 else ''}"
    title = f"Pareto front: {many}, {certificate}, {document['method']}, {document['elapsed_ms']:.0f} ms"
    step = max(1, -(-len(front) // MAX_ROWS))
    own = None if chosen is None else chosen["assignment"]
    at = next((i for i, p in enumerate(front) if p["assignment"] == own), None)
    shown = [(str(i), p) for i, p in enumerate(front) if i % step == 0 or i == at]
    beside = chosen is not None and at is None
    if chosen is not None and beside:
        values = [chosen["energy_j"], chosen["latency_s"], chosen["underutilisation"]]
        shown.append(("–", chosen | {"objectives": values}))
    paced = all("period_s" in p for _, p in shown)
    names = document["accelerators"]
    rows = [
        ["►" if p["assignment"] == own else "", number, dash(p["objectives"][0], ".5g"),
         dash(p["objectives"][1] * 1e3, ".5g"), *([dash(p["period_s"] * 1e3, ".5g")] if paced else []),
         dash(p["objectives"][2], ".3f"), _short([names[a] for a in p["assignment"]])]
        for number, p in shown
    ]  # fmt: skip
    columns = [
        "",
        "#",
        "J",
        "ms",
        *(["period ms"] if paced else []),
        "under-utilisation",
        "accelerator × stages, in order",
    ]
    print_table(title, columns, rows)
    click.echo(LEGEND)
    if beside:
        click.echo("the chosen one keeps a limit that the front breaks, so it is not on it and has no number")
    if step > 1:
        click.echo(f"one placement in {step} is shown; --json has all")
    click.echo()


def _counted(names: Sequence[str]) -> list[tuple[str, int]]:
    parts: list[tuple[str, int]] = []
    for name in names:
        if parts and parts[-1][0] == name:
            parts[-1] = (name, parts[-1][1] + 1)
        else:
            parts.append((name, 1))
    return parts


def _short(names: Sequence[str]) -> str:
    """`gpu×3 npu×9`, cut where it is long."""
    text = ""
    parts = _counted(names)
    for at, (name, count) in enumerate(parts):
        more = f"{text} {name}×{count}".strip()
        if len(more) > _WIDEST and text:
            left = len(parts) - at
            return f"{text} … {left} more run{'s' if left > 1 else ''}"
        text = more
    return text
