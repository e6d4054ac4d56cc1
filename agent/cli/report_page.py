"""Page of `qeil report`: telemetry rows as one HTML file with its plots inside, which loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from html import escape
from typing import Any, NamedTuple

WIDTH, HEIGHT = 860, 220
LEFT, RIGHT, TOP, BOTTOM = 60, 12, 12, 26
MOST_EVENTS = 200
_HIDDEN = frozenset({"ts", "mono", "tq", "event"})
GAP_WINDOWS = 3.0
"""A line is broken where more than so many windows are missing."""
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "5 5")
COLOURS = ("#0a5fb4", "#b3541e", "#0f7b5f", "#7a3fb0", "#9a1f5f", "#5b6b00")
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#16202b;background:#fff;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin:1.6rem 0 .3rem}table{border-collapse:collapse}
th,td{text-align:left;padding:.25rem 1rem .25rem 0;border-bottom:1px solid #d3dae1;font-variant-numeric:tabular-nums}
th,.dim,text{color:#4a5867;fill:#4a5867}svg{max-width:100%;height:auto}.scroll{overflow-x:auto}
@media(prefers-color-scheme:dark){body{color:#e8edf2;background:#0d1319}th,.dim,text{color:#a7b3bf;fill:#a7b3bf}
th,td{border-color:#2f3b47}path.line{filter:brightness(1.7)}}
"""


class Series(NamedTuple):
    """Values over wall-clock seconds."""

    name: str
    points: tuple[tuple[float, float], ...]


def page(board: str, windows: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]) -> str:
    """The report of a period: at least one telemetry window, in order of time, and the events beside them."""
    begin, end = windows[0]["ts"] - windows[0]["window_s"], windows[-1]["ts"]
    gap_s = GAP_WINDOWS * max(w["window_s"] for w in windows)
    plots = "".join(
        _plot(title, unit, series, begin, end, gap_s)
        for title, unit, series in (
            ("Power", "W", _of(windows, "accelerators", lambda a: _mean(a.get("power_w")))),
            ("Temperature", "°C", _of(windows, "accelerators", lambda a: _mean(a.get("temperature_c")))),
            ("Median latency", "ms", _of(windows, "models", lambda m: m.get("p50_ms"))),
            ("Requests", "1/s", _rates(windows)),
        )
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(board)}: {_stamp(begin)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{escape(board)}, {_stamp(begin)} to {_stamp(end)}</h1>"
        f'<p class="dim">{len(windows)} telemetry windows, {len(events)} events; times are UTC. '
        "Temperatures and watts are readings of sensors (or of a simulated accelerator); joules are what their "
        "provenance says.</p>"
        f"<h2>Models</h2>{_models(windows)}{plots}<h2>Events</h2>{_events(events)}</main></body></html>\n"
    )


def _mean(summary: Mapping[str, float] | None) -> float | None:
    return summary["mean"] if summary else None


def _of(windows: Sequence[Mapping[str, Any]], group: str, value: Any) -> list[Series]:
    found: dict[str, list[tuple[float, float]]] = {}
    for window in windows:
        for name, row in window[group].items():
            number = value(row)
            if number is not None:
                found.setdefault(name, []).append((window["ts"], number))
    return [Series(name, tuple(points)) for name, points in found.items()]


def _rates(windows: Sequence[Mapping[str, Any]]) -> list[Series]:
    found: dict[str, list[tuple[float, float]]] = {}
    for window in windows:
        if window["window_s"] > 0:
            for name, row in window["models"].items():
                found.setdefault(name, []).append((window["ts"], row["requests"] / window["window_s"]))
    return [Series(name, tuple(points)) for name, points in found.items()]


