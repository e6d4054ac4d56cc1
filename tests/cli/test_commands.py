"""Commands as a user types them: tables for people, JSON for scripts, one line for mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agent.cli import demo_agent, demo_load
from agent.cli.client import AgentClient
from agent.cli.infer import random_inputs, read_inputs
from agent.cli.main import COMMANDS, run
from agent.cli.status import timed
from agent.errors import BadInput, QeilError
from tests.fakes_service import FakeService
from tests.integration.agent_process import FACE, MAGIKA, model_file

PROBLEM = Path(__file__).parents[1] / "placement" / "data" / "decode_L12_D2_loose_j0_s101.npz"


@pytest.fixture(autouse=True)
def _state(tmp_path, monkeypatch):
    monkeypatch.setenv("QEIL_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def served():
    """The real HTTP edge over a fake service that knows `add1`."""
    from agent.api.server import HttpServer
    from agent.schema.settings import HttpSettings

    service = FakeService()
    server = HttpServer(service, HttpSettings(port=0))
    server.start()
    yield server.url, service
    server.stop()


def ok(capsys, *arguments: str) -> str:
    assert run(arguments) == 0
    return capsys.readouterr().out


def test_every_command_explains_itself(capsys):
    for name in COMMANDS:
        assert run([name, "--help"]) == 0
        assert "Usage: qeil" in capsys.readouterr().out


def test_a_command_without_its_subcommand_shows_its_help_as_it_is_laid_out(capsys):
    for arguments in ([], ["models"], ["fleet"]):
        code = run(arguments)
        lines = "".join(capsys.readouterr()).splitlines()
        assert (code, lines[0][:11]) in ((2, "Usage: qeil"), (0, "Usage: qeil"))  # click before 8.2 calls it success
        assert "Options:" in lines


def test_help_and_completion_wait_for_no_heavy_module():
    heavy = "print(sorted({'numpy', 'pydantic', 'structlog', 'asyncio', 'yaml'} & sys.modules.keys()), file=sys.stderr)"
    for arguments in (["--help"], ["status", "--help"], ["top", "--help"], ["models", "--help"]):
        code = f"import sys; from agent.cli.main import run; run({arguments}); {heavy}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stderr.strip() == "[]", arguments


def test_a_plan_names_the_choice_the_baselines_and_why(capsys):
    path = str(model_file(*MAGIKA[1:]))
    document = json.loads(ok(capsys, "plan", path, "--profile", "generic-x86", "--json"))
    chosen = document["chosen"]
    assert chosen["provenance"] == "modelled"
    assert len(chosen["assignment"]) == len(chosen["stages"])
    assert {"greedy", "single:cpu", "single:cpu-eco"} <= set(document["baselines"])
    best = min(p["objectives"][0] for p in document["front"])
    assert best <= min(b["energy_j"] for b in document["baselines"].values()) * (1 + 1e-9)
    text = ok(capsys, "plan", path, "--profile", "generic-x86")
    assert "chosen under balanced" in text


def test_a_plan_draws_itself(capsys, tmp_path):
    target = tmp_path / "front.svg"
    ok(capsys, "plan", str(model_file(*MAGIKA[1:])), "--profile", "generic-x86", "--plot", str(target))
    assert "<svg" in target.read_text()
    assert run(["plan", "--problem", str(PROBLEM), "--plot", str(tmp_path / "front.bmp")]) == 1
    assert ".svg" in capsys.readouterr().err


def test_a_plan_of_ones_own_tables_prints_a_front_and_its_certificate(capsys):
    assert "exact" in ok(capsys, "plan", "--problem", str(PROBLEM))
    assert json.loads(ok(capsys, "plan", "--problem", str(PROBLEM), "--json"))["exact"] is True


def test_plan_wants_one_thing_to_plan(capsys):
    assert run(["plan"]) == 2
    assert "--problem" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plan", "/none/model.onnx"], "No such file"),
        (["plan", "no-such-workload-at-all"], "neither a model file nor"),
        (["explain", "x.txt", "--profile", "generic-x87"], "did you mean generic-x86"),
        (["models", "add", "/none/model.tflite"], "No such file"),
        (["status", "--url", "http://127.0.0.1:9"], "is the agent running"),
        (["status", "--url", "ftp://x"], "expected http://HOST:PORT"),
        (["infer", "m", "--url", "http://127.0.0.1:9"], "is the agent running"),
        (["run", "--config", "/none/agent.yaml"], "no such file"),
    ],
)
def test_a_mistake_is_one_line_without_a_traceback(capsys, arguments, words):
    assert run(arguments) in (1, 78)
    captured = capsys.readouterr()
    assert words.lower() in captured.err.lower()
    assert len(captured.err.strip().splitlines()) == 1


def test_explain_ends_in_coefficients_with_sources(capsys):
    path = str(model_file(*FACE[1:]))
    text = ok(capsys, "explain", path, "--profile", "generic-x86")
    assert "thermal yield" in text
    assert "assumed" in text
    document = json.loads(ok(capsys, "explain", path, "--profile", "generic-x86", "--json"))
    assert document["placements"][0]["accelerator"] == document["chosen"]
    assert all(c["source"] for p in document["placements"] for c in p["coefficients"])
    assert document["rejected"][0]["accelerator"] == "cpu-openvino"


def test_models_are_inspected_added_and_listed(capsys, tmp_path):
    path = str(model_file(*FACE[1:]))
    text = ok(capsys, "models", "inspect", path)
    assert "input_1: FP32 [1, 192, 192, 3]" in text
    assert json.loads(ok(capsys, "models", "inspect", path, "--json"))["format"] == "tflite"
    assert "stored as" in ok(capsys, "models", "add", path, "--name", "face")
    assert "face" in ok(capsys, "models", "ls")
    assert [m["name"] for m in json.loads(ok(capsys, "models", "ls", "--json"))] == ["face"]


def test_status_and_infer_talk_to_a_running_agent(capsys, served):
    url, _ = served
    assert "Models" in ok(capsys, "status", "--url", url)
    assert json.loads(ok(capsys, "status", "--url", url, "--json"))["agent"]["mode"]
    name = "add1"
    text = ok(capsys, "infer", name, "--url", url)
    assert "energy" in text
    document = json.loads(ok(capsys, "infer", name, "--url", url, "--json"))
    assert document["parameters"]["placement"]


def test_status_says_what_the_agent_timed_and_who_serves_for_it():
    rows = [("cpu", 42.84, 28.0), ("cpu-eco", 30.91, None), ("npu", None, 9.0)]
    candidates = [{"accelerator": a, "timed_ms": t, "predicted_ms": p} for a, t, p in rows]
    said = timed({"name": "mlp", "placement": "cpu-eco", "candidates": candidates})
    assert said == "mlp was timed on the idle board: cpu 42.8 ms (28 predicted); cpu-eco 30.9 ms (– predicted), serves"
    assert timed({"name": "mlp", "placement": "npu", "candidates": candidates[2:]}) == ""


def test_inputs_come_from_files_of_three_kinds(tmp_path):
    metadata = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]}
    np.save(tmp_path / "a.npy", np.ones((1, 2), np.float32))
    np.savez(tmp_path / "a.npz", x=np.ones((1, 2), np.float32))
    (tmp_path / "a.json").write_text("[[1, 1]]")
    (tmp_path / "b.json").write_text('{"x": [[1, 1]]}')
    for name in ("a.npy", "a.npz", "a.json", "b.json"):
        inputs = read_inputs(tmp_path / name, metadata)
        assert inputs["x"].dtype == np.float32
        assert inputs["x"].tolist() == [[1, 1]]
    assert random_inputs(metadata)["x"].shape == (1, 2)


def test_inputs_that_cannot_be_read_are_named(tmp_path):
    two = {"inputs": [{"name": n, "datatype": "FP32", "shape": [1]} for n in "ab"]}
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(BadInput, match="the inputs a, b"):
        read_inputs(tmp_path / "a.json", two)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(BadInput, match=r"bad\.json"):
        read_inputs(tmp_path / "bad.json", two)
    with pytest.raises(BadInput, match=r"none\.npy"):
        read_inputs(tmp_path / "none.npy", {"inputs": two["inputs"][:1]})


def test_the_demos_load_counts_what_was_lost(served, monkeypatch):
    url, _ = served
    monkeypatch.setattr(demo_load.os, "kill", lambda pid, number: None)
    with AgentClient(url) as client:
        inputs = random_inputs(client.get("/v2/models/add1"))
        truth = client.infer("add1", inputs).outputs
    fire = demo_load.under_fire(url, "add1", inputs, truth, 1, 20, 4)
    assert (fire.answered, fire.lost, fire.wrong) == (20, 0, 0)
    wrong = demo_load.under_fire(url, "add1", inputs, {n: t + 1 for n, t in truth.items()}, 1, 5, 1)
    assert wrong.wrong == 5
    lost = demo_load.under_fire(url, "gone", inputs, truth, 1, 5, 2)
    assert lost.lost == 5


def test_the_demos_settings_are_valid(tmp_path):
    from agent.storage import yaml_files

    path = demo_agent.write_settings(tmp_path, {"m": tmp_path / "m.onnx"}, None)
    settings = yaml_files.load_settings(path)
    assert settings.simulated_accelerators[0].name == "npu0"
    assert yaml_files.load_policy(tmp_path / "policy.yaml").standby == "all"


def test_the_demos_agent_says_why_it_did_not_get_ready(tmp_path):
    (tmp_path / "agent.yaml").write_text("version: 1\nnonsense: true\n")
    with pytest.raises(QeilError, match="nonsense"), demo_agent.Agent(tmp_path / "agent.yaml", tmp_path / "log"):
        pass


@pytest.mark.parametrize("url", ["http://127.0.0.1:abc", "ftp://127.0.0.1", "http://[::1", "nonsense", "http://"])
def test_a_url_that_is_none_is_one_line(capsys, url):
    assert run(["status", "--url", url]) == 1
    hint = "expected http://HOST:PORT, https://HOST:PORT or unix:/PATH; an IPv6 address in brackets"
    assert capsys.readouterr().err.strip() == f"qeil: {url}: {hint}"


def test_output_that_cannot_be_written_is_one_line():
    command = [sys.executable, "-m", "agent.cli.main", "schema", "board"]
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device, opened for writing
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "qeil: the output could not be written: No space left on device\n")


@pytest.mark.parametrize("model", ["resnet-50", "gpt2-125m"])
@pytest.mark.parametrize("board", ["core-ultra-258v", "jetson-orin-nano-super"])
def test_max_efficiency_never_takes_more_joules_than_balanced_for_the_same_model(capsys, model, board):
    found = {
        policy: json.loads(ok(capsys, "plan", model, "--profile", board, "--policy", policy, "--json"))
        for policy in ("balanced", "max-efficiency")
    }
    for marked in ("chosen", "served"):
        assert found["max-efficiency"][marked]["energy_j"] <= found["balanced"][marked]["energy_j"]


def test_a_plan_says_what_the_agent_would_serve_beside_the_best_split(capsys):
    document = json.loads(ok(capsys, "plan", "gpt2-125m", "--profile", "core-ultra-258v", "--json"))
    served, chosen = document["served"], document["chosen"]
    alone = {stage["accelerator"] for stage in chosen["stages"]} == {served["accelerator"]}
    assert served["same_as_chosen"] is alone
    assert "served by qeil run: " in ok(capsys, "plan", "gpt2-125m", "--profile", "core-ultra-258v")
