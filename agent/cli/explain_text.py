"""Sentences of `qeil explain`: the choice, what binds, and what would change it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from agent.cli.board_choice import headline, prediction
from agent.cli.tables import dash, print_table

Row = dict[str, Any]
_ROUNDING = 1e-9
"""Two ways of adding up the same joules differ by less, and two placements that cost the same."""


def amount(value: float, unit: str) -> str:
    """A number with its unit, seconds as milliseconds where that reads better."""
    if unit == "s" and abs(value) < 1.0:
        return f"{value * 1e3:.4g} ms"
    if unit == "s/J":
        return f"{value * 1e3:.4g} ms/J"
    return f"{value:.4g} {unit}".rstrip()


def exact(value: float, unit: str) -> str:
    """A value that was tried, with as many digits as it has: rounded to fewer it need not do what is said of it."""
    if unit == "s" and abs(value) < 1.0:
        return f"{value * 1e3:.12g} ms"
    if unit == "s/J":
        return f"{value * 1e3:.12g} ms/J"
    return f"{value:.12g} {unit}".rstrip()


def effect(energy_j: float | None, latency_s: float | None) -> str:
    """What a change brings, as `saves 40 ms and 0.1 J` or `saves 40 ms, costs 0.1 J`; empty where nobody knows."""
    parts = [(v, amount(abs(v), unit)) for v, unit in ((latency_s, "s"), (energy_j, "J")) if v]
    saves = " and ".join(text for value, text in parts if value < 0)
    costs = " and ".join(text for value, text in parts if value > 0)
    return ", ".join(f"{verb} {text}" for verb, text in (("saves", saves), ("costs", costs)) if text)


def binding_sentence(bound: Row) -> str:
    """One limit that binds, and the price of the next bit of it."""
    now = "" if bound["now"] is None else f" {amount(bound['now'], bound['unit'])}"
    brings = effect(bound["energy_j"], bound["latency_s"])
    text = f"{bound['limit']}{now}: without it, {bound['then']}" + (f"; that {brings}" if brings else "")
    least = bound["least"]
    if least is None:
        return text
    more = amount(abs(least["at"] - least["now"]), bound["unit"])
    which = "more" if least["at"] > least["now"] else "less"
    brings = effect(least["energy_j"], least["latency_s"]) or "makes no difference"
    return f"{text}. {exact(least['at'], bound['unit'])}, about {more} {which}, already {brings} ({least['then']})"


def flip_sentence(flip: Row) -> str:
    """One number, its value that flips the choice, and what that brings."""
    unit = flip["unit"]
    then = "nothing could be served" if flip["then"] is None else flip["then"]
    brings = effect(flip["energy_j"], flip["latency_s"])
    now, at = flip["now"], flip["at"]
    if now and abs(at / now - 1) < _ROUNDING:
        return f"{flip['what']}: a tie, any change of it decides: {then}"
    if now is None:
        start = f"{flip['what']} set to {exact(at, unit)}"
    elif flip["kind"] == "coefficient":
        values = f" (from {now:.4g} to {at:.6g} {unit})" if unit else ""
        start = f"{flip['what']} {100 * (at / now - 1):+.10g} %{values}"
    else:
        start = f"{flip['what']} from {amount(now, unit)} to {exact(at, unit)}"
    unsure = "" if flip["certain"] else " (perhaps earlier: the search is no proof)"
    return f"{start}: {then}{'; that ' + brings if brings and flip['then'] else ''}{unsure}"


def print_document(document: Row, every: bool) -> None:
    """All of it, of a model or of one's own tables; `every`: the coefficients of every placement."""
    own_tables = "parts" in document
    if own_tables:
        print_parts(document)
    else:
        click.echo(headline(document))
    for entry in document["placements"]:
        print_placement(entry, entry["accelerator"] == document["chosen"], every)
    print_why(document)
    if not own_tables:
        click.echo(f"  {prediction(document)}")
    for left_out in document["rejected"]:
        click.echo(f"left out: {left_out['accelerator']}: {left_out['why']}")
    for note in document["notes"]:
        click.echo(f"note: {note}")


