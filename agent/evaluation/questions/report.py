"""Report: an evaluation as one HTML file with its plots inside, for screens of any width and for paper."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import Any

from agent import extras
from agent.errors import QeilError, StorageError

FITTING = 5
"""Columns that a phone shows side by side; rows of more become cards there."""
TRACED = 5
"""Questions whose checks are shown."""

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; background: #fff; border-radius: .5rem; padding: .5rem; }
figure svg { width: 100%; height: auto; }
.note { background: var(--soft); padding: .5rem .8rem; border-radius: .4rem; }
@media screen and (max-width: 36rem) {
  table { font-size: .85rem; } th, td { padding: .3rem .25rem; white-space: normal; }
  .wide, .wide tbody, .wide td { display: block; } .wide thead { display: none; }
  .wide tr { display: grid; grid-template-columns: repeat(3, 1fr); border-bottom: 1px solid var(--line); }
  .wide td { border: 0; text-align: left; overflow-wrap: anywhere; }
  .wide td:first-child { grid-column: 1 / -1; font-weight: 600; padding-bottom: 0; }
  .wide td:first-child::before { content: attr(data-name) " "; font-weight: 400; opacity: .8; }
  .wide td:not(:first-child)::before { content: attr(data-name); display: block; font-size: .75rem; opacity: .8; }
}
@media print {
  body { max-width: none; font-size: 11pt; padding: 0; } table { font-size: 8.5pt; }
  th, td { padding: .2rem .35rem; white-space: normal; }
  .scroll { overflow: visible; } figure { break-inside: avoid; max-width: 13cm; } tr, h2, h3 { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
"""


def write(document: dict[str, Any], target: Path) -> None:
    """Write the report. Raises QeilError without matplotlib, StorageError where the file cannot be written."""
    page = render(document)
    try:
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{target}: {error.strerror or error}") from error


def render(document: dict[str, Any]) -> str:
    """The page."""
    title = f"{document['model']} on {document['dataset']}"
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>{_text(title)}</h1>", f"<p>{_text(_summary(document))}</p>",
        "<h2>Strategies on the same samples</h2>", _strategies(document),
        f"<p class='note'>{_text(batch_sentence(document))}</p>",
        f"<figure>{_svg(_draw_strategies, document)}</figure>",
        _papers(document), _matched(document), _cascade(document["eac"]),
        "<h2>Chance that at least one of k samples is right</h2>", _passes(document),
        f"<figure>{_svg(_draw_coverage, document)}</figure>", f"<p class='note'>{_text(fit_sentence(document))}</p>",
        _skipped(document), "</main></body></html>",
    ]  # fmt: skip
    return "\n".join(parts)


def fit_sentence(document: dict[str, Any]) -> str:
    """The coverage law of the run in a sentence, or why there is none."""
    fit = document["fits"]["coverage"]
    if fit["unsupported_because"]:
        return f"No coverage law is claimed: {fit['unsupported_because']}."
    alpha, beta = fit["alpha_interval"], fit["beta_interval"]
    return (
        f"{fit['law']} with alpha {fit['alpha']:.3g} ({alpha[0]:.3g} to {alpha[1]:.3g}) and beta {fit['beta']:.3g} "
        f"({beta[0]:.3g} to {beta[1]:.3g}), R² {fit['r_squared']:.3f}."
    )


def batch_sentence(document: dict[str, Any]) -> str:
    """What all samples cost in one batch, beside what they cost as drawn; nothing where no joules are known."""
    found, samples = document["one_batch"], document["samples_per_question"]
    if found["as_drawn_j"] is None:
        return ""
    if found["batches"] == 1:
        return f"Joules of all {samples} samples are those of one batch, which they were drawn in."
    drawn = f"Joules of all {samples} samples ({found['as_drawn_j']:.3g}) are those of several batches"
    if found["at_once_j"] is None:
        return f"{drawn}; one batch costs less, which these batches do not tell: no saving against it can be claimed."
    sizes = " and ".join(map(str, found["sizes"]))
    priced = ", the price of greedy-v1" if any(row["strategy"] == "greedy-v1" for row in document["strategies"]) else ""
    return (
        f"{drawn}; one batch would take {found['at_once_j']:.3g} J{priced}, on the line through those of {sizes} "
        f"that were drawn."
    )


