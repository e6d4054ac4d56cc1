"""A small OpenAI-compatible server whose samples follow from prompt and seed, for evaluating against."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random


class Server(ThreadingHTTPServer):
    """`skill`: chance of a right answer; `delay_s`: time per request; `refuse`: status codes of the next answers."""

    daemon_threads = True

    def __init__(self, skill: float = 0.6, delay_s: float = 0.0, energy: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.skill, self.delay_s, self.energy = skill, delay_s, energy
        self.refuse: list[int] = []
        self.requests: list[dict] = []
        self.closes = False
        """Close every connection after its answer, without saying so."""
        self.live = True
        """Whether it knows the block `qeil`."""
        self.side_by_side = self.most_side_by_side = 0
        self._counting = threading.Lock()
        self.logprobs_of_prompts = True

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        with self._counting:
            self.side_by_side += 1
            self.most_side_by_side = max(self.most_side_by_side, self.side_by_side)
        try:
            yield
        finally:
            with self._counting:
                self.side_by_side -= 1

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def serving(**options) -> Iterator[Server]:
    server = Server(**options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        self.close_connection = self.close_connection or self.server.closes
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        with self.server.under_way():
            time.sleep(self.server.delay_s)
            self._reply(body)

    def _reply(self, body: dict) -> None:
        if self.server.refuse:
            self._answer(self.server.refuse.pop(0), {"error": {"message": "busy"}})
        elif self.path == "/v1/chat/completions" and "qeil" in body and self.server.live:
            self._answer(200, self._live(body))
        elif self.path == "/v1/chat/completions":
            self._answer(200, self._chat(body))
        elif self.path == "/v1/completions":
            words = body["prompt"].split()
            values = [None, *[-0.5] * (len(words) - 1)] if self.server.logprobs_of_prompts else []
            self._answer(200, {"choices": [{"text": "", "logprobs": {"token_logprobs": values}}]})
        else:
            self._answer(404, {"error": {"message": f"no {self.path}"}})

    def _live(self, body: dict) -> dict:
        """An answer of repeated samples: csvet takes a quarter of them, and both say the same of a question."""
        prompt, plan = body["messages"][0]["content"], body["qeil"]
        rng = Random(hashlib.sha256(f"{prompt}{body['seed']}".encode()).digest())
        right = rng.random() < self.server.skill
        samples = plan["max_samples"] // (4 if plan["strategy"] == "csvet" else 1)
        answer = None if rng.random() < 0.1 else str(_solve(prompt) if right else 77)
        said = {"samples_used": samples, "answer": answer, "stop_reason": "samples", "guarantee": {"certified": right}}
        usage: dict = {"completion_tokens": 5 * samples}
        if self.server.energy:
            usage["energy"] = {"energy_j": 1.0 + 0.5 * samples, "provenance": "modelled"}
        return {"choices": [{"message": {"content": f"#### {answer}"}}], "usage": usage, "qeil": said}

    def _chat(self, body: dict) -> dict:
        body = {"n": 1} | body
        prompt = body["messages"][0]["content"]
        if prompt.endswith("Say only yes or no."):
            return self._judged(prompt)
        rng = Random(hashlib.sha256(f"{prompt}{body['seed']}".encode()).digest())
        choices = []
        for _ in range(body["n"]):
            right = rng.random() < self.server.skill or body["temperature"] == 0
            value = _solve(prompt) if right else rng.randint(0, 5)
            tokens = [{"token": "x", "logprob": -rng.random()} for _ in range(rng.randint(3, 9))]
            choices.append({"message": {"content": f"I think #### {value}"}, "logprobs": {"content": tokens}})
        usage = {"completion_tokens": sum(len(c["logprobs"]["content"]) for c in choices)}
        if self.server.energy:
            usage["energy"] = {"energy_j": 0.5 * body["n"], "provenance": "modelled"}
        return {"choices": choices, "usage": usage}

    def _judged(self, prompt: str) -> dict:
        """A self-check that is always right, and costs a tenth."""
        asked, _, said = prompt.partition("\n\nI think #### ")
        word = "Yes" if int(said.split()[0]) == _solve(asked) else "No"
        usage = {"completion_tokens": 1}
        if self.server.energy:
            usage["energy"] = {"energy_j": 0.05, "provenance": "modelled"}
        return {"choices": [{"message": {"content": f"{word}."}}], "usage": usage}

    def _answer(self, status: int, data: dict) -> None:
        raw = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        if status == 503:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        """Quiet."""


def _solve(prompt: str) -> int:
    """The generated arithmetic, followed step by step."""
    total = 0
    for sentence in prompt.split(". "):
        number = int((re.findall(r"\d+", sentence) or ["0"])[0])
        if "There are" in sentence and "times" not in sentence:
            total = number
        elif "times as many" in sentence:
            total *= number
        elif "takes" in sentence:
            total -= number
        elif "adds" in sentence:
            total += number
    return total
