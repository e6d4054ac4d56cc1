"""An agent that is killed right after its start, three times, comes back reachable on the CPU alone."""

from __future__ import annotations

import numpy as np

from tests.integration.agent_process import MAGIKA, AgentProcess, models


def test_three_quick_kills_lead_to_safe_mode_which_still_answers(tmp_path):
    settings = {
        "profile": "generic-x86", "models": models(MAGIKA), "isolation": "process",
        "simulated_accelerators": [{"name": "npu0", "like": "jetson-orin-nano-super/gpu"}],
    }  # fmt: skip
    for _ in range(3):
        agent = AgentProcess(tmp_path, settings)
        agent.wait_ready()
        assert not any(c["type"] == "safe_mode" for c in agent.status()["conditions"])
        agent.process.kill()
        agent.process.wait(60)
        agent.process.stdout.close()
    agent = AgentProcess(tmp_path, settings)
    try:
        agent.wait_ready()
        status = agent.status()
        (told,) = [c for c in status["conditions"] if c["type"] == "safe_mode"]
        assert "ended 3 times within 120 s" in told["cause"]
        assert told["mend"]
        assert [a["name"] for a in status["accelerators"] if a["simulated"]] == []
        client = agent.client()
        answer = client.infer("magika", {"bytes": np.zeros((1, 2048), np.int32)})
        assert answer.parameters["placement"].startswith("cpu")
        client.close()
    finally:
        assert agent.stop() == 0
