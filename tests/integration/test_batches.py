"""Requests that share calls of a real lane's process, as clients see it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.cli.client import AgentClient
from tests.integration.agent_process import running

SIZE, CLIENTS, EACH = 32, 6, 8
WEIGHTS = (np.random.default_rng(1).standard_normal((SIZE, SIZE)) / 6).astype(np.float32)


def saved(path, *nodes):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", SIZE]) for name in "xy"]
    graph = helper.make_graph(list(nodes), "g", ends[:1], ends[1:], [numpy_helper.from_array(WEIGHTS, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return str(path)


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agent")
    tanh = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Tanh", ["h"], ["y"])]
    mean = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "m"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    batching = {"max": 4, "wait_ms": 100}
    models = [
        {"name": "rows", "path": saved(folder / "rows.onnx", *tanh), "batching": batching},
        {"name": "mixes", "path": saved(folder / "mixes.onnx", *mean), "batching": batching},
    ]
    with running(folder, models=models) as process:
        yield process


def asked_by_all(agent, model):
    """Every client's inputs and answers, all clients at once."""

    def client(number):
        rng = np.random.default_rng(number)
        got = []
        with AgentClient(agent.url) as connection:
            for _ in range(EACH):
                x = rng.standard_normal((1 + number % 2, SIZE)).astype(np.float32)
                got.append((x, connection.infer(model, {"x": x})))
        return got

    with ThreadPoolExecutor(CLIENTS) as pool:
        return [pair for pairs in pool.map(client, range(CLIENTS)) for pair in pairs]


def test_clients_that_share_calls_get_their_own_answers_and_are_told(agent):
    asked_by_all(agent, "rows")  # the lane is asked meanwhile whether it may
    answers = asked_by_all(agent, "rows")
    for x, answer in answers:
        np.testing.assert_allclose(answer.outputs["y"], np.tanh(x @ WEIGHTS), atol=1e-5)
    together = [answer.parameters.get("together", 1) for _, answer in answers]
    assert max(together) > 1
    assert all(answer.parameters["energy_j"] is None or answer.parameters["energy_j"] >= 0 for _, answer in answers)
    agent.wait_until(lambda: agent.model("rows")["requests"] == 2 * CLIENTS * EACH)


def test_a_model_that_mixes_its_rows_is_answered_one_by_one_and_the_log_says_why(agent):
    answers = asked_by_all(agent, "mixes")
    for x, answer in answers:
        np.testing.assert_allclose(answer.outputs["y"], (x - x.mean(axis=0)) @ WEIGHTS, atol=1e-5)
        assert "together" not in answer.parameters
    agent.wait_until(lambda: "its requests run one by one" in agent.log.read_text())
