"""Plan workload: what `qeil plan MODEL` is about – a file's graph or a catalogue entry, in the phases asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from agent.errors import BadInput
from agent.records import record
from agent.runtimes import registry

if TYPE_CHECKING:
    from agent.schema.workload import Phase, Precision, Workload
    from agent.workload.catalogue import CatalogueEntry

Wanted = Literal["forward", "prefill", "decode", "both"]
FINEST = 512
"""Stages asked for where two phases are to be cut at the same places; they are merged again afterwards."""


@record(frozen=True)
class Sizes:
    """Sizes of a request; None: assumed, and said in the notes."""

    precision: Precision | None = None
    prompt_tokens: int | None = None
    generate_tokens: int | None = None
    batch: int | None = None


def generated(sizes: Sizes) -> int:
    """Tokens that a request generates."""
    from agent.workload.catalogue import DEFAULT_TOKENS

    return DEFAULT_TOKENS if sizes.generate_tokens is None else sizes.generate_tokens


def read_workloads(model: str, wanted: Wanted, sizes: Sizes, mode: str | None = None) -> tuple[Workload, ...]:
    """One workload, or prefill and decode for `both`; of a decoder folder that of its `mode`.

    Raises BadInput for a phase or size that the model has not.
    """
    path = Path(model)
    if path.is_dir():
        return _of_folder(path, wanted, sizes, mode)
    if registry.of_file(path) or path.exists():
        return _of_file(path, wanted, sizes)
    from agent.workload.catalogue import resolve_name
    from agent.workload.naming import others

    entry = resolve_name(model)
    if entry is None:
        raise BadInput(f"{model}: neither a model file nor a workload of the catalogue{others(model)}")
    if wanted == "both" and entry.kind != "decoder":
        raise BadInput(f"{entry.name} is no decoder language model, so its phases cannot be planned as one request")
    phases: tuple[Phase, ...] = ("prefill", "decode") if wanted == "both" else (wanted,)
    return tuple(_of_entry(entry, phase, wanted == "both", sizes) for phase in phases)


def _of_entry(entry: CatalogueEntry, phase: Phase, both: bool, sizes: Sizes) -> Workload:
    from agent.workload.catalogue import DEFAULT_CONTEXT
    from agent.workload.stages import MAX_STAGES

    prompt = entry.default_tokens if sizes.prompt_tokens is None else sizes.prompt_tokens
    notes = []
    context: int | None = None
    if phase == "decode":
        known = both or sizes.prompt_tokens is not None or sizes.generate_tokens is not None
        context = prompt + generated(sizes) // 2 if known else DEFAULT_CONTEXT
        notes.append(f"decode at {context} tokens in the cache" + ("" if known else ", assumed"))
    if entry.kind != "vision" and sizes.prompt_tokens is None and (phase != "decode" or context != DEFAULT_CONTEXT):
        notes.append(f"{prompt} tokens of input assumed; --prompt-tokens N for another number")
    if both and sizes.generate_tokens is None:
        notes.append(f"{generated(sizes)} generated tokens assumed; --generate-tokens N for another number")
    if sizes.precision is None:
        notes.append(f"precision {entry.default_precision} assumed; --precision for another one")
    workload = entry.workload(
        phase=phase, precision=sizes.precision, batch=1 if sizes.batch is None else sizes.batch,
        tokens=sizes.prompt_tokens, context=context, max_stages=FINEST if both else MAX_STAGES,
    )  # fmt: skip
    return workload.model_copy(update={"notes": (*notes, *workload.notes)})


def _of_folder(path: Path, wanted: Wanted, sizes: Sizes, mode: str | None) -> tuple[Workload, ...]:
    """Of a language model; where no phase is asked for, of one written token."""
    from agent.llm.sizes import read_sizes

    folder = read_sizes(path)
    found = _of_file(folder.graph(mode), "decode" if wanted == "forward" else wanted, sizes)
    said = f"mode {mode or folder.default_mode}"
    if wanted == "forward":
        said += "; one written token, --phase prefill for the prompt"
    return tuple(w.model_copy(update={"model": path.resolve().name, "notes": (said, *w.notes)}) for w in found)


def _of_file(path: Path, wanted: Wanted, sizes: Sizes) -> tuple[Workload, ...]:
    from agent.service.serving.artifacts import INSPECT_TIMEOUT_S, open_artifact, workload_of
    from agent.workload.inspect import inspect_in_child

    if sizes.precision is not None:
        raise BadInput(f"{path}: --precision is for models of the catalogue; a file computes in its own")
    artifact = open_artifact(path)
    dims = {"batch": sizes.batch, "sequence": sizes.prompt_tokens}
    given = {name: size for name, size in dims.items() if size is not None}
    if wanted == "forward" and not given:
        return (_said(workload_of(artifact, path.stem, None)),)
    if sizes.prompt_tokens is not None or sizes.generate_tokens is not None:
        given["past"] = (sizes.prompt_tokens or 0) + generated(sizes) // 2
    found = inspect_in_child(path, artifact.format, given, INSPECT_TIMEOUT_S)
    by_phase = {w.phase: _said(w.model_copy(update={"model": path.stem, "digest": artifact.digest})) for w in found}
    if wanted == "forward":
        return (next(iter(by_phase.values())),)
    phases: tuple[Phase, ...] = ("prefill", "decode") if wanted == "both" else (wanted,)
    missing = [phase for phase in phases if phase not in by_phase]
    if missing:
        raise BadInput(
            f"{path}: has no phase {missing[0]}, because it takes no key–value cache; only {', '.join(by_phase)}"
        )
    return tuple(by_phase[phase] for phase in phases)


def _said(workload: Workload) -> Workload:
    if workload.format != "tflite":
        return workload
    return workload.model_copy(update={"notes": ("a .tflite file is placed as a whole, as one stage", *workload.notes)})
