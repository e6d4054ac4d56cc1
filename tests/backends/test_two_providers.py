"""A model over two providers: stages that alternate agree with the whole, and who runs which node is counted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from agent.schema.device import Runtime
from agent.workload.onnx_split import Order, split
from agent.workload.onnx_verify import inputs_for
from tests.backends.conftest import ORT, TAKES_PLUGINS, Rig
from tests.workload.runnable import saved
from tests.workload.splitting import FEEDS, NETS, names

PLUGIN = "onnxruntime_ep_openvino"
PROVIDER = "OpenVINOExecutionProvider"
PRECISE = {"load_config": '{"CPU":{"INFERENCE_PRECISION_HINT":"f32"}}'}
OPENVINO = Runtime(backend="onnx", provider=PROVIDER, plugin=PLUGIN, options=PRECISE)
TOLERANCE = 1e-3
COUNT = """
import json, sys, onnxruntime as ort, onnxruntime_ep_openvino as plugin
ort.register_execution_provider_library(sys.argv[2], plugin.get_library_path())
options = ort.SessionOptions()
options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
options.add_provider_for_devices([d for d in ort.get_ep_devices() if d.ep_name == sys.argv[2]][:1], {})
parts = ort.InferenceSession(sys.argv[1], options).get_provider_graph_assignment_info()
print(json.dumps([[part.ep_name, len(part.get_nodes())] for part in parts]))
"""


@pytest.fixture(autouse=True)
def plugin() -> None:
    if not TAKES_PLUGINS:
        pytest.skip("this onnxruntime takes no plugin providers")
    pytest.importorskip(PLUGIN)


@pytest.mark.parametrize(("kind", "stages"), [("convolutions", 2), ("transformer", 3), ("decoder", 6)])
def test_stages_that_alternate_between_two_providers_agree_with_the_whole(
    process_rig: Rig, tmp_path: Path, kind: str, stages: int
) -> None:
    path = saved(NETS[kind](), tmp_path)
    cut = split(Order(path, tmp_path / "out", names(stages), stages=stages))
    lanes = process_rig.lane(), process_rig.lane()
    whole = process_rig.load(lanes[0], path, "whole", ORT)
    have = inputs_for(FEEDS[kind], seed=3)
    expected = process_rig.run(lanes[0], {spec.name: have[spec.name] for spec in whole.inputs}, "whole").outputs

    for index, stage in enumerate(cut.stages):
        lane, runtime = lanes[index % 2], (ORT, OPENVINO)[index % 2]
        report = process_rig.load(lane, stage.path, stage.path.stem, runtime)
        assert report.actual == (runtime.provider,)
        feeds = {spec.name: have[spec.name] for spec in report.inputs}
        have.update(process_rig.run(lane, feeds, stage.path.stem).outputs)

    for name, array in expected.items():
        np.testing.assert_allclose(have[name], array, atol=TOLERANCE)


def test_the_accelerated_fraction_is_the_runtimes_own_count(process_rig: Rig, tmp_path: Path) -> None:
    real = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 8]) for name in ("x", "y")]
    nodes = [
        helper.make_node("Tanh", ["x"], ["a"]),
        helper.make_node("Exp", ["a"], ["b"]),
        helper.make_node("Sqrt", ["b"], ["c"]),
        helper.make_node("Normalizer", ["c"], ["y"], domain="ai.onnx.ml", norm="L2"),
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    path = tmp_path / "mixed.onnx"
    save(helper.make_model(helper.make_graph(nodes, "g", real[:1], real[1:]), opset_imports=opsets, ir_version=9), path)
    command = [sys.executable, "-c", COUNT, str(path), PROVIDER]
    told = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    parts = json.loads(told.splitlines()[-1])
    taken, everything = sum(n for name, n in parts if name == PROVIDER), sum(n for _, n in parts)

    report = process_rig.load(process_rig.lane(), path, "mixed", OPENVINO)

    assert 0 < taken < everything == len(nodes)
    assert report.actual == (PROVIDER, "CPUExecutionProvider")
    assert report.accelerated_fraction == taken / everything