def print_phases(documents: list[Row], every: bool) -> None:
    """Each phase of a language model with a choice of its own, then both choices in a sentence each."""
    for document in documents:
        print_document(document, every)
        click.echo()
    for document in documents:
        click.echo(phase_sentence(document))


def phase_sentence(document: Row) -> str:
    """`decode: cpu, 90 % of its time bound by memory; next is gpu: costs 3 ms`."""
    entry = next(e for e in document["placements"] if e["accelerator"] == document["chosen"])
    bounds = {"arithmetic": entry["compute_bound_s"], "memory": entry["memory_bound_s"],
              "launching nodes": entry["launches_s"], "dispatch": entry["overhead_s"]}  # fmt: skip
    by, bound_s = max(bounds.items(), key=lambda item: item[1])
    share = f"{bound_s / entry['time_s']:.0%} of its {amount(entry['time_s'], 's')} bound by {by}"
    second = document["runner_up"]
    after = "nothing else may be chosen" if second is None else f"next is {second['name']}: {_than(document)}"
    return f"{document['phase']}: {document['chosen']}, {share}; {after}"


def _than(document: Row) -> str:
    """What the runner-up saves and costs beside the choice."""
    chosen, second = document["choice"], document["runner_up"]
    known = None not in (second["energy_j"], chosen["energy_j"])
    energy_j = second["energy_j"] - chosen["energy_j"] if known else None
    return effect(energy_j, second["latency_s"] - chosen["latency_s"]) or "costs the same"


def print_why(document: Row) -> None:
    """The choice, the runner-up, limits and flips."""
    for sentence in why_sentences(document):
        click.echo(sentence)


def why_sentences(document: Row) -> Iterator[str]:
    """The same, sentence by sentence."""
    chosen, second = document["choice"], document["runner_up"]
    joules = "energy unknown" if chosen["energy_j"] is None else f"{chosen['energy_j']:.4g} J"
    yield f"chosen under {document['policy']}: {chosen['name']}: {joules}, {amount(chosen['latency_s'], 's')}"
    yield f"  why: {document['why']}"
    if second is None:
        yield "  runner-up: none; nothing else may be chosen"
    else:
        use = second["underutilisation"] - chosen["underutilisation"]
        yield f"  runner-up: {second['name']}: {_than(document)}; under-utilisation {use:+.2f}"
    if not document["binding"]:
        yield "  binds: no limit; lifting any of them changes nothing"
    for bound in document["binding"]:
        yield f"  binds: {binding_sentence(bound)}"
    for flip in document["flips"]:
        yield f"  would change it: {flip_sentence(flip)}"
    if not document["flips"]:
        yield "  would change it: no weight, price, limit or coefficient within a factor of 2"


def print_parts(document: Row) -> None:
    """Where the joules and seconds of a placement of one's own tables go."""
    rows = [
        [p["name"], str(p["stages"]), f"{p['energy_j']:.4g}", amount(p["latency_s"], "s")] for p in document["parts"]
    ]
    print_table(f"The chosen one of a front of {document['front']}", ["accelerator", "stages", "J", "time"], rows)


def print_placement(entry: Row, chosen: bool, every: bool) -> None:
    """One placement taken apart; `every`: with its coefficients although it is not the chosen one."""
    mark = "► " if chosen else "  "
    click.secho(f"{mark}{entry['accelerator']} through {entry['provider']} (modelled)", bold=chosen)
    click.echo(
        f"    {entry['time_s'] * 1e3:.4g} ms = {entry['compute_bound_s'] * 1e3:.4g} bound by compute + "
        f"{entry['memory_bound_s'] * 1e3:.4g} by memory + {entry['launches_s'] * 1e3:.4g} launching nodes + "
        f"{entry['overhead_s'] * 1e3:.4g} dispatch; "
        f"DASI {entry['dasi']:.2f}"
    )
    click.echo(
        f"    {dash(entry['energy_j'], '.4g')} J = {dash(entry['switching_j'], '.4g')} switching + "
        f"{dash(entry['static_j'], '.4g')} being on; thermal yield Φ {dash(entry['thermal_yield'], '.2f')}"
    )
    if not chosen and not every:
        return
    rows = [_coefficient_row(c) for c in entry["coefficients"]]
    columns = ["coefficient", "value", "J of the answer", "+1 %: energy", "time", "is", "source"]
    print_table("", columns, rows)
    for sentence in around(entry):
        click.echo(f"    {sentence}")
    for note in entry["notes"]:
        click.echo(f"    note: {note}")


