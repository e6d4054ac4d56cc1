"""ONNX Runtime: plugin providers, datatypes and reasons."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from agent.backends import onnx as adapter
from agent.backends.artifact import LoadOrder
from agent.backends.registry import open_session
from agent.errors import InferenceFailed, ModelLoadFailed
from agent.schema.bfloat16 import is_bf16
from agent.schema.device import Runtime
from tests.backends.conftest import NSFW, TAKES_PLUGINS, Models, Rig, save_graph

SPINNING = "session.intra_op.allow_spinning"
PLUGIN = "onnxruntime_ep_openvino"
needs_plugins = pytest.mark.skipif(not TAKES_PLUGINS, reason="this onnxruntime takes no plugin providers")


def order(path: Path, **changes: Any) -> LoadOrder:
    given = {"model": "m", "path": str(path), "backend": "onnx", "provider": "CPUExecutionProvider", **changes}
    return LoadOrder(**given)


def test_a_plugin_provider_takes_the_graph_and_agrees_with_the_cpu(process_rig: Rig) -> None:
    pytest.importorskip(PLUGIN)
    lane = process_rig.lane()
    precise = {"load_config": '{"CPU":{"INFERENCE_PRECISION_HINT":"f32"}}'}
    runtime = Runtime(backend="onnx", provider="OpenVINOExecutionProvider", plugin=PLUGIN, options=precise)

    plugin, cpu = process_rig.load(lane, NSFW, "plugin", runtime), process_rig.load(lane, NSFW, "cpu")
    image = {plugin.inputs[0].name: np.random.default_rng(3).random((1, 224, 224, 3), dtype=np.float32)}
    pair = [process_rig.run(lane, image, name).outputs for name in ("plugin", "cpu")]

    assert plugin.actual == ("OpenVINOExecutionProvider",)
    assert plugin.nodes == cpu.nodes == plugin.nodes_on_requested == 318
    for name, expected in pair[1].items():
        np.testing.assert_allclose(pair[0][name], expected, atol=1e-4)


@needs_plugins
@pytest.mark.parametrize(
    ("plugin", "sentence"),
    [
        ("/nowhere/libep.so", "there is no plugin library /nowhere/libep.so"),
        ("no_such_plugin_package", "the package 'no_such_plugin_package' brings no provider library"),
        ("json", "the package 'json' brings no provider library"),
        (adapter.__file__, "m: "),
    ],
)
def test_a_plugin_that_is_none_is_refused_with_one_sentence(models: Models, plugin: str, sentence: str) -> None:
    with pytest.raises(ModelLoadFailed, match=sentence):
        open_session(order(models.add_one, provider="XExecutionProvider", plugin=plugin))


@needs_plugins
def test_a_plugin_without_a_device_here_is_refused(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = types.ModuleType("empty_plugin")
    monkeypatch.setattr(empty, "get_library_path", lambda: "lib", raising=False)
    monkeypatch.setitem(sys.modules, "empty_plugin", empty)
    monkeypatch.setattr(ort, "register_execution_provider_library", lambda name, path: None)

    with pytest.raises(ModelLoadFailed, match=r"lib offers no XEP device here \(CPUExecutionProvider"):
        open_session(order(models.add_one, provider="XEP", plugin="empty_plugin"))


def test_an_old_runtime_says_what_it_cannot_tell(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    class Older(ort.InferenceSession):
        def __getattribute__(self, name: str) -> Any:
            if name == "get_provider_graph_assignment_info":
                raise AttributeError(name)
            return super().__getattribute__(name)

    monkeypatch.setattr(ort, "InferenceSession", Older)
    session = open_session(order(models.add_one))

    assert session.assignment.actual == ("CPUExecutionProvider",)
    assert session.assignment.nodes is None
    assert session.assignment.notes == ("this onnxruntime does not tell which provider runs which node",)


def test_an_old_runtime_has_no_plugins(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ort, "register_execution_provider_library", raising=False)

    with pytest.raises(ModelLoadFailed, match="too old for plugin providers"):
        open_session(order(models.add_one, plugin="any"))


def test_options_of_the_session_and_of_the_provider_are_told_apart(models: Models) -> None:
    session = open_session(order(models.add_one, options={"session.disable_prepacking": "1"}))

    assert session.assignment.actual == ("CPUExecutionProvider",)


@pytest.mark.parametrize(
    ("provider", "options", "spins"),
    [("OpenVINOExecutionProvider", {}, "0"), ("OpenVINOExecutionProvider", {SPINNING: "1"}, "1")],
)
def test_the_cpu_pool_does_not_spin_beside_another_provider_unless_told_to(
    tmp_path: Path, provider: str, options: dict[str, str], spins: str
) -> None:
    made = adapter._session_options(ort, order(tmp_path, provider=provider, options=options))

    assert made.get_session_config_entry(SPINNING) == spins


def test_the_cpu_pool_spins_where_it_computes_everything(tmp_path: Path) -> None:
    made = adapter._session_options(ort, order(tmp_path))

    with pytest.raises(RuntimeError):
        made.get_session_config_entry(SPINNING)


def test_a_type_the_protocol_cannot_carry_is_refused(tmp_path: Path) -> None:
    port = {"x": (TensorProto.FLOAT8E4M3FN, [1])}
    path = save_graph(
        tmp_path / "f8.onnx", [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)], port,
        {"y": (TensorProto.FLOAT, [1])},
    )  # fmt: skip

    with pytest.raises(ModelLoadFailed, match="m: "):
        open_session(order(path))


def test_an_unknown_backend_is_refused(models: Models) -> None:
    with pytest.raises(ModelLoadFailed, match=r"there is no backend 'tvm' \(known: onnx, litert\)"):
        open_session(order(models.add_one, backend="tvm"))


def test_an_absent_runtime_is_a_refusal(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(ModelLoadFailed, match=r"install qeil-agent\[onnx\]"):
        adapter.open_session(order(models.add_one))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load failed:\n why", "Load failed: why"),
        ("\x1b[31mno such\x07 kernel\x1b[0m", "no such kernel"),
        ("", "ValueError"),
    ],
)
def test_reasons_lose_their_decoration(text: str, sentence: str) -> None:
    assert adapter.reason(ValueError(text)) == sentence


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.UINT8])
def test_datatypes_cross_unchanged(process_rig: Rig, tmp_path: Path, kind: int) -> None:
    path = save_graph(
        tmp_path / "same.onnx", [helper.make_node("Identity", ["x"], ["y"])], {"x": (kind, [3])}, {"y": (kind, [3])}
    )
    lane = process_rig.lane()
    process_rig.load(lane, path)
    x = np.array([1, 2, 3], helper.tensor_dtype_to_np_dtype(kind))

    y = process_rig.run(lane, {"x": x}).outputs["y"]

    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, x)


@pytest.fixture
def bf16(tmp_path: Path) -> Path:
    port = (TensorProto.BFLOAT16, [3])
    return save_graph(tmp_path / "bf.onnx", [helper.make_node("Identity", ["x"], ["y"])], {"x": port}, {"y": port})


def test_bf16_is_refused_where_the_runtime_cannot_pass_it(bf16: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ort.OrtValue, "ortvalue_from_numpy_with_onnx_type", raising=False)

    with pytest.raises(ModelLoadFailed, match="cannot pass BF16 tensors"):
        open_session(order(bf16))


@pytest.mark.skipif(
    not hasattr(ort.OrtValue, "ortvalue_from_numpy_with_onnx_type"), reason="this onnxruntime cannot pass BF16"
)
def test_bf16_crosses_as_its_bits(rig: Rig, bf16: Path) -> None:
    lane = rig.lane()
    report = rig.load(lane, bf16)
    bits = np.array([0x3F80, 0x4000, 0xC040], np.uint16)  # 1, 2, -3

    assert report.inputs[0].datatype == "BF16"
    y = rig.run(lane, {"x": bits}).outputs["y"]
    np.testing.assert_array_equal(y, bits)
    assert is_bf16(y)
    with pytest.raises(InferenceFailed, match="must be BF16, not float32"):
        rig.run(lane, {"x": np.zeros(3, np.float32)})
