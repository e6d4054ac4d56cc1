"""Delegates and operators that crash, accelerators that are not there: the agent serves on and says who and why."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml

from agent.cli.infer import random_inputs
from agent.schema.device import DeviceProfile
from agent.storage import share, yaml_files
from tests.backends.test_custom_operators import BAD, GOOD, compiled, copy_model
from tests.integration.agent_process import FACE, MAGIKA, models, running

DELEGATE = Path(__file__).parent.parent / "backends/delegate.c"


def board_with(name: str, runtime: dict, folder: Path) -> str:
    """This machine's generic profile and one accelerator that looks ten times faster than its CPU."""
    profile = yaml_files.load_profile(share.find_profile("generic-x86"))
    cpu = profile.accelerator("cpu")
    faster = {p: q.model_copy(update={"value": 10 * q.value}) for p, q in cpu.peak_flops_per_s.items()}
    other = {**cpu.model_dump(), "name": name, "kind": "gpu", "runtimes": [runtime], "peak_flops_per_s": faster}
    document = {**profile.model_dump(mode="json"), "accelerators": [cpu, other], "rails": [], "match": {}}
    path = folder / "board.yaml"
    path.write_text(yaml.safe_dump(DeviceProfile.model_validate(document).model_dump(mode="json")))
    return str(path)


def candidate(model: dict, accelerator: str) -> dict:
    return next(c for c in model["candidates"] if c["accelerator"] == accelerator)


def test_a_delegate_that_crashes_is_kept_away_from_its_model_and_quoted(tmp_path):
    library = tmp_path / "delegate.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(DELEGATE)], check=True)
    runtime = {"backend": "litert", "provider": "external", "plugin": str(library), "options": {"mode": "crash"}}
    profile = board_with("edgetpu", runtime, tmp_path)
    with running(tmp_path / "agent", profile=profile, models=models(FACE)) as agent:
        with contextlib.closing(agent.client()) as client:
            inputs = random_inputs(client.get(f"/v2/models/{FACE[0]}"))

            def settled() -> bool:
                answer = client.infer(FACE[0], inputs)
                assert answer.parameters["placement"] == "cpu"
                return candidate(agent.model(FACE[0]), "edgetpu")["state"] == "refused"

            agent.wait_until(settled, 120)
        reason = candidate(agent.model(FACE[0]), "edgetpu")["reason"]
        assert "SIGSEGV; last words: test delegate: register 0x40 reads zero" in reason
        assert "SIGSEGV" in agent.accelerator("edgetpu")["last_fault"]
        restarts = agent.accelerator("edgetpu")["restarts"]
        assert restarts <= 3
        agent.wait_until(lambda: agent.model(FACE[0])["state"] == "ready")


def test_an_operator_that_crashes_loses_no_request_and_its_lane_is_quarantined_with_its_last_words(tmp_path):
    libraries = {"gpu": compiled(tmp_path, "-DCRASH"), "cpu": compiled(tmp_path)}
    crashing, sound = (
        {"backend": "onnx", "provider": "CPUExecutionProvider", "options": {"custom_operators": libraries[name]}}
        for name in ("gpu", "cpu")
    )
    board = yaml.safe_load(Path(board_with("gpu", crashing, tmp_path)).read_text())
    board["accelerators"][0]["runtimes"] = [sound]
    for unit, watts in zip(board["accelerators"], (9.0, 0.1), strict=True):
        unit["base_power_w"]["value"] = watts  # so that the one that crashes is asked first
    (tmp_path / "board.yaml").write_text(yaml.safe_dump(board))
    policy = yaml.safe_load(share.find_policy("balanced").read_text())
    policy["name"], policy["guard"]["models"]["custom_operators"] = "trusting", "flag"
    policy["recovery"] |= {"breaker_failures": 2, "restart_backoff_s": 0.1, "ramp_s": 0, "ramp_start_share": 1}
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(policy))
    entry = {"name": "copy", "path": str(copy_model(tmp_path / "copy.onnx"))}
    settings = {"profile": str(tmp_path / "board.yaml"), "policy": str(tmp_path / "policy.yaml"), "models": [entry]}
    with running(tmp_path / "agent", **settings) as agent, contextlib.closing(agent.client()) as client:

        def quarantined() -> bool:
            for x in (GOOD, BAD, GOOD):  # every one is answered, whoever dies of it
                assert np.array_equal(client.infer("copy", {"x": x}).outputs["y"], x)
            return agent.accelerator("gpu")["state"] == "quarantined"

        agent.wait_until(quarantined, 120)
        fault = agent.accelerator("gpu")["last_fault"]
        assert "SIGSEGV" in fault
        assert "test operator: no page behind bank 7" in fault
        assert agent.model("copy")["failed"] == 0
        agent.wait_until(lambda: agent.model("copy")["placement"] == "cpu")


@pytest.mark.parametrize(
    ("rule", "state", "reason", "condition"),
    [
        ("fail", "refused", "CUDAExecutionProvider was asked for, but CPUExecutionProvider runs it", False),
        ("warn", "ready", "CUDAExecutionProvider was asked for, but CPUExecutionProvider runs it", True),
        ("allow", "ready", None, False),
    ],
)
def test_cuda_on_a_machine_without_it_is_handled_as_the_policy_says(tmp_path, rule, state, reason, condition):
    profile = board_with("gpu", {"backend": "onnx", "provider": "CUDAExecutionProvider"}, tmp_path)
    policy = tmp_path / "policy.yaml"
    text = share.find_policy("balanced").read_text()
    assert "on_fallback: warn" in text
    policy.write_text(text.replace("on_fallback: warn", f"on_fallback: {rule}"))
    with running(tmp_path / "agent", profile=profile, policy=str(policy), models=models(MAGIKA)) as agent:
        agent.wait_until(lambda: candidate(agent.model("magika"), "gpu")["state"] not in {"loading", "not loaded"})
        status = agent.status()
        model = status["models"][0]
        gpu = candidate(model, "gpu")
        assert (gpu["state"], gpu.get("reason")) == (state, reason)
        assert any(c["type"] == "fallback:magika:gpu" for c in status["conditions"]) == condition
        assert model["state"] == "ready"
        if state == "ready":
            assert (model["requested"], model["actual"]) == ("CUDAExecutionProvider", "CPUExecutionProvider")
            assert model["accelerated_fraction"] == 0.0
