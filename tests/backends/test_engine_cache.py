"""What a runtime compiled is kept for the next start: each provider's spelling, and OpenVINO for real."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.backends import onnx as backend
from agent.backends.artifact import LoadOrder
from agent.backends.engine_cache import caches, engines_in, prune, with_cache
from agent.errors import ModelLoadFailed

OPENVINO = "OpenVINOExecutionProvider"


@pytest.mark.parametrize(
    ("provider", "key"),
    [
        (OPENVINO, "cache_dir"), ("TensorrtExecutionProvider", "trt_engine_cache_path"),
        ("NvTensorRTRTXExecutionProvider", "nv_runtime_cache_path"), ("CoreMLExecutionProvider", "ModelCacheDirectory"),
    ],
)  # fmt: skip
def test_each_provider_is_asked_in_its_own_words_and_the_profile_wins(provider, key):
    assert caches(provider)
    assert with_cache(provider, {"device": "0"}, "/e")[key] == "/e"
    assert with_cache(provider, {"device": "0"}, "/e")["device"] == "0"
    assert with_cache(provider, {key: "/own"}, "/e")[key] == "/own"


def test_a_provider_that_compiles_nothing_is_left_alone():
    assert not caches("CPUExecutionProvider")
    assert with_cache("CPUExecutionProvider", {"a": "b"}, "/e") == {"a": "b"}


def test_a_plugin_reads_its_options_per_device():
    own = {"load_config": json.dumps({"NPU": {"X": "1"}, "GPU": {"CACHE_DIR": "/own"}})}
    made = json.loads(with_cache(OPENVINO, own, "/e", "NPU")["load_config"])
    assert made == {"NPU": {"X": "1", "CACHE_DIR": "/e"}, "GPU": {"CACHE_DIR": "/own"}}
    assert json.loads(with_cache(OPENVINO, own, "/e", "GPU")["load_config"])["GPU"] == {"CACHE_DIR": "/own"}


@pytest.mark.parametrize("config", ["{", "[]", '{"NPU": 1}'])
def test_a_configuration_that_is_none_is_refused_with_the_key(config):
    with pytest.raises(ModelLoadFailed, match="load_config"):
        with_cache(OPENVINO, {"load_config": config}, "/e", "NPU")


def test_the_oldest_engines_go_first_when_there_are_too_many(tmp_path):
    for age, name in enumerate(("new", "old", "older")):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, ns=(0, 1000 - age))
    prune(tmp_path, 25)
    assert engines_in(tmp_path) == {"new", "old"}
    prune(tmp_path, 0)
    prune(tmp_path / "none")
    assert engines_in(tmp_path / "none") == engines_in(tmp_path) == frozenset()


@pytest.fixture
def order(tmp_path):
    rng = np.random.default_rng(1)
    weights = numpy_helper.from_array(rng.standard_normal((8, 3, 3, 3)).astype(np.float32), "w")
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])]
    ends += [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 14, 14])]
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    pytest.importorskip("onnxruntime_ep_openvino")
    return LoadOrder(
        "m", str(tmp_path / "m.onnx"), "onnx", OPENVINO, "onnxruntime_ep_openvino", engines=str(tmp_path / "engines")
    )


def test_openvino_compiles_once_and_the_next_load_finds_the_engine(order, tmp_path):
    first, second = backend.open_session(order), backend.open_session(order)

    assert any(name.endswith(".blob") for name in engines_in(tmp_path / "engines"))
    assert any(note.startswith("compiled; what was compiled is kept") for note in first.assignment.notes)
    assert any(note.startswith("compiled engines were there already") for note in second.assignment.notes)
    x = {"x": np.ones((1, 3, 16, 16), np.float32)}
    assert np.array_equal(first.run(x, ("y",))[0], second.run(x, ("y",))[0])


def test_a_folder_that_cannot_be_made_costs_the_cache_and_not_the_model(order, tmp_path):
    (tmp_path / "file").touch()
    session = backend.open_session(dataclasses.replace(order, engines=str(tmp_path / "file" / "e")))
    assert any("compiled engines are not kept" in note for note in session.assignment.notes)
