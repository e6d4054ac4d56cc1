"""Two real decoders on two accelerators: the small one writes the samples, the larger one verifies."""

from __future__ import annotations

import openai
import pytest

from agent.llm.importer import import_gguf
from tests.integration.agent_process import running
from tests.llm.reference import write_model

OPEN = {"strategy": "majority", "max_samples": 4, "answer": "text", "verify": True, "trace": True}


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    small = import_gguf(write_model(base / "small.gguf", context=256), base / "small").folder
    large = import_gguf(write_model(base / "large.gguf", "gemma3", context=256), base / "large").folder
    models = [
        {"name": "small", "path": str(small), "decoder": {"rows": 4, "threads": 1, "accelerator": "cpu"}},
        {"name": "again", "path": str(small), "decoder": {"rows": 4, "threads": 1, "accelerator": "cpu-eco"}},
        {"name": "large", "path": str(large), "decoder": {"rows": 4, "threads": 1, "accelerator": "cpu"}},
    ]
    with running(tmp_path_factory.mktemp("agent"), models=models, profile="generic-x86") as process:
        yield process


def test_samples_and_verification_run_in_different_processes_and_the_reply_says_where_and_why(agent):
    with openai.OpenAI(base_url=f"{agent.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        agent.wait_until(lambda: all(m.qeil["token_j"] for m in client.models.list().data))
        before = {m.id: m.qeil for m in client.models.list().data}
        reply = client.chat.completions.create(
            model="small", messages=[{"role": "user", "content": "hi"}], max_tokens=6, temperature=2.0, seed=4,
            extra_body={"qeil": OPEN},
        )  # fmt: skip
        after = {m.id: m.qeil for m in client.models.list().data}
    places = reply.qeil["places"]
    assert places["samples"]["model"] in {"small", "again"}
    assert (places["verifier"]["model"], places["verifier"]["accelerator"]) == ("large", "cpu"), places
    assert "the most telling verifier, then the fewest joules" in places["why"]
    # What a token costs is learnt from every text, this question's too.
    cheapest = {min(("small", "again"), key=lambda name: told[name]["token_j"]) for told in (before, after)}
    assert places["samples"]["model"] in cheapest
    assert {pair[1] for pair in places["front"]} >= {"large"}
    told = agent.wait_until(lambda: agent.model("small")["samples"])
    assert told.startswith("samples by ")
    asked = "derive_elsewhere" in {check[1] for check in reply.qeil["checks"]}
    agent.wait_until(lambda: {m["name"]: m for m in agent.status()["models"]}["large"]["requests"] >= asked)