def _summary(document: dict[str, Any]) -> str:
    energy = document["energy_j"]
    joules = "joules unknown" if energy is None else f"{energy:.4g} J {document['provenance']}"
    return (
        f"{document['n']} questions, {document['samples_per_question']} samples each beside a greedy answer, "
        f"{document['tokens']} tokens, {joules}. {document['no_answer']} samples gave no answer that could be read; "
        f"{len(document['skipped'])} lines of the file were skipped."
    )


def _strategies(document: dict[str, Any]) -> str:
    head = ["strategy", "right", "95 % interval", "samples", "tokens", "joules", "certified", "of those not the mode"]
    rows = [
        [
            row["strategy"], f"{row['accuracy']:.1%}",
            f"{row['accuracy_interval'][0]:.1%} – {row['accuracy_interval'][1]:.1%}", f"{row['samples']:.2f}",
            f"{row['tokens']:.0f}", "unknown" if row["energy_j"] is None else f"{row['energy_j']:.3g}",
            f"{row['certified_share']:.0%}",
            "–" if row["not_the_pools_mode"] is None else f"{row['not_the_pools_mode']:.1%}",
        ]
        for row in document["strategies"]
    ]  # fmt: skip
    return _table(head, rows)


def _matched(document: dict[str, Any]) -> str:
    if not document["matched"]:
        return ""
    head = ["alpha", "error", "samples", "tokens", "Beta at", "error", "samples", "tokens"]
    rows = [
        [
            f"{row['alpha']:g}", f"{row['error']:.2%}", f"{row['samples']:.2f}", f"{row['tokens']:.1f}",
            *(
                ["–"] * 4 if row["beta_threshold"] is None else
                [
                    f"{row['beta_threshold']:g}", f"{row['beta_error']:.2%}", f"{row['beta_samples']:.2f}",
                    f"{row['beta_tokens']:.1f}",
                ]
            ),
        ]
        for row in document["matched"]
    ]  # fmt: skip
    return (
        "<h2>A certified majority, and Beta stopping that errs as often</h2>"
        + _table(head, rows)
        + "<p>An error is an "
        "answer that another one outnumbers in the whole pool. Both also stop where the samples left cannot change the "
        "vote. Means over 20 orders of every pool.</p>"
    )


def _papers(document: dict[str, Any]) -> str:
    """Coverage, power and what follows from them; nothing where no joules are known."""
    head = ["strategy", "covered", "joules", "s", "W", "IPW %/W", "ECE 1/J"]
    rows = [
        [
            row["strategy"], f"{row['coverage']:.1%}", f"{row['energy_j']:.3g}", f"{row['seconds']:.3g}",
            *("–" if row[key] is None else f"{row[key]:.3g}" for key in ("mean_power_w", "ipw", "ece")),
        ]
        for row in document["strategies"] if row["energy_j"] is not None
    ]  # fmt: skip
    title = f"<h2>As the papers have it, joules {_text(document['provenance'])}</h2>"
    return title + _table(head, rows) if rows else ""


