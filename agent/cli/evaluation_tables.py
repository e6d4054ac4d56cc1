"""What `qeil evaluate` found, as tables on the terminal."""

from __future__ import annotations

from typing import Any

import click

from agent.cli.tables import dash, print_table


def print_perplexity(document: dict[str, Any]) -> None:
    """A line."""
    over = f"over {document['tokens']} tokens of {document['documents']} passages"
    if document["impossible"]:
        click.echo(f"{document['dataset']}: no finite perplexity {over}: {document['impossible']} have probability 0")
        return
    if document["perplexity"] is None:
        said = f"beyond what a number holds, {document['nats_per_token']:.4g} nats per token"
    else:
        said = f"{document['perplexity']:.6g}"
    low, high = document["low"], document["high"]
    if document["documents"] < 2:
        interval = "one passage, so no interval"
    elif low is None or high is None:
        interval = "no interval that a number holds"
    else:
        interval = f"{low:.6g} to {high:.6g} at 95 %"
    click.echo(f"{document['dataset']}: perplexity {said} {over} ({interval})")


def print_evaluation(document: dict[str, Any]) -> None:
    """Every table that the document has something for."""
    from agent.evaluation.questions.document import PAPERS
    from agent.evaluation.questions.report import batch_sentence, fit_sentence

    energy = "unknown" if document["energy_j"] is None else f"{document['energy_j']:.4g} J {document['provenance']}"
    click.echo(
        f"{document['model']} on {document['dataset']}: {document['n']} questions, "
        f"{document['samples_per_question']} samples each, {document['tokens']} tokens, energy {energy}\n"
    )
    print_table(
        "Strategies on the same samples",
        ["strategy", "right", "95 %", "samples", "tokens", "J", "certified", "not mode"],
        [
            [
                row["strategy"], f"{row['accuracy']:.1%}",
                f"{row['accuracy_interval'][0]:.1%}–{row['accuracy_interval'][1]:.1%}", f"{row['samples']:.2f}",
                f"{row['tokens']:.0f}", "–" if row["energy_j"] is None else f"{row['energy_j']:.3g}",
                f"{row['certified_share']:.0%}",
                "–" if row["not_the_pools_mode"] is None else f"{row['not_the_pools_mode']:.1%}",
            ]
            for row in document["strategies"]
        ],
    )  # fmt: skip
    if sentence := batch_sentence(document):
        click.echo(f"{sentence}\n")
    if any(row["strategy"] in PAPERS for row in document["strategies"]):
        _print_papers(document)
    if document["matched"]:
        _print_matched(document)
    if document["eac"] is not None:
        _print_cascade(document["eac"])
    print_table(
        "Chance that at least one of k samples is right", ["k", "pass@k", "95 %"],
        [[k, f"{v:.1%}", f"{low:.1%}–{high:.1%}"] for k, (v, low, high) in document["pass_at"].items()],
    )  # fmt: skip
    click.echo(fit_sentence(document))
    for what, key, unit in (("IPW", "ipw", "%/W"), ("ECE", "ece", "1/J"), ("PPP", "ppp", "tokens/(s·USD·W)")):
        if document[key] is not None:
            click.echo(f"{what} {document[key]:.4g} {unit}, from {document['provenance']} joules")
    if document["no_answer"]:
        click.echo(f"‼ {document['no_answer']} samples gave no answer that could be read")
    for skipped in document["skipped"][:10]:
        click.echo(f"‼ line {skipped['line']} skipped: {skipped['reason']}")
    if len(document["skipped"]) > 10:
        click.echo(f"‼ and {len(document['skipped']) - 10} more lines skipped")


def _print_matched(document: dict[str, Any]) -> None:
    """A certified majority beside Beta stopping that errs as often."""
    print_table(
        "Certified majority, and Beta that errs as often",
        ["alpha", "error", "tokens", "Beta at", "error", "tokens"],
        [
            [
                f"{row['alpha']:g}", f"{row['error']:.2%}", f"{row['tokens']:.1f}", dash(row["beta_threshold"], "g"),
                dash(row["beta_error"], ".2%"), dash(row["beta_tokens"], ".1f"),
            ]
            for row in document["matched"]
        ],
    )  # fmt: skip
    click.echo("both also stop where the samples left cannot change the vote\n")


def _print_cascade(found: dict[str, Any]) -> None:
    """The cascade of checks beside verifying every answer."""
    print_table(
        "Cascade of checks (EAC), and every answer verified",
        ["", "right", "verifier calls", "J of checks"],
        [
            [name, f"{row['accuracy']:.1%}", str(row["verifier_calls"]), f"{row['checks_j']:.3g}"]
            for name, row in (("cascade", found), ("every answer verified", found["every"]))
        ],
    )
    if found["avoided"] is not None:
        click.echo(f"{found['avoided']:.0%} of the verifier's calls avoided; verdicts and costs: --json, eac.trace\n")


def _print_papers(document: dict[str, Any]) -> None:
    """What the papers print of their three ways, for this machine."""
    print_table(
        f"As the papers have it, joules {document['provenance']}",
        ["strategy", "covered", "J", "s", "W", "IPW %/W", "ECE 1/J"],
        [
            [
                row["strategy"], f"{row['coverage']:.1%}", dash(row["energy_j"], ".3g"), f"{row['seconds']:.3g}",
                dash(row["mean_power_w"], ".3g"), dash(row["ipw"], ".3g"), dash(row["ece"], ".3g"),
            ]
            for row in document["strategies"]
        ],
    )  # fmt: skip
