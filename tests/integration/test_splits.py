"""Split models in a real agent: bits of the whole model, status of the stages, no request lost with a lane."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest

from tests.integration.agent_process import MAGIKA, models, running

NPU = [{"name": "npu0", "like": "jetson-orin-nano-super/gpu"}]


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    entries = [{**m, "splits": ["cpu+npu0", "cpu+npu0+cpu"]} for m in models(MAGIKA)]
    with running(tmp_path_factory.mktemp("splits"), models=entries, simulated_accelerators=NPU) as agent:
        ready = {"cpu", "cpu+npu0", "cpu+npu0+cpu"}
        agent.wait_until(
            lambda: ready
            <= {
                c["accelerator"] for c in agent.model("magika")["candidates"] if c["state"] == "ready"
            }
            and agent.model("magika")["state"] == "ready", 60
        )  # fmt: skip
        yield agent


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
    answers: list = []
    wanted = ask(agent, 5, "cpu").outputs["target_label"].tobytes()

    def client() -> None:
        answers.extend(ask(agent, 5, "cpu+npu0").outputs["target_label"].tobytes() for _ in range(15))

    threads = [threading.Thread(target=client) for _ in range(3)]
    for thread in threads:
        thread.start()
    os.kill(agent.accelerator("npu0")["pid"], signal.SIGKILL)
    for thread in threads:
        thread.join(60)
    assert answers == [wanted] * 45