def _cascade(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    head = ["", "right", "95 % interval", "verifier calls", "joules of checks"]
    rows = [
        [
            name, f"{row['accuracy']:.1%}", f"{row['accuracy_interval'][0]:.1%} – {row['accuracy_interval'][1]:.1%}",
            str(row["verifier_calls"]), f"{row['checks_j']:.3g}",
        ]
        for name, row in (("cascade", found), ("every answer verified", found["every"]))
    ]  # fmt: skip
    asked = [one for one in found["trace"] if one["checks"]]
    steps = [
        [
            one["question"], step["answer"], step["check"], step["outcome"], f"{step['joules']:.3g}",
            f"{step['belief']:.0%}",
        ]
        for one in asked[:TRACED] for step in one["checks"]
    ]  # fmt: skip
    avoided = "" if found["avoided"] is None else f"<p>{found['avoided']:.0%} of the verifier's calls avoided.</p>"
    shown = "" if not steps else (
        f"<h3>Checks of the first {min(TRACED, len(asked))} questions of {len(asked)} that were checked</h3>"
        + _table(["question", "answer", "check", "verdict", "joules", "belief afterwards"], steps)
    )  # fmt: skip
    return f"<h2>Cascade of checks (EAC)</h2>{_table(head, rows)}{avoided}{shown}"


def _passes(document: dict[str, Any]) -> str:
    rows = [[k, f"{v:.1%}", f"{low:.1%} – {high:.1%}"] for k, (v, low, high) in document["pass_at"].items()]
    return _table(["k", "pass@k", "95 % interval"], rows)


def _skipped(document: dict[str, Any]) -> str:
    if not document["skipped"]:
        return ""
    rows = [[str(s["line"]), s["reason"]] for s in document["skipped"][:100]]
    return "<h2>Lines without a question</h2>" + _table(["line", "why"], rows)


def _table(head: list[str], rows: list[list[str]]) -> str:
    cells = "".join(f"<th scope='col'>{_text(name)}</th>" for name in head)
    body = "".join(
        "<tr>"
        + "".join(f"<td data-name='{_text(name)}'>{_text(cell)}</td>" for name, cell in zip(head, row, strict=True))
        + "</tr>"
        for row in rows
    )
    wide = " class='wide'" if len(head) > FITTING else ""
    return f"<div class='scroll'><table{wide}><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"


def _text(value: object) -> str:
    return html.escape(str(value))


def _svg(draw: Any, document: dict[str, Any]) -> str:
    try:
        import matplotlib as mpl  # noqa: PLC0415  (an extra)
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise QeilError(f"matplotlib is not installed: {extras.command('plots')}") from error
    figure = Figure(figsize=(5.2, 3.4 + 0.09 * len(document["strategies"])), layout="constrained")
    draw(figure.subplots(), document)
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": draw.__name__}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]


def _draw_strategies(axes: Any, document: dict[str, Any]) -> None:
    from matplotlib import color_sequences  # noqa: PLC0415  (an extra)

    joules = all(row["energy_j"] is not None for row in document["strategies"])
    axes.set_prop_cycle(color=[*color_sequences["tab10"], *color_sequences["Dark2"]])
    for row, marker in zip(document["strategies"], "osD^vP*XhH8<>dp", strict=False):
        cost = row["energy_j"] if joules else row["tokens"]
        low, high = row["accuracy_interval"]
        share = row["accuracy"] * 100
        reach = [[max(0.0, share - low * 100)], [max(0.0, high * 100 - share)]]
        axes.errorbar(cost, share, yerr=reach, fmt=marker, capsize=2, label=row["strategy"], elinewidth=0.8)
    axes.set_xlabel(f"joules per question, {document['provenance']}" if joules else "tokens per question")
    axes.set_ylabel("right answers [%]")
    axes.set_xlim(left=0)
    axes.grid(visible=True, alpha=0.3)
    axes.figure.legend(loc="outside lower center", ncols=2, fontsize=8)  # beside the points it would cover some


def _draw_coverage(axes: Any, document: dict[str, Any]) -> None:
    ks = [int(k) for k in document["pass_at"]]
    values = [[v * 100 for v in row] for row in document["pass_at"].values()]
    axes.fill_between(ks, [v[1] for v in values], [v[2] for v in values], alpha=0.2, label="95 % interval")
    axes.plot(ks, [v[0] for v in values], "o-", label="pass@k, unbiased")
    axes.set_xscale("log", base=2)
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.set_xlabel("samples k")
    axes.set_ylabel("questions [%]")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=8)
