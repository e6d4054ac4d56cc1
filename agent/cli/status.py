"""`qeil status`: what the agent is doing now."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from agent.cli.client import AgentClient
from agent.cli.reach import Reach, reach_options
from agent.cli.tables import dash, print_table


@click.command("status")
@reach_options
@click.option("--json", "as_json", is_flag=True, help="the snapshot as JSON")
def status_command(reach: Reach, as_json: bool) -> None:
    """Show mode, accelerators, models and standing conditions of the running agent."""
    with AgentClient(reach, timeout_s=5.0) as client:
        status = client.get("/status")
    if as_json:
        click.echo(json.dumps(status, indent=2))
        return
    info = status["agent"]
    click.echo(
        f"{info['board']}: {info['mode']} since {info['since']} · qeil {info['version']} · profile {info['profile']} · "
        f"policy {info['policy']} ({info['policy_digest'][:12]}) · boot {info['boot']}"
    )
    print_table(
        "Accelerators",
        ["name", "runs", "state", "permit", "°C", "W", "restarts", "last fault"],
        [_accelerator(a) for a in status["accelerators"]],
    )
    zones = [_zone(z) for z in status.get("zones", ())]
    if zones:
        print_table("Zones", ["name", "°C", "forecast", "limit", "air seems", "K/W", "± °C", "learnt"], zones)
    print_table(
        "Models",
        ["name", "state", "placement", "provider", "on it", "p50 ms", "p99 ms", "J p50", "joules are"],
        [_model(m) for m in status["models"]],
    )
    stages = [
        _stage(m["name"], c, s) for m in status["models"] for c in m.get("candidates", ()) for s in c.get("stages", ())
    ]
    if stages:
        print_table(
            "Stages of split models",
            ["model", "placement", "on", "state", "crossing kB", "ms predicted", "measured", "hand-over predicted",
             "measured", "requests"],
            stages,
        )  # fmt: skip
    for model in status["models"]:
        if measured := timed(model):
            click.echo(measured)
        if model.get("samples"):
            click.echo(f"repeated samples of {model['name']}: {model['samples']}")
    for sentence in unknown(status):
        click.echo(sentence)
    for condition in status["conditions"]:
        click.echo(f"‼ {condition['type']} since {condition['since']}: {condition['cause']}")
        click.echo(f"  means: {condition['consequence']} · mend: {condition['mend']}")


_LABELS = {
    "temperature_c": "°C", "power_w": "W", "accelerated_fraction": "on it", "p50_ms": "p50", "p99_ms": "p99",
    "energy_j": "J", "forecast_c": "forecast", "ambient_c": "air", "k_per_w": "K/W", "error_c": "± °C",
}  # fmt: skip


def unknown(status: dict[str, Any]) -> Iterator[str]:
    """`– npu0 °C, W: no sensor …`: each dash of the tables with its reason, figures that share one together."""
    yield from (f"– {name} {figures}: {why}" for name, figures, why in reasons(status))


def reasons(status: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(name, figures that nobody knows, why) of accelerators, zones and models."""
    for row in (*status["accelerators"], *status.get("zones", ()), *status["models"]):
        by_reason: dict[str, list[str]] = {}
        for key, why in row.get("unknown", {}).items():
            if why != row.get("reason"):
                by_reason.setdefault(why, []).append(_LABELS.get(key, key))
        yield from ((row["name"], ", ".join(figures), why) for why, figures in by_reason.items())


def _accelerator(row: dict[str, Any]) -> list[str]:
    runs = f"{row['provider']} (simulated)" if row["simulated"] else row["provider"]
    return [
        row["name"], runs, row["state"], "yes" if row["permit"] else "no", dash(row["temperature_c"], ".1f"),
        dash(row["power_w"], ".2f"), str(row["restarts"]), row["last_fault"] or "–",
    ]  # fmt: skip


def _zone(row: dict[str, Any]) -> list[str]:
    return [
        row["name"], dash(row["temperature_c"], ".1f"), dash(row["forecast_c"], ".1f"), f"{row['limit_c']:.1f}",
        dash(row["ambient_c"], ".1f"), dash(row["k_per_w"], ".2f"), dash(row["error_c"], ".2f"),
        row["fault"] or ("yes" if row["learnt"] else "not yet"),
    ]  # fmt: skip


def _stage(model: str, placement: dict[str, Any], row: dict[str, Any]) -> list[str]:
    crossing = row["crossing_bytes"]
    return [
        model, placement["accelerator"], row["accelerator"], row["state"],
        dash(None if crossing is None else crossing / 1e3, ".1f"), dash(row["predicted_ms"], ".2f"),
        dash(row["measured_p50_ms"], ".2f"), dash(row["predicted_handover_ms"], ".2f"),
        dash(row["measured_handover_ms"], ".2f"), str(row["requests"]),
    ]  # fmt: skip


def timed(model: dict[str, Any]) -> str:
    """The placements that the agent timed itself, beside what was predicted of them; empty where it timed none."""
    found = [c for c in model.get("candidates", ()) if c.get("timed_ms") is not None]
    figures = [
        f"{c['accelerator']} {c['timed_ms']:.3g} ms ({dash(c['predicted_ms'], '.3g')} predicted)"
        + (", serves" if c["accelerator"] == model["placement"] else "")
        for c in found
    ]
    return f"{model['name']} was timed on the idle board: {'; '.join(figures)}" if found else ""


def _placement(row: dict[str, Any]) -> str:
    """Accelerator, and the variant that runs there."""
    return (row["placement"] or "–") + (f" ({row['variant']})" if row.get("variant") else "")


def _model(row: dict[str, Any]) -> list[str]:
    return [
        row["name"], row["state"] + (f": {row['reason']}" if row["reason"] else ""), _placement(row),
        row["actual"] or "–", dash(row["accelerated_fraction"], ".0%"), dash(row["p50_ms"], ".2f"),
        dash(row["p99_ms"], ".2f"), dash(row["energy_j"], ".4g"), row["provenance"],
    ]  # fmt: skip
