"""Weights outside an ONNX file: places that runtimes refuse are refused, files that are missing are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.errors import ModelLoadFailed
from agent.workload.inspect import inspect_in_child, read


def outside(name: str, location: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4, 4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def model(path: Path, location: str, inside: str = "initializer") -> Path:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in "xy"]
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    weights = [outside("w", location)]
    if inside == "constant":
        weights = []
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=outside("w", location)))
    elif inside == "branch":
        weights = [numpy_helper.from_array(np.array(True), "always")]
        made = helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 4])
        branch = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["z"])], "b", [], [made], [outside("w", location)]
        )
        nodes = [helper.make_node("If", ["always"], ["y"], then_branch=branch, else_branch=branch)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.mark.parametrize("inside", ["initializer", "constant", "branch"])
@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "a/../../weights.bin"])
def test_a_place_outside_the_models_folder_is_refused(tmp_path, location, inside):
    with pytest.raises(ModelLoadFailed, match="not in the model's folder"):
        read(model(tmp_path / "m.onnx", location, inside), "onnx", {})


def test_a_link_out_of_the_models_folder_is_refused_too(tmp_path):
    (tmp_path / "weights.bin").write_bytes(b"\0" * 64)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "weights.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(ModelLoadFailed, match="not in the model's folder"):
        read(model(folder / "m.onnx", "weights.bin"), "onnx", {})


def test_weights_beside_the_model_need_no_word_and_missing_ones_get_one(tmp_path):
    path = model(tmp_path / "m.onnx", "weights.bin")
    assert any("no runtime can load it: weights.bin" in note for note in read(path, "onnx", {})[0].notes)
    (tmp_path / "weights.bin").write_bytes(b"\0" * 64)
    assert not any("weights are not there" in note for note in read(path, "onnx", {})[0].notes)


def test_the_refusal_is_one_line_from_the_reader_in_its_own_process(tmp_path):
    path = model(tmp_path / "m.onnx", "../weights.bin")
    with pytest.raises(ModelLoadFailed, match=r"m\.onnx: weights should be in '\.\./weights\.bin'"):
        inspect_in_child(path, "onnx", {}, 60.0)
