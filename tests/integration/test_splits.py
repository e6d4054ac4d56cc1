"""Split models in a real agent: bits of the whole model, status of the stages, no request lost with a lane."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest

from agent.cli.client import AgentError
from tests.integration.agent_process import MAGIKA, models, running

NPU = [{"name": "npu0", "like": "jetson-orin-nano-super/gpu"}]


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    entries = [{**m, "splits": ["cpu+npu0", "cpu+npu0+cpu"]} for m in models(MAGIKA)]
    with running(tmp_path_factory.mktemp("splits"), models=entries, simulated_accelerators=NPU) as agent:
        yield agent


@pytest.fixture(autouse=True)
def ready(agent):
    """Every placement serves, also after a test that took a lane away."""

    def all_ready() -> bool:
        model = agent.model("magika")
        served = {c["accelerator"] for c in model["candidates"] if c["state"] == "ready"}
        return model["state"] == "ready" and {"cpu", "cpu+npu0", "cpu+npu0+cpu"} <= served

    agent.wait_until(all_ready, 120)


def inputs(seed: int) -> dict:
    return {"bytes": np.random.default_rng(seed).integers(0, 256, (1, 2048)).astype(np.int32)}


def ask(agent, seed: int, placement: str):
    client = agent.client()
    try:
        return client.infer("magika", inputs(seed), {"placement": placement})
    finally:
        client.close()


@pytest.mark.parametrize("placement", ["cpu+npu0", "cpu+npu0+cpu"])
def test_a_split_gives_the_bits_of_the_whole(agent, placement):
    for seed in range(3):
        whole, split = ask(agent, seed, "cpu"), ask(agent, seed, placement)
        assert split.parameters["placement"] == placement
        assert split.outputs["target_label"].tobytes() == whole.outputs["target_label"].tobytes()


def test_status_shows_each_stage_with_its_measured_time(agent):
    ask(agent, 0, "cpu+npu0")

    def met():
        parts = [c["stages"] for c in agent.model("magika")["candidates"] if c["accelerator"] == "cpu+npu0"]
        return parts[0] if parts and all(s["requests"] for s in parts[0]) else None

    rows = agent.wait_until(met)
    assert [s["accelerator"] for s in rows] == ["cpu", "npu0"]
    assert all(s["measured_p50_ms"] > 0 and s["predicted_ms"] > 0 for s in rows)


def test_the_loss_of_a_lane_loses_no_request_of_a_split(agent):
    answers: list[bytes] = []
    refused: list[str] = []
    wanted = ask(agent, 5, "cpu").outputs["target_label"].tobytes()

    def one() -> None:
        try:
            answers.append(ask(agent, 5, "cpu+npu0").outputs["target_label"].tobytes())
        except AgentError as error:  # asked for by name after a plan without the lane came into force
            refused.append(error.message)

    def client() -> None:
        for _ in range(15):
            one()

    threads = [threading.Thread(target=client) for _ in range(3)]
    for thread in threads:
        thread.start()
    before = agent.accelerator("npu0")
    os.kill(before["pid"], signal.SIGKILL)
    for thread in threads:
        thread.join(300)
    assert answers == [wanted] * len(answers) != []
    assert len(answers) + len(refused) == 45
    assert all("is not loaded on 'cpu+npu0'" in message for message in refused), refused
    agent.wait_until(lambda: agent.accelerator("npu0")["restarts"] > before["restarts"])
