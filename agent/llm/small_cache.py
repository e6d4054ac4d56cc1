"""Small cache: modes of a decoder folder whose keys and values are kept in 8 bits, and what that costs in quality.

The runtime takes one scale per channel that never changes. Scales come from texts that the model writes itself, so no
data is needed: for keys the largest length of the pairs that the rotary angles turn into each other, since every
position turns them differently; for values the largest of a head.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from agent.errors import BadInput
from agent.llm.folder import DecoderFolder, open_folder
from agent.llm.generation import Prompt, generate
from agent.llm.graph_nodes import MICROSOFT
from agent.llm.sampler import Sampling, log_probabilities
from agent.llm.session import DecoderSession
from agent.records import record

SUFFIX: Final = "-kv8"
TEXTS, TOKENS = 8, 64
MARGIN: Final = 1.5
"""Room above the largest value seen: what lies beyond is cut, which costs more than a coarser step."""
SETTLED = 4
"""Positions at the beginning of a text that do not count: with one or two tokens before them a model says anything."""
_SCALES = 12
"""Number of the input for the scale of the keys; that of the values follows."""

Floats = npt.NDArray[np.float32]
Ranges = list[Floats]


@record(frozen=True)
class Quality:
    """Mean distance of a mode from `exact` in nats (KL) over `tokens` of texts that the model wrote itself."""

    kl_nats: float
    tokens: int


@record(frozen=True)
class SmallCache:
    """Graphs that were added, by mode, and the quality of every mode but `exact`."""

    graphs: Mapping[str, str]
    scoring_graphs: Mapping[str, str]
    quality: Mapping[str, Quality]


def add_small_cache(path: Path) -> SmallCache:
    """Add graphs with 8-bit keys and values to an imported folder, and measure them.

    Raises ModelLoadFailed, BadInput where there is nothing to measure on.
    """
    folder = open_folder(path)
    threads = len(os.sched_getaffinity(0))
    written = own_texts(folder, threads, seed=0)
    scoring = {mode: folder.scoring_graph(mode) for mode in folder.graphs}
    exact = DecoderSession(folder, threads=threads, graph=scoring["exact"])
    scales = _scales(folder, _ranges(exact, written))
    whole = {mode: file.name for mode, file in scoring.items() if file is not None}
    last, every = (
        {mode + SUFFIX: _rewritten(path, name, scales) for mode, name in graphs.items()}
        for graphs in (folder.graphs, whole)
    )
    others = {mode: path / name for mode, name in (whole | every).items() if mode != "exact"}
    held_out = own_texts(folder, threads, seed=1)[: TEXTS // 2]
    expected = _logits(exact, held_out)
    del exact  # one loaded model at a time is enough
    quality = {
        mode: _distance(DecoderSession(folder, threads=threads, graph=file), held_out, expected)
        for mode, file in others.items()
    }
    return SmallCache(last, every, quality)


def own_texts(folder: DecoderFolder, threads: int, seed: int) -> list[list[int]]:
    """Texts that the model writes from nothing: sampled, but not from the unlikeliest, which would be no text."""
    begin = folder.encode("") or [min(folder.end_ids)]
    session = DecoderSession(folder, threads=threads)
    tokens = min(TOKENS, folder.context - len(begin))
    sampling = Sampling(temperature=0.8, top_p=0.95, seed=seed)
    texts: list[list[int]] = [[*begin] for _ in range(TEXTS)]
    for piece in generate(session, Prompt(tuple(begin), tokens, TEXTS, (), sampling, through_end=True)):
        texts[piece.row].append(piece.token)
    return [text[: folder.context] for text in texts]


def _logits(session: DecoderSession, texts: Sequence[Sequence[int]]) -> list[Floats]:
    return [session.step(session.cache(1, len(text)), np.array([text], np.int64))[0] for text in texts]


def _ranges(session: DecoderSession, texts: Sequence[Sequence[int]]) -> Ranges:
    """Largest magnitude of every channel, (kv_heads, head_size), for each layer's keys and values."""
    found: Ranges = []
    for text in texts:
        cache = session.cache(1, len(text))
        session.step(cache, np.array([text], np.int64))
        seen = [_keys(b[0]) if i % 2 == 0 else _values(b[0]) for i, b in enumerate(cache.buffers)]
        found = [np.maximum(a, b) for a, b in zip(found, seen, strict=True)] if found else seen
    return found


