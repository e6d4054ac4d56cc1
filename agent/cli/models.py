"""`qeil models`: what is in the store, what a model file asks of the hardware."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.models_import import import_command
from agent.cli.models_load import load_command, unload_command
from agent.cli.models_split import split_command
from agent.cli.tables import print_table

if TYPE_CHECKING:
    from agent.schema.settings import Settings


@click.group("models")
def models_command() -> None:
    """List, add and inspect models."""


@models_command.command("ls")
@click.option("--config", type=click.Path(path_type=Path), help="settings file")
@click.option("--json", "as_json", is_flag=True, help="as JSON")
def ls_command(config: Path | None, as_json: bool) -> None:
    """Models that an agent with these settings serves."""
    from agent.service.serving import model_store

    entries = model_store.configured(_settings(config))
    if as_json:
        click.echo(json.dumps([e.model_dump(mode="json") for e in entries], indent=2))
        return
    rows = [[e.name, e.version, str(e.path), "yes" if e.path.exists() else "missing"] for e in entries]
    print_table("Models", ["name", "version", "file", "there"], rows)


@models_command.command("add")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", help="name to serve it under [default: the file's]")
@click.option("--config", type=click.Path(path_type=Path), help="settings file; says which state folder")
def add_command(file: Path, name: str | None, config: Path | None) -> None:
    """Check FILE and copy it into the store; a running agent serves it after `load` or a restart."""
    from agent.llm.sizes import read_sizes
    from agent.service.serving import model_store
    from agent.service.serving.artifacts import open_artifact, workload_of

    if file.is_dir():
        sizes = read_sizes(file)
        stored = model_store.add(file, name, _settings(config).state_dir)
        kv = sizes.kv_bytes_per_token / 1e3
        click.echo(
            f"{stored.name}: {sizes.layers} layers, {sizes.weight_bytes / 1e6:.0f} MB of weights, {kv:.0f} kB a token, "
            f"stored as {stored.path}; an agent with this state folder serves it from its next start"
        )
        return
    workload = workload_of(open_artifact(file), name or file.stem, None)
    entry = model_store.add(file, name, _settings(config).state_dir)
    flops = sum(s.flops for s in workload.stages)
    work = f"{flops / 1e9:.3g} G operations" if flops >= 1e7 else f"{flops / 1e6:.3g} M operations"
    click.echo(f"{entry.name}: {work} in {len(workload.stages)} stages, stored as {entry.path}")
    click.echo(f"an agent with this state folder serves it from its next start, or now: qeil models load {entry.name}")


@models_command.command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="the whole workload as JSON")
def inspect_command(file: Path, as_json: bool) -> None:
    """Operations, weights, shapes and stages of FILE, read from its graph."""
    from agent.service.serving.artifacts import open_artifact, workload_of

    artifact = open_artifact(file)
    workload = workload_of(artifact, file.stem, None)
    if as_json:
        click.echo(json.dumps(workload.model_dump(mode="json"), indent=2))
        return
    click.echo(f"{file.name}: {workload.format}, sha256 {artifact.digest}")
    for what, tensors in (("in", workload.inputs), ("out", workload.outputs)):
        for tensor in tensors:
            click.echo(f"  {what:3} {tensor.name}: {tensor.datatype} {list(tensor.shape)}")
    rows = [
        [s.name, str(s.nodes), f"{s.flops / 1e6:.2f}", f"{s.weight_bytes / 1e6:.3f}", f"{s.activation_bytes / 1e6:.3f}",
         f"{s.output_bytes / 1e3:.1f}", " ".join(s.operators[:6]) + (" …" if len(s.operators) > 6 else "")]
        for s in workload.stages
    ]  # fmt: skip
    print_table(
        "Stages", ["stage", "nodes", "M operations", "weights MB", "activations MB", "out kB", "operators"], rows
    )
    for note in workload.notes:
        click.echo(f"note: {note}")


models_command.add_command(import_command)
models_command.add_command(load_command)
models_command.add_command(unload_command)
models_command.add_command(split_command)


def _settings(config: Path | None) -> Settings:
    from agent.service import configuration

    return configuration.load_settings(config, {}, dict(os.environ))
