"""`qeil models split`: cut an ONNX model into stage models and prove that they compute the same."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.cli.tables import print_table
from agent.errors import BadInput, StorageError

if TYPE_CHECKING:
    from agent.workload.onnx_split import Boundary, Order, Split

TIMEOUT_S = 600.0
MANIFEST = "split.json"


@click.command("split")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--at", "at", multiple=True, help="tensor to cut at, or a few that cross together, separated by commas; repeatable"
)
@click.option("--stages", type=click.IntRange(2, 16), help="cut into so many stages of about the same cost instead")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="new folder for the stage models")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="of the check")
@click.option("--no-check", is_flag=True, help="leave out the comparison with the whole model")
@click.option("--json", "as_json", is_flag=True, help="the result as JSON")
def split_command(
    file: Path, at: tuple[str, ...], stages: int | None, out: Path, threads: int, no_check: bool, as_json: bool
) -> None:
    """Cut the ONNX model FILE into stage models that together give the same answers, bit for bit.

    The tensors that can be cut at are what any operator of the graph makes. Weights lie in one file beside the stages.
    """
    from agent.workload.onnx_split import Order

    if bool(at) == (stages is not None):
        raise click.UsageError("say where to cut: --at NAME (repeatable) or --stages N")
    _not_a_decoder(file)
    if file.suffix.lower() != ".onnx":
        hint = "a LiteRT model is one stage, it cannot be cut" if file.suffix.lower() == ".tflite" else "expected .onnx"
        raise BadInput(f"{file}: {hint}")
    if not file.is_file():
        raise BadInput(f"{file}: there is no such file")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out}: there is something already; name a new or an empty folder")
    count = stages or len(at) + 1
    names = tuple(f"{file.stem}-{index}-of-{count}" for index in range(1, count + 1))
    boundaries = tuple(_boundary(value) for value in at)
    order = Order(file, out, names, boundaries, stages or 0, check=not no_check, threads=threads)
    result = _whole_or_nothing(order)
    document = {"model": str(file), **result.to_json()}
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        _show(result, out)


def _not_a_decoder(file: Path) -> None:
    """Raises BadInput for a language model: its stages share a cache that no file holds."""
    from agent.llm.sizes import is_decoder_folder, read_sizes

    folder = file if file.is_dir() else file.parent
    if not is_decoder_folder(folder):
        return
    try:
        sizes = read_sizes(folder)
    except BadInput:  # a config.json beside another model makes no decoder of it
        return
    if file.is_dir() or file.name in {*sizes.graphs.values(), "score.onnx", "score-fast.onnx"}:
        raise BadInput(
            f"{file}: the language model {sizes.name} is not cut into files, because its stages share one cache; "
            "give its folder to the agent under models: path"
        )


def _whole_or_nothing(order: Order) -> Split:
    """The split in its folder with its manifest; what fails leaves no folder behind."""
    from agent.workload.onnx_split import split_in_child

    out = order.folder
    made = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        result = split_in_child(replace(order, folder=made), TIMEOUT_S, _progress)
        result = replace(result, stages=tuple(replace(s, path=out / s.path.name) for s in result.stages))
        document = {"model": str(order.path), **result.to_json()}
        (made / MANIFEST).write_text(json.dumps(document, indent=2) + "\n")
        made.replace(out)
    except OSError as error:
        raise StorageError(f"{error.filename or out}: {error.strerror}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return result


def _boundary(value: str) -> Boundary:
    return tuple(name.strip() for name in value.split(",") if name.strip())


def _progress(step: str) -> None:
    print(f"… {step}", file=sys.stderr, flush=True)


def _show(result: Split, out: Path) -> None:
    checked = result.checked
    rows = []
    for index, stage in enumerate(result.stages):
        last = index == len(result.stages) - 1
        crossing = f"{checked.crossing_bytes[index] / 1e3:.1f}" if checked and not last else "–"
        rows.append(
            [stage.path.name, str(stage.nodes), str(stage.copies), f"{stage.weight_bytes / 1e6:.3f}",
             ", ".join((*stage.receives, *stage.given)), ", ".join((*stage.sends, *stage.answers)), crossing,
             f"{checked.stage_s[index] * 1e3:.3f}" if checked else "–"]
        )  # fmt: skip
    columns = ["stage", "operators", "run again", "weights MB", "takes", "gives", "crossing kB", "CPU ms"]
    print_table(f"{len(rows)} stages in {out}", columns, rows)
    if checked is None:
        click.echo("not checked against the whole model")
        return
    click.echo(
        f"all outputs the same to the bit on {checked.inputs} sets of random inputs; the whole takes "
        f"{checked.whole_s * 1e3:.3f} ms, the stages {sum(checked.stage_s) * 1e3:.3f} ms one after the other (measured)"
    )
    for sentence in result.refused:
        click.echo(f"tried before: {sentence}")
