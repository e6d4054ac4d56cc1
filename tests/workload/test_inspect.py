"""Inspection in a child process: results, phases, and one clear line for each failure."""

from __future__ import annotations

import json

import onnx
import pytest
from onnx import TensorProto, helper

from agent.errors import ModelLoadFailed
from agent.workload import inspect, micro_tflite
from agent.workload.inspect import inspect_in_child, parse_dims
from tests.workload import models
from tests.workload.models import Writer


def save(tmp_path, model) -> object:
    path = tmp_path / "net.onnx"
    onnx.save(model, str(path))
    return path


def decoder() -> onnx.ModelProto:
    w = Writer()
    nothing = w.values([0])
    x = w.node("Gather", w.weight(1000, 64), "input_ids")
    q = w.node("MatMul", x, w.weight(64, 64))
    k, v = (w.node("MatMul", x, w.weight(64, 32)) for _ in range(2))
    y = w.node("GroupQueryAttention", q, k, v, "past_key_values.0.key", "past_key_values.0.value", nothing, nothing,
               domain="com.microsoft", outputs=3, num_heads=4, kv_num_heads=2)  # fmt: skip
    cache = (TensorProto.FLOAT, ["batch_size", 2, "past_sequence_length", 16])
    inputs = {"input_ids": (TensorProto.INT64, ["batch_size", "sequence_length"]),
              "past_key_values.0.key": cache, "past_key_values.0.value": cache}  # fmt: skip
    return w.model(inputs, w.node("MatMul", y, w.weight(64, 1000)))


def test_a_network_is_read_in_a_child(tmp_path):
    (workload,) = inspect_in_child(save(tmp_path, models.resnet50()), "onnx", {"batch": 2}, 60)

    assert (workload.phase, workload.format, workload.batch, workload.model) == ("forward", "onnx", 2, "net")
    assert sum(s.flops for s in workload.stages) == pytest.approx(2 * 2 * 4.1e9, rel=0.02)
    assert workload.inputs[0].shape == (-1, 3, 224, 224)
    assert workload.open_elements == 2 * 3 * 224 * 224
    assert 2 < len(workload.stages) <= 24


def test_a_tflite_model_is_one_stage(tmp_path):
    micro = micro_tflite.write(tmp_path)[0]

    (workload,) = inspect_in_child(tmp_path / micro.file, "tflite", {}, 60)
    assert len(workload.stages) == 1
    assert workload.stages[0].operators == ("CONV_2D", "MEAN")
    assert workload.open_elements is None  # nothing is free


def test_a_decoder_with_a_cache_has_two_phases(tmp_path):
    prefill, decode = inspect.read(save(tmp_path, decoder()), "onnx", {"past": 50})

    assert (prefill.phase, decode.phase) == ("prefill", "decode")
    assert sum(s.kv_bytes for s in prefill.stages) == 2 * 2 * 16 * 4 * (0 + 2 * 128)
    assert decode.stages[0].operators


def test_a_decode_step_reads_the_context_that_is_asked_for(tmp_path):
    path = save(tmp_path, decoder())

    _, usual = inspect.read(path, "onnx", {})
    _, short = inspect.read(path, "onnx", {"past": 10})
    assert sum(s.kv_bytes for s in usual.stages) == 2 * 2 * 16 * 4 * (1024 + 2)
    assert sum(s.kv_bytes for s in short.stages) == 2 * 2 * 16 * 4 * (10 + 2)


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07" * 40, b"\xff" * 100])
def test_what_is_not_a_model_is_one_line_with_its_path(tmp_path, content):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)

    with pytest.raises(ModelLoadFailed, match=r"bad\.onnx: not an ONNX model") as caught:
        inspect_in_child(path, "onnx", {}, 60)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("name", [b"free_length", b"given_name", b"table_name", b"axis"])
def test_a_name_that_is_no_text_is_damage(tmp_path, name):
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["free_length"]) for n in ("given_name", "y")]
    table = helper.make_tensor("table_name", TensorProto.INT64, [1], [1])
    nodes = [helper.make_node("Gather", ["given_name", "table_name"], ["y"], axis=0)]
    path = tmp_path / "bytes.onnx"
    written = helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:], [table])).SerializeToString()
    path.write_bytes(written.replace(name, b"\xff" * len(name)))

    with pytest.raises(ModelLoadFailed, match=r"damaged: .*(no text|protobuf)"):
        inspect.read(path, "onnx", {})


def test_half_a_file_is_damage(tmp_path):
    path = save(tmp_path, models.resnet50())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    with pytest.raises(ModelLoadFailed, match="damaged"):
        inspect_in_child(path, "onnx", {}, 60)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(ModelLoadFailed, match="cannot be read"):
        inspect_in_child(tmp_path / "none.onnx", "onnx", {}, 60)


def test_a_reader_that_takes_too_long_is_ended(tmp_path):
    with pytest.raises(ModelLoadFailed, match="longer than"):
        inspect_in_child(save(tmp_path, models.resnet50()), "onnx", {}, 0.001)


def test_a_reader_without_memory_is_one_line(tmp_path):
    path = tmp_path / "large.onnx"
    with path.open("wb") as stream:
        stream.truncate(1 << 30)

    with pytest.raises(ModelLoadFailed, match=r"large\.onnx: reading the graph needs more than 512 MiB"):
        inspect_in_child(path, "onnx", {}, 60, memory_limit_bytes=512 << 20)


def test_a_negative_size_is_refused_by_name():
    with pytest.raises(ModelLoadFailed, match="NAME=SIZE"):
        parse_dims("batch=-1")


def test_sizes_are_parsed():
    assert parse_dims("batch=2, past + 1=7") == {"batch": 2, "past + 1": 7}
    assert parse_dims("") == {}


def test_the_command_prints_json(tmp_path, capsys):
    path = save(tmp_path, models.mobilenet_v2())

    assert inspect.main([str(path), "--dims", "batch=1"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert document["model"] == "net"


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    path = tmp_path / "x.tflite"
    path.write_bytes(b"nothing at all")

    assert inspect.main([str(path)]) == 1
    assert capsys.readouterr().err == "not a TFL3 file: its identifier is missing\n"
