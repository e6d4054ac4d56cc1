"""Screen of `qeil top`: status and overview as lines of a given width and height. Pure: no terminal, no clock."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from agent.cli.status import reasons
from agent.cli.tables import dash

Style = Literal["", "bold", "dim", "good", "warn", "bad", "head"]
FAULTS = frozenset({"lane_died", "inference_failed", "model_refused", "policy_rejected", "thermal"})
FEWEST_EVENTS = 3
MOST_UNKNOWN = 6
"""Lines that say why figures are unknown: they stand for days, events come and go."""
BAR = 6
ROOM_FOR_CAUSES = 100
"""Columns from which an accelerator's last fault is told beside the count."""
_STATES: Mapping[str, Style] = {
    "ready": "good", "idle": "dim", "fault": "bad", "quarantined": "bad", "refused": "bad", "unavailable": "bad",
    "stopped": "bad",
}  # fmt: skip


class Span(NamedTuple):
    """A piece of a line."""

    text: str
    style: Style = ""


Line = tuple[Span, ...]


def screen(
    status: Mapping[str, Any], overview: Mapping[str, Any], width: int | None, height: int, now: datetime,
    live: bool = True,
) -> list[Line]:  # fmt: skip
    """Exactly `height` lines, none wider than `width` (None: nothing is cut); what does not fit is said to be missing.

    overview: as /overview gives it, or empty for an agent without one. now: local time. live: somebody can press keys.
    """
    lines = [_title(status["agent"], now, width), ()]
    foot: Line = (Span(f"{'q quit · ' if live else ''}“–” nobody has measured or modelled that", "dim"),)
    conditions = _conditions(status["conditions"])
    room = height - len(lines) - 1 - 2 * 2 - min(len(conditions), 4) - FEWEST_EVENTS
    causes = width is None or width >= ROOM_FOR_CAUSES
    accelerators = [_accelerator(a, overview, causes) for a in status["accelerators"]]
    models = [_model(m, overview) for m in status["models"]]
    share = max(2, room - min(len(models), max(2, room // 2)))
    lines += [_ACCELERATOR_HEAD, *_fitting(accelerators, share, "accelerators"), ()]
    lines += [_MODEL_HEAD, *_fitting(models, max(2, room - min(len(accelerators), share)), "models"), ()]
    left = max(0, height - len(lines) - 1)
    lines += conditions[: max(0, left - FEWEST_EVENTS)]
    left = max(0, height - len(lines) - 1)
    lines += _unknown(status, width, min(MOST_UNKNOWN, left - FEWEST_EVENTS))
    left = max(0, height - len(lines) - 1)
    lines += _events(overview.get("events", ()), left)
    lines = lines[: max(0, height - 1)]
    lines += [()] * (height - 1 - len(lines))
    return [line if width is None else clipped(line, width) for line in (*lines, foot)]


def clipped(line: Line, width: int) -> Line:
    """The line, cut with an ellipsis where it is too long."""
    out: list[Span] = []
    left = width
    for span in line:
        if len(span.text) > left:
            out.append(Span(span.text[: max(0, left - 1)] + "…" if left else "", span.style))
            return tuple(out)
        out.append(span)
        left -= len(span.text)
    return tuple(out)


def _title(agent: Mapping[str, Any], now: datetime, width: int | None) -> Line:
    mode = agent["mode"]
    left: Line = (
        Span(f"qeil {agent['board']}  ", "bold"), Span(mode.upper(), _STATES.get(mode, "warn")),
        Span(f"  policy {agent['policy']} ({agent['policy_digest'][:8]})  {agent['profile']}"),
    )  # fmt: skip
    clock = f"{now:%H:%M:%S}"
    if width is None:
        return (*left, Span(f"  {clock}", "dim"))
    left = clipped(left, max(0, width - len(clock) - 2))
    gap = " " * max(1, width - sum(len(s.text) for s in left) - len(clock))
    return (*left, Span(gap + clock, "dim"))


_ACCELERATOR_HEAD: Line = (
    Span(
        f"{'ACCELERATOR':<14}{'STATE':<12}{'LOAD':<13}{'°C':>6}{'TO TRIP':>10}{'W':>8}  {'MAY RUN':<8}FAULTS ", "head"
    ),
)
_MODEL_HEAD: Line = (
    Span(f"{'MODEL':<14}{'STATE':<10}{'ON':<11}{'p50 ms':>8}{'p99 ms':>8}{'REQ/S':>6}{'J/ANSWER':>9} ", "head"),
    Span(f"{'THAT IS':<9}FAIL", "head"),
)


def _accelerator(a: Mapping[str, Any], overview: Mapping[str, Any], causes: bool) -> Line:
    more = overview.get("accelerators", {}).get(a["name"], {})
    load = more.get("busy_share")
    permit, style = _permit(a)
    name = f"{_short(a['name'], 9)} sim" if a["simulated"] else _short(a["name"], 13)
    cause = a["last_fault"] or ""
    if cause and not causes:
        cause = "" if a["restarts"] else "once"  # half a sentence says nothing; the events below have it
    faults = f"{a['restarts'] or ''} {cause}".strip() or "–"
    return (
        Span(f"{name:<14}"), Span(f"{_short(a['state'], 11):<12}", _STATES.get(a["state"], "warn")),
        Span(f"{_bar(load)} {_percent(load):>5} "), Span(f"{dash(a['temperature_c'], '.1f'):>6}"),
        Span(f"{_trip(a, more):>10}"), Span(f"{dash(a['power_w'], '.2f'):>8}  "),
        Span(f"{permit:<8}", style), Span(faults, "bad" if a["restarts"] else "dim"),
    )  # fmt: skip


def _permit(a: Mapping[str, Any]) -> tuple[str, Style]:
    if not a["permit"]:
        return "no", "bad"
    share = a["capacity_share"]
    return ("yes", "good") if share >= 1 else (f"at {share:.0%}", "warn")


def _trip(a: Mapping[str, Any], more: Mapping[str, Any]) -> str:
    seconds = more.get("time_to_trip_s")
    if a["temperature_c"] is None:
        return "–"
    return _duration(seconds) if seconds is not None else str(more.get("trend", "–")).replace("unknown", "–")


def _duration(seconds: float) -> str:
    return f"~{seconds:.0f} s" if seconds < 90 else f"~{seconds / 60:.0f} min"


def _bar(share: float | None) -> str:
    full = 0 if share is None else round(min(1.0, share) * BAR)
    return "█" * full + "░" * (BAR - full)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share * 100:.0f} %"


def _model(m: Mapping[str, Any], overview: Mapping[str, Any]) -> Line:
    points = overview.get("points", ())
    rate = points[-1]["models"].get(m["name"], {}).get("requests_per_s") if points else None
    head = (
        Span(f"{_short(m['name'], 13):<14}"), Span(f"{_short(m['state'], 9):<10}", _STATES.get(m["state"], "warn")),
    )  # fmt: skip
    if m["state"] != "ready" and m["reason"]:
        return (*head, Span(m["reason"], "warn"))
    return (
        *head,
        Span(f"{_short(m['placement'] or '–', 10):<11}{_ms(m['p50_ms']):>8}{_ms(m['p99_ms']):>8}"),
        Span(f"{dash(rate, '.1f'):>6}{dash(m['energy_j'], '.3g'):>9} "),
        Span(f"{m['provenance'] if m['energy_j'] is not None else 'unknown':<9}"),
        Span(str(m["failed"] or "–"), "bad" if m["failed"] else "dim"),
    )  # fmt: skip


def _conditions(conditions: Sequence[Mapping[str, Any]]) -> list[Line]:
    lines: list[Line] = []
    for c in conditions:
        lines.append((Span("‼ ", "warn"), Span(f"{c['type']}: ", "bold"), Span(str(c["cause"]))))
        lines.append((Span(f"  mend: {c['mend']}", "dim"),))
    return lines


def _unknown(status: Mapping[str, Any], width: int | None, room: int) -> list[Line]:
    """Why figures of the tables are dashes, each reason once; what does not fit is said to be missing."""
    whose: dict[str, dict[str, list[str]]] = {}
    for name, figures, why in reasons(status):
        whose.setdefault(why, {}).setdefault(figures, []).append(_short(name, 13))
    told = [
        _wrapped(
            "– " + "; ".join(", ".join(names) + f" {figures}" for figures, names in by.items()) + f": {why}", width
        )
        for why, by in whose.items()
    ]
    lines: list[Line] = []
    for at, piece in enumerate(told):
        if len(lines) + len(piece) + (at < len(told) - 1) > room:
            left = len(told) - at
            more = f"– … {left} more reason{'s' if left > 1 else ''} why figures are unknown: qeil status"
            return [*lines, (Span(more, "dim"),)] if room > len(lines) else lines
        lines += [(Span(line, "dim"),) for line in piece]
    return lines


def _wrapped(text: str, width: int | None) -> list[str]:
    return [text] if width is None else textwrap.wrap(text, max(width, 20), subsequent_indent="  ")


def _events(events: Sequence[Mapping[str, Any]], room: int) -> list[Line]:
    if room <= 0:
        return []
    lines: list[Line] = []
    for e in reversed(events):
        if len(lines) == room:
            break
        style: Style = "bad" if e["event"] in FAULTS else ""
        stamp = datetime.fromtimestamp(e["ts"]).astimezone()
        lines.append(
            (Span(f"{stamp:%H:%M:%S} ", "dim"), Span(e["event"].replace("_", " "), style), Span(f"  {_told(e)}"))
        )
    return lines or [(Span("no events yet", "dim"),)]


def _told(event: Mapping[str, Any]) -> str:
    """What happened, each thing once: `planned magika, magika was timed` names the model twice."""
    if "old" in event and "new" in event:
        return f"{event['old']} → {event['new']}"
    silent = {"n", "ts", "event", "digest", "provenance"}
    told = [str(v) for k, v in event.items() if k not in silent and isinstance(v, str)]
    return ", ".join(t for i, t in enumerate(told) if not any(other.startswith(f"{t} ") for other in told[i + 1 :]))


def _fitting(rows: Sequence[Line], room: int, what: str) -> list[Line]:
    if not rows:
        return [(Span(f"no {what}", "dim"),)]
    if len(rows) <= room:
        return list(rows)
    hidden = len(rows) - (room - 1)
    return [*rows[: room - 1], (Span(f"… and {hidden} more {what}: enlarge the terminal, or qeil status", "dim"),)]


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _ms(value: float | None) -> str:
    """Milliseconds in at most seven places, so that columns stay apart up to three hours."""
    return dash(value, ".2f" if value is None or value < 1000 else ".0f")