def _models(windows: Sequence[Mapping[str, Any]]) -> str:
    names = dict.fromkeys(name for w in windows for name in w["models"])
    rows = []
    for name in names:
        mine = [w["models"][name] for w in windows if name in w["models"]]
        known = [m for m in mine if "energy_j" in m]
        answered = sum(m["requests"] - m["failed"] for m in known)
        energies = [m["energy_j"] for m in known]
        kinds = sorted({m["provenance"] for m in mine if m["requests"]})
        per = sum(energies) / answered if energies and answered else None
        rows.append(
            [
                name, str(sum(m["requests"] for m in mine)), str(sum(m["failed"] for m in mine)),
                str(sum(m["replayed"] for m in mine)), ", ".join(dict.fromkeys(m["placement"] or "–" for m in mine)),
                "–" if per is None else f"{per:.3g}", ", ".join(kinds) or "–",
            ]
        )  # fmt: skip
    return _table(["model", "requests", "failed", "moved", "ran on", "J per answer", "joules are"], rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _events(events: Sequence[Mapping[str, Any]]) -> str:
    if not events:
        return '<p class="dim">none</p>'
    rows: list[tuple[str, str, str, int]] = []
    for e in events:
        what = str(e["event"]).replace("_", " ")
        details = ", ".join(f"{k} {v}" for k, v in e.items() if k not in _HIDDEN and isinstance(v, str | int | float))
        if rows and rows[-1][1:3] == (what, details):
            rows[-1] = (*rows[-1][:3], rows[-1][3] + 1)
        else:
            rows.append((_stamp(e["ts"]), what, details, 1))
    shown = [(when, what if times == 1 else f"{what} × {times}", details) for when, what, details, times in rows]
    left = len(shown) - MOST_EVENTS
    more = f'<p class="dim">and {left} earlier ones; --json has all</p>' if left > 0 else ""
    return _table(["when", "what", "details"], shown[-MOST_EVENTS:]) + more


def _plot(title: str, unit: str, series: Sequence[Series], begin: float, end: float, gap_s: float) -> str:
    heading = f"<h2>{escape(title)}, {escape(unit)}</h2>"
    if not series:
        return f'{heading}<p class="dim">no figures: nothing measures this here</p>'
    values = [v for s in series for _, v in s.points]
    low, high = min(0.0, *values), max(values)
    top = high + (high - low or 1.0) * 0.05

    def at(t: float, v: float) -> str:
        x = LEFT + (t - begin) / max(end - begin, 1.0) * (WIDTH - LEFT - RIGHT)
        return f"{x:.1f} {TOP + (top - v) / (top - low) * (HEIGHT - TOP - BOTTOM):.1f}"

    parts = []
    for n in range(5):
        value = low + (top - low) * n / 4
        y = at(begin, value).split()[1]
        parts.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#8884" fill="none"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y}" text-anchor="end" font-size="11">{value:.3g}</text>')
        when = begin + (end - begin) * n / 4
        anchor = "start" if n == 0 else "end" if n == 4 else "middle"
        x = at(when, low).split()[0]
        parts.append(
            f'<text x="{x}" y="{HEIGHT - 6}" text-anchor="{anchor}" font-size="11">{_stamp(when)[11:16]}</text>'
        )
    legend = []
    for index, one in enumerate(series):
        look = f'stroke="{COLOURS[index % 6]}" stroke-dasharray="{DASHES[index % 6]}" fill="none" stroke-width="1.8"'
        parts.append(f'<path class="line" {look} d="{_line(one.points, at, gap_s)}"/>')
        swatch = f'<svg width="26" height="8" aria-hidden="true"><path class="line" {look} d="M0 4H26"/></svg>'
        legend.append(f"{swatch} {escape(one.name)}")
    spoken = "; ".join(
        f"{s.name} {min(v for _, v in s.points):.3g} to {max(v for _, v in s.points):.3g} {unit}" for s in series
    )
    return (
        f'{heading}<p>{" &nbsp; ".join(legend)}</p><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}: {escape(spoken)}">{"".join(parts)}</svg>'
    )


def _line(points: Sequence[tuple[float, float]], at: Any, gap_s: float) -> str:
    steps, before = [], float("-inf")
    for t, v in points:
        steps.append(f"{'L' if t - before <= gap_s else 'M'}{at(t, v)}")
        before = t
    return "".join(steps)


def _stamp(wall_s: float) -> str:
    return f"{datetime.fromtimestamp(wall_s, timezone.utc):%Y-%m-%d %H:%M:%S}"
