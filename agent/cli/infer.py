"""`qeil infer`: one request against the running agent."""

from __future__ import annotations

import json
import time
import zipfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from agent.cli import complete, wire_tensors
from agent.cli.client import AgentClient, AgentError
from agent.cli.reach import Reach, reach_options
from agent.errors import BadInput

MAX_PRINTED = 16


@click.command("infer")
@click.argument("model", shell_complete=complete.names(complete.models))
@click.option(
    "--input",
    "file",
    type=click.Path(path_type=Path),
    help=".npy, .npz (a name per input) or .json; omitted: random values of the right shape",
)
@click.option("--placement", help="run on this accelerator, or a loaded split such as cpu+npu0")
@reach_options
@click.option("--json", "as_json", is_flag=True, help="outputs and costs as JSON")
def infer_command(model: str, file: Path | None, placement: str | None, reach: Reach, as_json: bool) -> None:
    """Send one request to MODEL and print the outputs and what they cost."""
    with AgentClient(reach) as client:
        metadata = client.get(f"/v2/models/{model}")
        if not metadata["inputs"]:
            raise AgentError(f"model {model} cannot be asked yet: {_reason(client, model)}", status=503)
        inputs = random_inputs(metadata) if file is None else read_inputs(file, metadata)
        started_s = time.perf_counter()
        answer = client.infer(model, inputs, {"placement": placement} if placement else None)
        took_s = time.perf_counter() - started_s
    if as_json:
        outputs = {name: tensor.tolist() for name, tensor in answer.outputs.items()}
        click.echo(json.dumps({"outputs": outputs, "parameters": answer.parameters}))
        return
    for name, tensor in answer.outputs.items():
        head = np.array2string(tensor.ravel()[:MAX_PRINTED], precision=5, separator=", ")
        click.echo(f"{name} {tensor.dtype} {list(tensor.shape)}: {head}{' …' if tensor.size > MAX_PRINTED else ''}")
    click.echo(cost_line(answer.parameters, took_s))


def cost_line(cost: dict[str, Any], took_s: float) -> str:
    """Where the answer came from, how long it took from here, and its joules with their provenance."""
    energy_j = cost.get("energy_j")
    joules = "energy unknown" if energy_j is None else f"{float(energy_j):.3g} J {cost.get('provenance')}"
    return f"on {cost.get('placement')} ({cost.get('provider')}), {took_s * 1e3:.2f} ms with transport, {joules}"


def _reason(client: AgentClient, model: str) -> str:
    known = {m["name"]: m for m in client.get("/status")["models"]}
    found = known.get(model, {})
    return str(found.get("reason") or found.get("state") or "it is not served")


def random_inputs(metadata: dict[str, Any], seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Tensors of the declared types and shapes, 1 where a size is free."""
    rng = np.random.default_rng(seed)
    made: dict[str, npt.NDArray[Any]] = {}
    for entry in metadata["inputs"]:
        shape = [1 if size < 0 else size for size in entry["shape"]]
        kind = np.dtype(wire_tensors.NUMPY[entry["datatype"]]).kind
        values = rng.random(shape) if kind == "f" else rng.integers(0, 100, shape)
        texts = values.astype(str) if kind == "O" else values
        made[entry["name"]] = wire_tensors.typed(texts, entry["datatype"])
    return made


def read_inputs(file: Path, metadata: dict[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """Tensors from a file; a lone array takes the only input's name, and JSON numbers take the declared datatype."""
    specs = {entry["name"]: entry for entry in metadata["inputs"]}
    try:
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as archive:
                return {name: _halved(archive[name], specs.get(name)) for name in archive.files}
        if file.suffix == ".npy":
            name = _only(file, list(specs))
            return {name: _halved(np.load(file, allow_pickle=False), specs[name])}
        data = json.loads(file.read_text())
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, RecursionError) as error:
        raise BadInput(f"{file}: {str(error).splitlines()[0]}") from error
    values = data if isinstance(data, dict) else {_only(file, list(specs)): data}
    return {n: wire_tensors.typed(v, specs[n]["datatype"]) if n in specs else np.array(v) for n, v in values.items()}


def _halved(array: npt.NDArray[Any], spec: dict[str, Any] | None) -> npt.NDArray[Any]:
    """Numbers as bfloat16 where the model wants that; a file cannot hold it."""
    wanted = spec is not None and spec["datatype"] == "BF16" and array.dtype.kind == "f"
    return wire_tensors.typed(array, "BF16") if wanted else array


def _only(file: Path, names: list[str]) -> str:
    if len(names) != 1:
        raise BadInput(
            f"{file}: the model has the inputs {', '.join(names)}; give a .npz or .json with a name for each"
        )
    return names[0]
