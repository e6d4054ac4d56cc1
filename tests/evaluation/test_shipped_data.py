"""The shipped tables: every board and model in them can be used, and they agree with the workload catalogue."""

from __future__ import annotations

import pytest

from agent.evaluation.architectures import Language, Vision
from agent.evaluation.catalogue import find_coefficients, load_catalogue
from agent.evaluation.coefficients_file import load_coefficients
from agent.evaluation.rows import Case, case_of
from agent.evaluation.targets import compare
from agent.workload.catalogue import resolve_name
from tests.evaluation.worlds import row

BOARDS = [
    "Jetson AGX Orin",
    "Jetson Orin NX 16GB",
    "Jetson Orin Nano 8GB Super",
    "Raspberry Pi 5 8GB",
    "Raspberry Pi 4B",
    "Orange Pi 5",
    "Snapdragon X Elite CRD",
    "Core Ultra 7 258V",
    "Radxa Dragon Q6A",
    "i.MX 8M Plus",
]


@pytest.mark.parametrize("board", BOARDS)
def test_boards_people_own_are_predicted_with_an_uncertainty(board):
    catalogue = load_catalogue()
    coefficients = load_coefficients(find_coefficients())
    for cells in ({"model": "resnet50"}, {"model": "llama3.2:3b", "task": "decode", "precision": "Q4_K_M"}):
        measured = row(board=board, device="cpu", power_w=8, notes="?", **cells)
        found = case_of(measured, catalogue.hardware, catalogue.architectures)
        assert isinstance(found, Case), found
        for item in compare(found, coefficients):
            assert 0 < item.predicted < 1e6
            assert 0.05 < item.rel_uncertainty <= 3.0


@pytest.mark.parametrize("power_mode", ["MAXN", "MaxQ (hand-tuned clocks)", "10W", "15W", "25W"])
def test_a_board_without_any_row_follows_its_family(power_mode):
    catalogue = load_catalogue()
    coefficients = load_coefficients(find_coefficients())
    times = []
    for board in ("Jetson AGX Orin", "Jetson Orin NX 16GB"):
        found = case_of(
            row(board=board, model="bert-99", power_mode=power_mode, batch=1),
            catalogue.hardware,
            catalogue.architectures,
        )
        assert isinstance(found, Case)
        times.append(compare(found, coefficients)[0])
    assert times[1].predicted > times[0].predicted or power_mode == "15W"
    assert times[1].rel_uncertainty < 0.5


@pytest.mark.parametrize(
    "name",
    ["resnet50", "mobilenet-v1", "mobilenet-v2", "mobilenet-v3-large", "efficientnet-lite0", "efficientnet-lite3",
     "retinanet", "yolov5s", "yolov8n", "yolov8m", "vit-base-patch16-224", "inception_v4_299", "ssd-resnet34"],
)  # fmt: skip
def test_networks_ask_what_the_workload_catalogue_counts(name):
    mine = load_catalogue().architectures.find(name)
    assert isinstance(mine, Vision)
    entry = resolve_name(name)
    work = sum(w.flops for stage in entry.workload().stages for w in stage.work)
    macs = mine.conv_macs + mine.depthwise_macs + mine.gemm_macs + mine.attention_macs
    assert macs == pytest.approx(work / 2, rel=0.05)
    assert mine.params == pytest.approx(entry.parameters(), rel=0.05)


@pytest.mark.parametrize(
    "name",
    ["SmolLM2-135M", "Qwen2.5-0.5B", "Qwen3-0.6B", "Llama3.2-1B", "Gemma3-1B", "LFM2.5-1.2B", "Phi3 3.8B", "Bonsai-4B",
     "llama3.1:8b", "Llama-2-7B", "Qwen 3 8B", "Gemma-2-9B"],
)  # fmt: skip
def test_language_models_read_the_weights_the_workload_catalogue_counts(name):
    mine = load_catalogue().architectures.find(name)
    assert isinstance(mine, Language)
    stages = resolve_name(name).workload("decode", precision="fp16", weight_bits=16.0, context=1024).stages
    assert mine.active_params == pytest.approx(sum(s.weight_bytes for s in stages) / 2, rel=0.03)