def _keys(held: Floats) -> Floats:
    """Of (kv_heads, positions, head_size); both ways to form pairs, as the larger one serves either."""
    near = np.repeat(np.hypot(held[..., 0::2], held[..., 1::2]), 2, -1)
    half = held.shape[-1] // 2
    far = np.tile(np.hypot(held[..., :half], held[..., half:]), 2)
    return np.asarray(np.maximum(near, far).max(1), np.float32)


def _values(held: Floats) -> Floats:
    largest = np.abs(held).max(axis=(1, 2))
    return np.repeat(largest[:, None], held.shape[-1], 1).astype(np.float32)


def _scales(folder: DecoderFolder, ranges: Ranges) -> dict[str, Floats]:
    """By name of the cache's tensors, flat."""
    names = [f"{layer}.{side}" for layer in range(folder.layers) for side in ("key", "value")]
    tiny = np.float32(np.finfo(np.float32).tiny) * 127
    return {
        name: (np.maximum(most * np.float32(MARGIN), tiny) / np.float32(127)).reshape(-1)
        for name, most in zip(names, ranges, strict=True)
    }


def _rewritten(path: Path, name: str, scales: Mapping[str, Floats]) -> str:
    """A graph of the folder again, with 8-bit keys and values; its file's name."""
    import onnx  # noqa: PLC0415 - the package must import without it

    model = onnx.load(str(path / name), load_external_data=False)
    graph: Any = model.graph
    for node in graph.node:
        if node.op_type != "GroupQueryAttention" or node.domain != MICROSOFT:
            continue
        layer = node.input[3].split(".")[1]
        inputs = [*node.input, *[""] * (_SCALES - len(node.input))]
        for side in ("key", "value"):
            scale = f"scale.{layer}.{side}"
            graph.initializer.append(onnx.numpy_helper.from_array(scales[f"{layer}.{side}"], scale))
            inputs.append(scale)
        del node.input[:]
        node.input.extend(inputs)
        for key, value in (
            ("k_quant_type", "PER_CHANNEL"), ("v_quant_type", "PER_CHANNEL"), ("kv_cache_bit_width", 8),
        ):  # fmt: skip
            node.attribute.append(onnx.helper.make_attribute(key, value))
    for tensor in (*graph.input, *graph.output):
        if tensor.name.startswith(("past_key_values.", "present.")):
            tensor.type.tensor_type.elem_type = onnx.TensorProto.INT8
    made = f"{Path(name).stem}{SUFFIX}.onnx"
    onnx.save_model(model, str(path / made))
    return made


def _distance(session: DecoderSession, texts: Sequence[Sequence[int]], expected: Sequence[Floats]) -> Quality:
    gaps: list[float] = []
    for text, right in zip(texts, expected, strict=True):
        for row, true in zip(_logits(session, [text])[0][SETTLED:], right[SETTLED:], strict=True):
            mine, theirs = log_probabilities(row), log_probabilities(true)
            gaps.append(float((np.exp(theirs) * (theirs - mine)).sum()))
    mean = float(np.mean(gaps)) if gaps else math.nan
    if not math.isfinite(mean):
        name, tokens = session.folder.name, len(texts[0])
        raise BadInput(
            f"{name}: texts of {tokens} tokens do not tell what a small cache costs in quality; import it without"
        )
    return Quality(max(0.0, mean), len(gaps))
