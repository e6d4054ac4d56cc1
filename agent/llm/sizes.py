"""Sizes: what a decoder folder says of itself, read without its graph or tokenizer.

Three kinds of folder: what `qeil models import` writes (manifest.json), what ONNX Runtime GenAI's builder writes
(genai_config.json) and what Optimum exports (config.json beside the graph).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from agent.errors import BadInput
from agent.records import record

MAX_JSON_BYTES = 256 << 20
KNOWN_BY = ("manifest.json", "genai_config.json", "config.json")
ITEM_BYTES = (1, 2, 4)
"""Sizes that an element of a cache can have: 8-bit integers, float16, float32."""
_FLOATS = ("BF16", "F16", "F32")
_GRAPHS = ("model.onnx", "decoder_model_merged.onnx", "decoder_with_past_model.onnx")


@record(frozen=True)
class DecoderSizes:
    """What a decoder folder holds; `weight_bytes` is the size of all files of weights that one mode may read.

    `head_size` is that of the cache, which may be more than the model's own (see `Decoder.filled_size`).
    """

    path: Path
    name: str
    layers: int
    kv_heads: int
    head_size: int
    vocabulary: int
    context: int
    graphs: Mapping[str, str]
    default_mode: str
    end_ids: frozenset[int]
    weight_bytes: int
    shared_cache: bool
    """Whether the graph writes into the cache that it reads; else it gives back a longer one."""
    cache_item_bytes: Mapping[str, int] = field(default_factory=dict)
    """Size of a key's or value's element by mode, where it is not that of float32."""
    quality: Mapping[str, float] = field(default_factory=dict)
    """Measured distance from the mode `exact` in nats, by mode."""
    packed: bool = False
    """Whether its weights are known to be blocks of few bits."""

    @property
    def family(self) -> str:
        """What all precisions of a model have in common: where it differs, so do the texts."""
        return f"{self.name}/{self.layers}/{self.kv_heads}/{self.head_size}/{self.vocabulary}"

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of one position, in float32."""
        return self.cache_bytes()

    def cache_bytes(self, mode: str | None = None) -> int:
        """Keys and values of one position in a mode; without one as float32."""
        item_bytes = 4 if mode is None else self.cache_item_bytes.get(mode, 4)
        return 2 * self.layers * self.kv_heads * self.head_size * item_bytes

    def graph(self, mode: str | None = None) -> Path:
        """File of the graph of a mode. Raises BadInput naming the modes there are."""
        chosen = mode or self.default_mode
        if chosen not in self.graphs:
            raise BadInput(f"{self.path}: no mode {chosen!r}; the folder has {', '.join(self.graphs)}")
        return self.path / self.graphs[chosen]

    def scoring_graph(self, mode: str | None = None) -> Path | None:
        """File of the graph that gives logits of every position, where the folder has one beside that of the mode."""
        if not (self.path / "manifest.json").is_file():
            return None
        name = read_json(self.path / "manifest.json").get("scoring_graphs", {}).get(mode or self.default_mode)
        return None if name is None or not (self.path / name).is_file() else self.path / name


def is_decoder_folder(path: Path) -> bool:
    """Whether it is a folder that says it holds a decoder."""
    return path.is_dir() and any((path / name).is_file() for name in KNOWN_BY)


def read_sizes(path: Path) -> DecoderSizes:
    """Read them. Raises BadInput naming the file that is missing or wrong."""
    found = next((name for name in KNOWN_BY if (path / name).is_file()), None)
    if found is None:
        raise BadInput(
            f"{path}: no decoder folder: none of {', '.join(KNOWN_BY)} is in it; make one with: "
            "qeil models import FILE.gguf --out DIR"
        )
    read = {"manifest.json": _imported, "genai_config.json": _genai, "config.json": _optimum}[found]
    try:
        sizes = read(path)
        _check(sizes)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise BadInput(f"{path / found}: not the description of a decoder ({error}); make the folder again") from error
    return sizes


def _check(sizes: DecoderSizes) -> None:
    """Refuse sizes that no decoder has, as forecasts of memory count with them. Raises ValueError."""
    for name in ("layers", "kv_heads", "head_size", "vocabulary", "context"):
        if (count := getattr(sizes, name)) < 1:
            raise ValueError(f"{name} is {count}, expected at least 1")
    if unknown := {*sizes.cache_item_bytes, *sizes.quality} - {*sizes.graphs}:
        raise ValueError(f"{min(unknown)} has a size or quality and no graph")
    if sizes.weight_bytes < 0:
        raise ValueError(f"stage_bytes add up to {sizes.weight_bytes}, expected at least 0")


