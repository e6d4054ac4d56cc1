"""The main job from outside: an agent process, real models, real clients, real kills."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml

from agent.cli.infer import random_inputs
from agent.errors import QeilError
from agent.storage import share
from tests.integration.agent_process import FACE, MAGIKA, NSFW, AgentProcess, model_file, models, running


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    policy = tmp_path_factory.mktemp("agent") / "policy.yaml"
    text = share.find_policy("balanced").read_text()
    policy.write_text(text.replace("ramp_s: 30", "ramp_s: 1"))
    with running(policy.parent, policy=str(policy), models=models(MAGIKA, NSFW, FACE)) as process:
        yield process


def at_rest(status: dict) -> bool:
    """Whether every model and every lane that has one is ready."""
    return all(part["state"] in {"ready", "idle"} for part in (*status["models"], *status["accelerators"]))


@pytest.fixture(autouse=True)
def recovered(request):
    """What an earlier test broke on purpose has come back before the next one begins."""
    if "agent" in request.fixturenames:
        process = request.getfixturevalue("agent")
        process.wait_until(lambda: at_rest(process.status()), 60.0)


def back_since(agent: AgentProcess, name: str, before: dict) -> dict | None:
    """The accelerator once its lane has come back; not "ready" alone: it still is, until the loss is noticed."""
    now = agent.accelerator(name)
    return now if now["state"] == "ready" and now["restarts"] > before["restarts"] else None


def raw_onnx(entry: tuple[str, str, str], inputs: dict) -> dict:
    """The truth: onnxruntime itself, in this process."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model_file(*entry[1:])), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def test_every_model_is_ready_on_the_provider_that_was_asked_for(agent):
    assert agent.status()["agent"]["mode"] == "ready"

    def all_with_a_standby():  # ready is who answers from one placement; the standby's load may end later
        found = agent.status()["models"]
        ready = [[c for c in m["candidates"] if c["state"] == "ready"] for m in found]
        return found if all(len(candidates) >= 2 for candidates in ready) else None

    for model in agent.wait_until(all_with_a_standby, 60.0):
        assert model["state"] == "ready"
        assert model["requested"] in model["actual"]


@pytest.mark.parametrize("entry", [MAGIKA, NSFW], ids=lambda e: e[0])
def test_outputs_equal_raw_onnxruntime_on_every_placement(agent, entry):
    client = agent.client()
    inputs = random_inputs(client.get(f"/v2/models/{entry[0]}"))
    truth = raw_onnx(entry, inputs)
    for candidate in agent.model(entry[0])["candidates"]:
        if candidate["state"] == "ready":
            answer = client.infer(entry[0], inputs, {"placement": candidate["accelerator"]})
            assert answer.parameters["placement"] == candidate["accelerator"]
            assert answer.parameters["provenance"] == "modelled"
            for name, expected in truth.items():
                np.testing.assert_allclose(answer.outputs[name], expected, atol=1e-5)
    client.close()


def test_the_unmodified_triton_client_works(agent):
    import tritonclient.http as triton

    with triton.InferenceServerClient(agent.url.removeprefix("http://")) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("magika")
        metadata = client.get_model_metadata("magika")
        assert metadata["inputs"][0]["shape"] == [-1, 2048]
        data = np.arange(2048, dtype=np.int32).reshape(1, 2048) % 256
        truth = raw_onnx(MAGIKA, {"bytes": data})["target_label"]
        for binary in (True, False):
            tensor = triton.InferInput("bytes", [1, 2048], "INT32")
            tensor.set_data_from_numpy(data, binary_data=binary)
            output = triton.InferRequestedOutput("target_label", binary_data=binary)
            result = client.infer("magika", [tensor], outputs=[output])
            np.testing.assert_allclose(result.as_numpy("target_label"), truth, atol=1e-5)
        wrong = triton.InferInput("bytes", [1, 7], "INT32")
        wrong.set_data_from_numpy(np.zeros((1, 7), np.int32))
        with pytest.raises(triton.InferenceServerException, match=r"expected INT32 \[-1, 2048\]"):
            client.infer("magika", [wrong])


def test_a_killed_lane_loses_no_request_and_comes_back(agent):
    client = agent.client()
    inputs = random_inputs(client.get("/v2/models/magika"))
    truth = client.infer("magika", inputs).outputs["target_label"]
    chosen = agent.model("magika")["placement"]
    before = agent.accelerator(chosen)
    outcomes: list[str] = []

    def ask() -> None:
        own = agent.client()
        try:
            answer = own.infer("magika", inputs)
            outcomes.append("right" if np.allclose(answer.outputs["target_label"], truth, atol=1e-4) else "wrong")
        except QeilError as error:
            outcomes.append(error.message)
        finally:
            own.close()

    threads = [threading.Thread(target=ask) for _ in range(200)]
    for number, thread in enumerate(threads):
        thread.start()
        if number == 100:
            os.kill(before["pid"], signal.SIGKILL)
    for thread in threads:
        thread.join()

    assert outcomes == ["right"] * 200

    after = agent.wait_until(lambda: back_since(agent, chosen, before), 60.0)
    assert after["restarts"] == before["restarts"] + 1
    assert "SIGKILL" in after["last_fault"]
    client.close()