def around(entry: Row) -> Iterator[str]:
    """The placement beside others, at another clock, warm, and its energy in the second form."""
    about = entry["surroundings"]
    if None not in (about["intensity_flops_per_byte"], about["ridge_flops_per_byte"]):
        yield (
            f"{about['intensity_flops_per_byte']:.3g} operations per byte moved; arithmetic binds from "
            f"{about['ridge_flops_per_byte']:.3g} on"
        )
    beside, thrifty, settled = about["beside"], about["thriftiest"], about["settled"]
    if beside is not None:
        left, alone = beside["bandwidth_bytes_per_s"] / 1e9, beside["bandwidth_alone_bytes_per_s"] / 1e9
        yield (
            f"beside {' and '.join(beside['others'])} drawing all they can from {beside['domain']}: "
            f"{amount(beside['time_s'], 's')} ({_more(beside['time_s'], entry['time_s'])}), {left:.3g} of {alone:.3g} "
            f"GB/s left"
        )
    if thrifty is not None and entry["energy_j"] is not None:
        yield (
            f"fewest joules at {thrifty['clock_share']:.0%} of the clock where arithmetic binds: "
            f"{thrifty['energy_j']:.4g} J ({_more(thrifty['energy_j'], entry['energy_j'])}), "
            f"{amount(thrifty['time_s'], 's')}"
        )
    if settled is not None and settled["temperature_c"] is None:
        yield "back to back in air of 25 °C leakage outweighs the cooling: it runs away"
    elif settled is not None:
        leak = "leakage unknown"
        if settled["leakage_w"] is not None:
            leak = (
                f"{settled['leakage_w']:.3g} W of it leakage, loop gain {settled['loop_gain']:.2g} (runs away at 1), "
                f"power {100 * settled['drift_in_an_hour']:+.1f} % in an hour at fixed clocks"
            )
        yield f"back to back in air of 25 °C it settles at {settled['temperature_c']:.0f} °C by its own heat; {leak}"
    if about["energy_by_yield_j"] is not None:
        same = about["forms_apart"] < _ROUNDING
        apart = "the same to rounding" if same else f"{about['forms_apart']:.2g} of it apart: one of the forms is wrong"
        of = "" if about["leakage_known"] else " (its leakage is unknown: base power alone)"
        yield (
            f"{'' if same else '‼ '}in the other form, switching / Φ from operations, bytes and powers{of}: "
            f"{about['energy_by_yield_j']:.4g} J, {apart}"
        )


def _more(value: float, than: float) -> str:
    change = f"{100 * (value / than - 1):+.0f} %" if than else "–"
    return "the same" if change in ("+0 %", "-0 %") else change


def _coefficient_row(row: Row) -> list[str]:
    source = f"{row['file']}:{row['line']} {row['source']}" if row["line"] else row["source"]
    energy_j = "" if row["energy_j"] is None else f"{row['energy_j']:.3g}"
    return [
        row["name"], f"{row['value']:.4g} {row['unit']}", energy_j, _percent(row["energy_per_percent"]),
        _percent(row["latency_per_percent"]), row["provenance"], source,
    ]  # fmt: skip


def _percent(change: float | None) -> str:
    if change is None:
        return "–"
    return "0" if abs(change) < 5e-6 else f"{100 * change:+.2f} %"
