"""One table over all boards of a scenario: a line for each model and phase, what every placement takes, and how the
first placement compares with the best of the others."""

from __future__ import annotations

from typing import Any

from agent.cli.tables import print_table

Row = dict[str, Any]


def comparison(document: Row, subject: str = "pgsam") -> list[Row]:
    """A line for each board, model and phase of `subject` beside the other placements.

    energy_ratio: its joules over those of the other placement with fewest; latency_ratio: its seconds over the fastest
    one's; product_ratio: its joules · seconds over the least product of one of them. None where either is missing.
    """
    lines = []
    for board in document["boards"]:
        cells: dict[tuple[str, str], list[Row]] = {}
        for row in board["rows"]:
            cells.setdefault((row["model"], row["phase"]), []).append(row)
        for (model, phase), rows in cells.items():
            own = next((r for r in rows if r["placement"] == subject and r["feasible"]), None)
            others = [r for r in rows if r["placement"] != subject and r["feasible"]]
            lines.append({
                "board": board["board"], "model": model, "phase": phase, "subject": subject,
                "placements": {
                    r["placement"]: {"energy_j": r["energy_j"], "latency_s": r["latency_s"],
                                     "accelerators": r["accelerators"]} if r["feasible"] else {"why_not": r["why_not"]}
                    for r in rows
                },
                "energy_ratio": _ratio(own, others, _joules), "latency_ratio": _ratio(own, others, _seconds),
                "product_ratio": _ratio(own, others, lambda r: _joules(r) * _seconds(r)), "provenance": "modelled",
            })  # fmt: skip
    return lines


def _joules(row: Row) -> float:
    return float(row["energy_j"])


def _seconds(row: Row) -> float:
    return float(row["latency_s"])


def _ratio(own: Row | None, others: list[Row], value: Any) -> float | None:
    if own is None or not others:
        return None
    return float(value(own) / min(value(r) for r in others))


def print_comparison(document: Row) -> None:
    """The lines as one table; requests are left to --json and the means."""
    lines = [line for line in document["comparison"] if line["phase"] != "request"]
    names = list(lines[0]["placements"]) if lines else []
    columns = ["board, model", "phase", *(f"{n.removeprefix('single:')} J/ms" for n in names), "runs on", "J", "ms",
               "J·s"]  # fmt: skip
    rows: list[list[str]] = []
    last: tuple[str, str] = ("", "")
    for line in lines:
        own = line["placements"].get(line["subject"], {})
        here = (line["board"], line["model"])
        if line["board"] != last[0]:
            rows.append([line["board"], *[""] * (len(columns) - 1)])
        rows.append([
            "" if here == last else f"  {line['model']}", line["phase"],
            *(_cell(line["placements"][n]) for n in names), _where(own),
            *(_times(line[key]) for key in ("energy_ratio", "latency_ratio", "product_ratio")),
        ])  # fmt: skip
        last = here
    subject = lines[0]["subject"] if lines else ""
    print_table(
        f"Joules / milliseconds under each placement (modelled); last columns: {subject} over the best of the others",
        columns, rows,
    )  # fmt: skip


def print_reasons(document: Row) -> None:
    """Why a placement has no figures, each reason once with the placements and models it stands for.

    A phase is named where the reason is not the same in all that the model has.
    """
    found: dict[tuple[str, str], tuple[dict[str, None], dict[str, list[str]]]] = {}
    phases: dict[str, set[str]] = {}
    for line in document["comparison"]:
        if line["phase"] == "request":
            continue
        phases.setdefault(line["model"], set()).add(line["phase"])
        for name, cell in line["placements"].items():
            if "why_not" in cell:
                names, models = found.setdefault((line["board"], cell["why_not"]), ({}, {}))
                names[name] = None
                there = models.setdefault(line["model"], [])
                if line["phase"] not in there:
                    there.append(line["phase"])
    rows = [
        [
            board,
            why,
            ", ".join(names),
            ", ".join(_phases(model, there, phases[model]) for model, there in models.items()),
        ]
        for (board, why), (names, models) in found.items()
    ]
    if rows:
        print_table("Where there is a dash", ["board", "why", "placements", "models"], rows)


def _phases(model: str, there: list[str], every: set[str]) -> str:
    return model if set(there) == every else f"{model} {' and '.join(there)}"


def _cell(cell: Row) -> str:
    return "–" if "why_not" in cell else f"{_short(cell['energy_j'])}/{_short(cell['latency_s'] * 1e3)}"


def _short(value: float) -> str:
    """Three digits without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _where(own: Row) -> str:
    return " + ".join(own.get("accelerators", ())) or "–"


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"×{ratio:.2f}"