def test_a_stopped_lane_is_seen_and_its_requests_move_on(agent):
    chosen = agent.model("face-landmark")["placement"]
    before = agent.accelerator(chosen)
    os.kill(before["pid"], signal.SIGSTOP)
    client = agent.client()
    answer = client.infer("face-landmark", random_inputs(client.get("/v2/models/face-landmark")))
    assert answer.parameters["placement"] != chosen
    agent.wait_until(lambda: back_since(agent, chosen, before), 60.0)
    client.close()


def test_a_policy_edit_takes_over_and_a_broken_one_is_refused_with_its_line(agent):
    path = agent.folder / "policy.yaml"
    text = path.read_text()
    digest = agent.status()["agent"]["policy_digest"]

    path.write_text(text.replace("soft_c:", "sofft_c:"))
    condition = agent.wait_until(
        lambda: next((c for c in agent.status()["conditions"] if c["type"] == "policy_rejected"), None)
    )
    assert f"{path}:" in condition["cause"]
    assert "soft_c" in condition["cause"]
    assert agent.status()["agent"]["policy_digest"] == digest

    path.write_text(text.replace("pinned: []", "pinned: [{model: magika, accelerator: cpu-eco}]"))
    agent.wait_until(lambda: agent.status()["agent"]["policy_digest"] != digest)
    agent.wait_until(lambda: agent.model("magika")["placement"] == "cpu-eco")
    assert [c["reason"] for c in agent.model("magika")["candidates"] if c["state"] == "rejected"]
    agent.wait_until(lambda: not any(c["type"] == "policy_rejected" for c in agent.status()["conditions"]))

    path.write_text(text)
    agent.wait_until(lambda: agent.status()["agent"]["policy_digest"] == digest)


def test_hopeless_models_are_named_and_the_others_are_served(tmp_path):
    corrupt = tmp_path / "corrupt.onnx"
    corrupt.write_bytes(b"this is no protobuf")
    entries = [{"name": "corrupt", "path": str(corrupt)}, {"name": "gone", "path": str(tmp_path / "gone.onnx")}]
    with running(tmp_path / "a", models=[*models(MAGIKA), *entries]) as process:
        states = {m["name"]: m for m in process.status()["models"]}
        assert states["magika"]["state"] == "ready"
        assert states["corrupt"]["state"] == states["gone"]["state"] == "unavailable"
        assert "No such file" in states["gone"]["reason"]
        client = process.client()
        with pytest.raises(QeilError, match="gone"):
            client.infer("gone", {"x": np.zeros(1, np.float32)})
        client.close()
        assert process.stop() == 0


def test_isolation_in_threads_serves_the_same(tmp_path):
    with running(tmp_path, isolation="thread", models=models(MAGIKA)) as process:
        client = process.client()
        inputs = random_inputs(client.get("/v2/models/magika"))
        answer = client.infer("magika", inputs)
        np.testing.assert_allclose(answer.outputs["target_label"], raw_onnx(MAGIKA, inputs)["target_label"], atol=1e-5)
        client.close()


def run_to_end(folder: Path, settings: dict, environ: dict[str, str] | None = None) -> tuple[int, str]:
    folder.mkdir(exist_ok=True)
    process = AgentProcess(folder, settings, environ)
    code = process.process.wait(60)
    process.process.stdout.close()
    return code, process.log.read_text()


def test_a_port_in_use_is_one_line_and_exit_code_78(agent, tmp_path):
    port = int(agent.url.rsplit(":", 1)[1])
    code, log = run_to_end(tmp_path, {"http": {"port": port}})
    assert code == 78
    assert f"port {port}" in log.splitlines()[-1]


def test_an_unknown_key_is_one_line_with_its_place_and_exit_code_78(tmp_path):
    code, log = run_to_end(tmp_path, {"polcy": "balanced"})
    assert code == 78
    assert "agent.yaml:" in log
    assert "policy" in log.splitlines()[-1]


def test_an_unwritable_state_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    code, log = run_to_end(tmp_path / "a", {"state_dir": str(tmp_path / "file" / "state")})
    assert code in (1, 78)
    assert "state_dir" in log.splitlines()[-1]
    assert "Traceback" not in log


def test_an_unreachable_broker_stops_nothing(tmp_path):
    with running(tmp_path, models=models(MAGIKA), mqtt={"host": "127.0.0.1", "port": 9}) as process:
        client = process.client()
        assert client.infer("magika", random_inputs(client.get("/v2/models/magika"))).outputs
        client.close()
        assert process.stop() == 0
    shutil.rmtree(tmp_path / "state")


def test_a_missing_policy_file_falls_back_to_the_last_good_one(tmp_path):
    policy = tmp_path / "p.yaml"
    policy.write_text(share.find_policy("balanced").read_text())
    with running(tmp_path / "a", policy=str(policy)) as process:
        digest = process.status()["agent"]["policy_digest"]
    policy.write_text(yaml.safe_dump({"version": 1, "name": "broken"}))
    with running(tmp_path / "a", policy=str(policy)) as process:
        status = process.status()
        assert status["agent"]["policy_digest"] == digest
        assert any(c["type"] == "policy_rejected" for c in status["conditions"])
