"""`qeil models import`: a GGUF file as a folder that the agent runs."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from agent.errors import BadInput


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="new folder for the decoder")
@click.option("--context", type=click.IntRange(16, 1 << 20), help="positions at most [default: trained for, <= 8192]")
@click.option("--kv-int8", is_flag=True, help="also modes whose keys and values take a quarter; measures their quality")
@click.option("--json", "as_json", is_flag=True, help="the manifest as JSON")
def import_command(file: Path, out: Path, context: int | None, kv_int8: bool, as_json: bool) -> None:
    """Turn the GGUF FILE into an ONNX decoder with the same weights, its tokenizer and chat template."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    try:
        from agent.llm.importer import import_gguf
    except ModuleNotFoundError as error:
        raise BadInput(f"importing needs the package {error.name}; install qeil-agent[llm]") from error
    started_s = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f}%"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(file.name, total=None)

        def show(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        made = import_gguf(file, out, context=context, small_cache=kv_int8, progress=show)
    manifest = made.manifest
    if as_json:
        click.echo(json.dumps(manifest, indent=2))
        return
    sizes = manifest["decoder"]
    formats = ", ".join(f"{count} {kind}" for kind, count in manifest["tensor_formats"].items())
    weights_mb = sum(manifest["stage_bytes"].values()) / 1e6
    click.echo(
        f"{manifest['name']} ({manifest['architecture']}, licence {manifest['licence'] or 'not stated'}): "
        f"{sizes['layers']} layers, context {sizes['context']}, {formats} taken over without loss"
    )
    click.echo(
        f"{out}: {weights_mb:.0f} MB of weights for the modes {', '.join(manifest['graphs'])}, "
        f"{sizes['kv_bytes_per_token'] / 1e3:.0f} kB of cache per token, in {time.monotonic() - started_s:.1f} s"
    )
    for mode, found in manifest.get("quality", {}).items():
        click.echo(
            f"{mode}: {found['kl_nats']:.2g} nats from exact on {found['tokens']} tokens it wrote itself (measured), "
            f"{sizes['kv_bytes_per_token'] * manifest['cache_item_bytes'].get(mode, 4) / 4e3:.0f} kB of cache per token"
        )
    click.echo(f'try: qeil generate {out} "Hello"')
