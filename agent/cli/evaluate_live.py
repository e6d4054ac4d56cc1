"""`qeil evaluate --live`: strategies asked of an agent, which draws no more samples than each of them wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.tables import dash, print_table
from agent.errors import BadInput

if TYPE_CHECKING:
    from agent.evaluation.questions.endpoint import Endpoint
    from agent.evaluation.questions.question import Questions
    from agent.sampling.strategy import Strategy

POOLED = ("standard", "greedy-v1", "beta-matched")
Progressing = Callable[[], AbstractContextManager[Callable[[int, int], None]]]


def refuse_misplaced(options: dict[str, Any]) -> None:
    """Raise BadInput for what does not go with --live, and for questions side by side where nobody serves them."""
    if options["url"] is None and options["parallel"] > 1:
        raise BadInput("--parallel needs --url: a folder in this process answers one question at a time")
    if options["live"] is None:
        return
    if options["url"] is None:
        raise BadInput("--live needs --url: an agent draws the samples")
    pooled = [name.strip() for name in options["live"].split(",") if name.strip() in POOLED]
    if pooled:
        raise BadInput(f"--live {pooled[0]}: it is a way to price or to tune on a pool, which no agent answers by")
    if options["dataset"] == "wikitext" or options["report"] is not None or options["verify"]:
        raise BadInput("--live is of questions and prints one table; it takes no wikitext, --report or --verify")


def asked_live(
    questions: Questions, endpoints: Sequence[Endpoint], strategies: dict[str, Strategy], header: dict[str, Any],
    options: dict[str, Any], progress: Progressing,
) -> dict[str, Any]:  # fmt: skip
    """Ask what the run lacks; everything found."""
    from agent.evaluation.questions import beside
    from agent.evaluation.questions.live import LiveBook, ask_all

    settings = {name: asdict(strategy) for name, strategy in strategies.items()}  # "qeil" alone says not what it is
    book = LiveBook(options["out"], header | {"parallel": options["parallel"], "strategies": settings})
    try:
        with progress() as progressed:
            failed = ask_all(questions, strategies, endpoints, book, options["seed"], progressed, options["ask"])
    finally:
        book.close()
    for name, why in list(failed.items())[:1]:
        click.echo(
            f"‼ {len(failed)} questions failed, the first, {name}, because {why}; they are left out, and asked again "
            "when the run is resumed", err=True,
        )  # fmt: skip
    return beside.build(questions, book, list(strategies))


def is_live(run: Path) -> bool:
    """Whether a folder holds live answers and no samples."""
    from agent.evaluation.questions import journal, live

    there = {path.name.removesuffix(".gz") for path in run.iterdir()} if run.is_dir() else set()
    return live.FILE in there and journal.FILE not in there


def replayed_live(run: Path, load: Callable[[dict[str, Any]], Questions]) -> dict[str, Any]:
    """What a run found. `load` gives the questions of its header. Raises BadInput for other questions."""
    from agent.evaluation.questions import beside
    from agent.evaluation.questions.live import LiveBook

    book = LiveBook(run, None)
    if not book.header:
        raise BadInput(f"{run}: no recording of `qeil evaluate`, the line that says what it is of is missing")
    questions = load(book.header)
    if book.header.get("questions_sha256") != questions.digest():
        raise BadInput(f"{run} is of other questions than those given")
    return beside.build(questions, book, book.strategies())


def print_live(document: dict[str, Any]) -> None:
    """The table, and what each strategy took of what the first one did."""
    click.echo(
        f"{document['model']} on {document['dataset']}: {document['n']} questions answered live, "
        f"{document['parallel']} in flight\n"
    )
    if document["left_out"]:
        click.echo(f"‼ {document['left_out']} questions lack an answer of some strategy: left out")
    print_table(
        "Strategies, each with samples of its own",
        ["strategy", "right", "95 %", "samples", "tokens", "J", "certified", "no answer"],
        [
            [
                row["strategy"], f"{row['accuracy']:.1%}",
                f"{row['accuracy_interval'][0]:.1%}–{row['accuracy_interval'][1]:.1%}", f"{row['samples']:.2f}",
                f"{row['tokens']:.1f}", dash(row["energy_j"], ".3g"), f"{row['certified_share']:.0%}",
                str(row["no_answer"]),
            ]
            for row in document["live"]
        ],
    )  # fmt: skip
    compared = [row for row in document["live"] if row["beside"] is not None]
    if compared:
        print_table(
            f"Beside {document['reference']}, with 95 % intervals", ["strategy", "right", "tokens", "J", "same answer"],
            [
                [
                    row["strategy"], _interval(row["beside"]["right_more"], "+.1%"),
                    _interval(row["beside"]["tokens"], ".1%"), _interval(row["beside"]["energy_j"], ".1%"),
                    f"{row['beside']['same_answer']:.1%}",
                ]
                for row in compared
            ],
        )  # fmt: skip
    for row in compared:
        known = row["beside"]["energy_pairs"]
        if 0 < known < document["n"]:
            click.echo(f"‼ {row['strategy']}: joules beside are of the {known} questions where both are known")
    for row in document["live"][:1]:
        click.echo(f"joules {row['provenance']}; those of a step are shared evenly by the samples that took it")
    for skipped in document["skipped"][:10]:
        click.echo(f"‼ line {skipped['line']} skipped: {skipped['reason']}")


def _interval(values: list[float | None] | None, form: str) -> str:
    if values is None or values[0] is None:
        return "–"
    told = format(values[0], form)
    low, high = values[1:]
    return told if low is None or high is None else f"{told} ({format(low, form)} to {format(high, form)})"
