"""A real quantised pair: settings name both files, the policy's floor decides, plan and status say which one runs."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from agent.cli.main import run
from agent.storage import share
from tests.integration.agent_process import running

SIZE = 256


def pair(folder):
    """A classifier and the same with 8-bit weights, and the share of inputs on which they agree."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    ort = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(1)
    values = [(rng.standard_normal((SIZE, SIZE)) / 16).astype(np.float32) for _ in range(4)]
    weights = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(values)]
    nodes = [
        node
        for i in range(4)
        for node in (
            helper.make_node("MatMul", ["x" if i == 0 else f"h{i}", f"w{i}"], [f"m{i}"]),
            helper.make_node("Tanh", [f"m{i}"], ["y" if i == 3 else f"h{i + 1}"]),
        )
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, SIZE]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "fp32.onnx")
    quantization.quantize_dynamic(folder / "fp32.onnx", folder / "int8.onnx")
    inputs = rng.standard_normal((200, 1, SIZE)).astype(np.float32)
    answers = []
    for name in ("fp32", "int8"):
        session = ort.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
        answers.append([int(session.run(None, {"x": x})[0].argmax()) for x in inputs])
    return float(np.mean(np.array(answers[0]) == np.array(answers[1])))


def policy(folder, floor: float):
    document = yaml.safe_load(share.find_policy("balanced").read_text())
    document["quality_floor"] = floor
    document["name"] = "mine"
    document["pinned"] = [{"model": "*", "accelerator": "cpu"}]
    path = folder / "policy.yaml"
    partial = path.with_suffix(".partial")
    partial.write_text(yaml.safe_dump(document))
    partial.replace(path)
    return path


def test_the_quantised_file_serves_while_the_policy_admits_its_quality(tmp_path, capsys):
    agreement = pair(tmp_path)
    assert 0.5 < agreement < 1.0
    entry = {
        "name": "m", "path": str(tmp_path / "fp32.onnx"), "quality": 1.0,
        "variants": [{"name": "int8", "path": str(tmp_path / "int8.onnx"), "quality": agreement}],
    }  # fmt: skip
    with running(tmp_path / "a", policy=str(policy(tmp_path, agreement - 0.01)), models=[entry]) as agent:
        first = agent.model("m")
        assert (first["variant"], first["candidates"][0]["quality"]) == ("int8", agreement)

        policy(tmp_path, agreement + 0.001)  # a stricter owner
        agent.wait_until(lambda: agent.model("m")["variant"] == "" and agent.model("m")["state"] == "ready")
        row = next(c for c in agent.model("m")["candidates"] if c["accelerator"] == "variant int8")
        assert "quality_floor" in row["reason"]

        arguments = ["plan", "m", "--config", str(agent.config)]
        assert run([*arguments, "--json"]) == 0
        rows = {r["variant"]: r for r in json.loads(capsys.readouterr().out)["variants"]}
        assert (rows["model file"]["chosen"], rows["int8"]["chosen"]) == (True, False)
        assert "quality_floor" in rows["int8"]["why"]

        policy(tmp_path, 0.0)
        assert run([*arguments, "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert {r["variant"]: r["chosen"] for r in document["variants"]} == {"model file": False, "int8": True}
        assert document["model"] == "int8"
        assert run(arguments) == 0
        said = capsys.readouterr().out
        assert "Files of the model" in said
        assert f"the whole model on cpu from variant int8 (quality {agreement:.4g})" in said


def test_a_file_that_is_another_model_is_no_variant(tmp_path, capsys):
    pair(tmp_path)
    other = onnx.load(tmp_path / "fp32.onnx")
    other.graph.output[0].name = "z"
    other.graph.node[-1].output[0] = "z"
    onnx.save(other, tmp_path / "other.onnx")
    variants = [
        {"name": "other", "path": "other.onnx", "quality": 1.0}, {"name": "gone", "path": "gone.onnx", "quality": 1.0},
    ]  # fmt: skip
    models = [{"name": "m", "path": "fp32.onnx", "quality": 1.0, "variants": variants}]
    (tmp_path / "agent.yaml").write_text(
        yaml.safe_dump({"version": 1, "state_dir": str(tmp_path / "s"), "models": models})
    )
    assert run(["plan", "m", "--config", str(tmp_path / "agent.yaml"), "--json"]) == 0
    rows = {r["variant"]: r["why"] for r in json.loads(capsys.readouterr().out)["variants"]}
    assert rows["other"] == "its outputs are not those of the model file"
    assert "gone.onnx" in rows["gone"]
