"""Turns a GGUF file into a folder with ONNX graphs, one weight file, a tokenizer and a manifest, without loss."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import BadInput, StorageError
from agent.llm.architecture import Decoder, read_decoder
from agent.llm.formats import Floats, plain
from agent.llm.genai_config import genai_config
from agent.llm.gguf_file import GgufFile, TensorInfo
from agent.llm.graph import Weights, rope_table, write_graph
from agent.llm.graph_nodes import WEIGHTS
from agent.llm.rotary import tables
from agent.llm.tokenizer_import import TokenizerFiles, read_tokenizer
from agent.llm.weight_file import Product, WeightFile, group_key, store_product
from agent.records import record

MANIFEST = "manifest.json"
MODES = ("exact", "fast")
DEFAULT_CONTEXT = 8192
DIGEST_PIECE_BYTES = 4 << 20

Progress = Callable[[str, int, int], None]
"""(what is being done, bytes done, bytes in all)."""


@record(frozen=True)
class Imported:
    """The finished folder and its manifest."""

    folder: Path
    manifest: dict[str, Any]


def import_gguf(
    path: Path, out: Path, *, context: int | None = None, small_cache: bool = False, progress: Progress | None = None
) -> Imported:
    """Turn the GGUF file `path` into the new or empty folder `out`.

    `context` bounds the positions that the angles are made for (default: what the model was trained for, at most
    8192). With `small_cache` modes are added that keep keys and values in 8 bits; the runtime measures what they cost.
    Raises BadInput where the file is damaged or of an unknown kind (the tensor or key is named), StorageError
    where the folder cannot be written. Nothing is left behind on failure.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out}: there is something already; name a new or an empty folder")
    source = GgufFile(path)
    scratch = out.with_name(out.name + ".part")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        manifest = _write(source, scratch, context, progress or _silent)
        if small_cache:
            _add_small_cache(manifest, scratch, progress or _silent)
        if out.exists():
            out.rmdir()
        scratch.rename(out)
    except OSError as error:
        raise StorageError(f"{out}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        source.close()
    return Imported(out, manifest)


def _silent(_what: str, _done: int, _total: int) -> None:
    return


def _write(source: GgufFile, out: Path, context: int | None, progress: Progress) -> dict[str, Any]:
    vocabulary = source.tensor("token_embd.weight").rows
    decoder = read_decoder(source.metadata, vocabulary, str(source.path), context or DEFAULT_CONTEXT)
    tokenizer = read_tokenizer(source.metadata, vocabulary, str(source.path))
    task = _Import(source, decoder, out, progress)
    weights = task.weights()
    for mode in MODES:
        for every_position in (False, True):
            name = graph_name(mode, every_position=every_position)
            write_graph(decoder, weights, out / name, fast=mode == "fast", every_position=every_position)
    _write_tokenizer(tokenizer, out)
    _write_json(out / "genai_config.json", genai_config(decoder, tokenizer, graph_name("exact")))
    manifest = _manifest(source, decoder, weights, out, progress)
    _write_json(out / MANIFEST, manifest)
    return manifest


def _add_small_cache(manifest: dict[str, Any], out: Path, progress: Progress) -> None:
    from agent.llm.small_cache import add_small_cache  # noqa: PLC0415 - the only part that needs the runtime

    progress("8-bit cache", 0, 1)
    added = add_small_cache(out)
    manifest["graphs"] |= added.graphs
    manifest["scoring_graphs"] |= added.scoring_graphs
    manifest["quality"] = {mode: asdict(found) for mode, found in added.quality.items()}
    manifest["cache_item_bytes"] = dict.fromkeys(added.graphs, 1)
    for name in (*added.graphs.values(), *added.scoring_graphs.values()):
        manifest["files"][name] = _digest(out / name, progress)
    _write_json(out / MANIFEST, manifest)


def graph_name(mode: str, *, every_position: bool = False) -> str:
    """File of a graph: of a mode, for generation or for scoring every position."""
    return f"{'score' if every_position else 'model'}{'' if mode == 'exact' else '-' + mode}.onnx"


class _Import:
    """Takes tensors over one by one and knows which are left."""

    def __init__(self, source: GgufFile, decoder: Decoder, out: Path, progress: Progress) -> None:
        self.source, self.decoder, self.progress = source, decoder, progress
        self.file = WeightFile(out / WEIGHTS)
        self.left = dict(source.tensors)
        self.total_bytes = sum(t.size_bytes for t in self.left.values())
        self.products: dict[str, Product] = {}

    def weights(self) -> Weights:
        try:
            self.product("token_embd", ["token_embd"])
            if "position_embd.weight" in self.left:
                self.product("position_embd", ["position_embd"])
            factors = self.vector("rope_freqs.weight", self.decoder.head_size // 2)
            self.angles(factors)
            for layer in range(self.decoder.layers):
                self.layer(f"blk.{layer}")
            self.norm("output_norm")
            if "output.weight" in self.left:
                self.product("output", ["output"])
        finally:
            self.file.close()
        if self.left:
            name = next(iter(self.left))
            raise BadInput(
                f"{self.source.path}: tensor {name} is not part of the {self.decoder.architecture} decoders supported "
                f"({len(self.left)} such tensors)"
            )
        return Weights(self.products, self.file.stored)

    def layer(self, block: str) -> None:
        d = self.decoder
        query, key = d.heads * d.head_size, d.kv_heads * d.head_size
        self.norm(f"{block}.attn_norm")
        if f"{block}.attn_qkv.weight" in self.left:
            self.product(f"{block}.qkv", [f"{block}.attn_qkv"], [query + 2 * key], d.hidden)
        else:
            names = [f"{block}.attn_{part}" for part in "qkv"]
            self.together(f"{block}.qkv", names, [query, key, key], d.hidden)
        for name in ("attn_q_norm", "attn_k_norm"):
            self.optional(f"{block}.{name}.weight", d.head_size)
        self.product(f"{block}.attn_output", [f"{block}.attn_output"], [d.hidden], query)
        self.norm(f"{block}.ffn_norm")
        for name in ("post_attention_norm", "post_ffw_norm"):
            self.optional(f"{block}.{name}.weight", d.hidden)
        if f"{block}.ffn_gate.weight" in self.left:
            self.together(f"{block}.gate_up", [f"{block}.ffn_gate", f"{block}.ffn_up"], [d.inner, d.inner], d.hidden)
        else:
            self.product(f"{block}.ffn_up", [f"{block}.ffn_up"], [d.inner], d.hidden)
        self.product(f"{block}.ffn_down", [f"{block}.ffn_down"], [d.hidden], d.inner)

    def take(self, name: str) -> TensorInfo:
        info = self.source.tensor(name)
        self.left.pop(name, None)
        self.progress(name, self.total_bytes - sum(t.size_bytes for t in self.left.values()), self.total_bytes)
        return info

    def vector(self, name: str, size: int) -> Floats | None:
        if name not in self.left:
            return None
        info = self.take(name)
        if info.shape != (size,) or info.kind not in ("F32", "F16", "BF16"):
            raise BadInput(
                f"{self.source.path}: tensor {name} is {info.kind} {list(info.shape)}, expected {size} floats"
            )
        values = np.asarray(plain(info.kind, self.source.rows(info, 0, 1))[0], np.float32)
        if not np.isfinite(values).all():
            raise BadInput(f"{self.source.path}: tensor {name} holds other than finite numbers; the file is damaged")
        return values

    def optional(self, name: str, size: int) -> None:
        values = self.vector(name, size)
        if values is not None:
            self.file.add(name, values)

    def norm(self, name: str) -> None:
        self.source.tensor(f"{name}.weight")
        self.optional(f"{name}.weight", self.decoder.hidden)
        if self.decoder.family.norm == "layer":
            self.source.tensor(f"{name}.bias")
            self.optional(f"{name}.bias", self.decoder.hidden)

    def together(self, role: str, names: list[str], rows: list[int], columns: int) -> None:
        """One product where the formats allow, else one each."""
        infos = [self.source.tensor(f"{name}.weight") for name in names]
        if len({group_key(info) for info in infos}) == 1:
            self.product(role, names, rows, columns)
            return
        for name, count in zip(names, rows, strict=True):
            self.product(name, [name], [count], columns)

    def product(self, role: str, names: list[str], rows: list[int] | None = None, columns: int | None = None) -> None:
        infos = [self.take(f"{name}.weight") for name in names]
        for info, count in zip(infos, rows or [info.rows for info in infos], strict=True):
            expected = (count, columns or self.decoder.hidden)
            if info.shape != expected:
                raise BadInput(
                    f"{self.source.path}: tensor {info.name} is of shape {list(info.shape)}, expected {list(expected)}"
                )
        biases = [self.vector(f"{n}.bias", i.rows) for n, i in zip(names, infos, strict=True)]
        self.products[role] = store_product(self.file, self.source, role, infos, biases)

    def angles(self, factors: Floats | None) -> None:
        """Tables of cos and sin, each kind once."""
        d = self.decoder
        if d.family.rotary == "none":
            return
        if factors is not None and not (np.isfinite(factors) & (factors > 0)).all():
            raise BadInput(f"{self.source.path}: tensor rope_freqs.weight holds other than finite factors above 0")
        for layer in range(d.layers):
            name = rope_table(d, layer)
            if f"cos.{name}" in self.file.stored:
                continue
            cos, sin = tables(d.head_size, d.rope_bases[layer], d.rope_divisors[layer], factors, d.yarn, d.context)
            more = ((0, 0), (0, (d.filled_size - d.head_size) // 2))
            self.file.add(f"cos.{name}", np.pad(cos, more))
            self.file.add(f"sin.{name}", np.pad(sin, more))


def _write_tokenizer(tokenizer: TokenizerFiles, out: Path) -> None:
    _write_json(out / "tokenizer.json", tokenizer.tokenizer)
    _write_json(out / "tokenizer_config.json", tokenizer.config)
    if tokenizer.chat_template is not None:
        (out / "chat_template.jinja").write_text(tokenizer.chat_template)


def _manifest(source: GgufFile, d: Decoder, weights: Weights, out: Path, progress: Progress) -> dict[str, Any]:
    licence = source.metadata.get("general.license")
    stages: dict[str, int] = {}
    for tensor in weights.stored.values():
        stage = ".".join(tensor.name.split(".")[:2]) if tensor.name.startswith("blk.") else tensor.name.split(".")[0]
        stages[stage] = stages.get(stage, 0) + tensor.size_bytes
    return {
        "version": 1,
        "kind": "decoder",
        "name": source.metadata.get("general.name") or source.path.stem,
        "licence": licence if isinstance(licence, str) else None,
        "architecture": d.architecture,
        "source": {"file": source.path.name, "bytes": source.size_bytes, "sha256": _digest(source.path, progress)},
        "decoder": {
            "layers": d.layers, "hidden": d.hidden, "heads": d.heads, "kv_heads": d.kv_heads,
            "head_size": d.filled_size, "vocabulary": d.vocabulary, "context": d.context,
            "kv_bytes_per_token": d.kv_bytes_per_token,
        },
        "graphs": {mode: graph_name(mode) for mode in MODES},
        "scoring_graphs": {mode: graph_name(mode, every_position=True) for mode in MODES},
        "default_mode": "exact",
        "stage_bytes": stages,
        "tensor_formats": dict(sorted(_count(t.kind for t in source.tensors.values()).items())),
        "files": {f.name: _digest(f, progress) for f in sorted(out.iterdir())},
    }  # fmt: skip


def _count(kinds: Iterator[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for kind in kinds:
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def _digest(path: Path, progress: Progress) -> str:
    digest, total, done = hashlib.sha256(), path.stat().st_size, 0
    with path.open("rb") as file:
        while piece := file.read(DIGEST_PIECE_BYTES):
            digest.update(piece)
            done += len(piece)
            progress(f"digest of {path.name}", done, total)
    return digest.hexdigest()


def _write_json(path: Path, data: dict[str, Any]) -> None:
    text = json.dumps(data, indent=1, ensure_ascii=True)
    with path.open("w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