def _imported(path: Path) -> DecoderSizes:
    manifest, genai = read_json(path / "manifest.json"), read_json(path / "genai_config.json")
    sizes = manifest["decoder"]
    return DecoderSizes(
        path, str(manifest["name"]), int(sizes["layers"]), int(sizes["kv_heads"]), int(sizes["head_size"]),
        int(sizes["vocabulary"]), int(sizes["context"]), _graphs_of(manifest), str(manifest["default_mode"]),
        _ids(genai["model"]["eos_token_id"]), sum(int(size) for size in manifest["stage_bytes"].values()),
        True, {mode: _item_bytes(mode, size) for mode, size in manifest.get("cache_item_bytes", {}).items()},
        {mode: _distance(mode, found["kl_nats"]) for mode, found in manifest.get("quality", {}).items()},
        any(kind not in _FLOATS for kind in manifest.get("tensor_formats", {})),
    )  # fmt: skip


def _graphs_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Files of the modes, the scoring ones looked at too."""
    graphs = {mode: _inside(f"graphs of {mode}", name) for mode, name in manifest["graphs"].items()}
    for mode, name in manifest.get("scoring_graphs", {}).items():
        _inside(f"scoring_graphs of {mode}", name)
    if manifest["default_mode"] not in graphs:
        raise ValueError(f"default_mode is {manifest['default_mode']!r}, graphs has {', '.join(graphs) or 'none'}")
    return graphs


def _inside(what: str, name: Any) -> str:
    """A file's name in the folder itself: what is loaded is what lies there."""
    if not isinstance(name, str) or not name.strip() or name in {".", ".."} or {*"/\\\0"} & {*name}:
        raise ValueError(f"{what} is {name!r}, expected the name of a file in the folder")
    return name


def _item_bytes(mode: str, size: Any) -> int:
    if isinstance(size, bool) or size not in ITEM_BYTES:
        raise ValueError(f"cache_item_bytes of {mode} is {size}, expected 1, 2 or 4")
    return int(size)


def _distance(mode: str, kl_nats: Any) -> float:
    """In nats; what is measured is never below 0."""
    if isinstance(kl_nats, bool) or not math.isfinite(found := float(kl_nats)) or found < 0:
        raise ValueError(f"quality of {mode} is {kl_nats} nats, expected 0 or more")
    return found


def _genai(path: Path) -> DecoderSizes:
    description = read_json(path / "genai_config.json")
    model = description["model"]
    decoder = model["decoder"]
    return DecoderSizes(
        path, path.name, int(decoder["num_hidden_layers"]), int(decoder["num_key_value_heads"]),
        int(decoder["head_size"]), int(model["vocab_size"]), int(model["context_length"]),
        {"exact": _inside("filename", decoder["filename"])}, "exact", _ids(model["eos_token_id"]), _weights(path),
        bool(description.get("search", {}).get("past_present_share_buffer", False)),
    )  # fmt: skip


def _optimum(path: Path) -> DecoderSizes:
    config = read_json(path / "config.json")
    heads = int(config.get("num_attention_heads") or config["n_head"])
    hidden = int(config.get("hidden_size") or config["n_embd"])
    graph = next((name for name in _GRAPHS if (path / name).is_file()), None)
    if graph is None:
        raise BadInput(f"{path}: no graph; expected one of {', '.join(_GRAPHS)}")
    return DecoderSizes(
        path, path.name, int(config.get("num_hidden_layers") or config["n_layer"]),
        int(config.get("num_key_value_heads") or heads), int(config.get("head_dim") or hidden // heads),
        int(config["vocab_size"]), int(config.get("max_position_embeddings") or config["n_positions"]),
        {"exact": graph}, "exact", _ids(config["eos_token_id"]), _weights(path), False,
    )  # fmt: skip


def _ids(value: Any) -> frozenset[int]:
    return frozenset([value] if isinstance(value, int) else value)


def _weights(path: Path) -> int:
    suffixes = {".onnx", ".data", ".bin", ".onnx_data"}
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file() and file.suffix in suffixes)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises BadInput."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise BadInput(f"{path}: larger than {MAX_JSON_BYTES} bytes")
        data = json.loads(path.read_text())
    except OSError as error:
        raise BadInput(
            f"{path}: {error.strerror}; make the folder with: qeil models import FILE.gguf --out DIR"
        ) from error
    except ValueError as error:
        raise BadInput(f"{path}: not JSON ({error})") from error
    if not isinstance(data, dict):
        raise BadInput(f"{path}: expected a JSON object")
    return data
