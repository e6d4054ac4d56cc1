"""Spellings: boards, devices, modes, models, precisions, tasks and scopes as other people write them."""

from __future__ import annotations

from functools import cache

import pytest

from agent.evaluation.catalogue import Catalogue, load_catalogue
from agent.evaluation.rows import Case, case_of
from agent.storage import share
from agent.storage.yaml_files import read_document
from tests.evaluation.worlds import row


@cache
def _catalogue() -> Catalogue:
    return load_catalogue()


def case(**cells: object) -> Case | str:
    return case_of(row(**({"board": "Jetson Orin NX 16GB"} | cells)), _catalogue().hardware, _catalogue().architectures)


def mapped(**cells: object) -> Case:
    found = case(**cells)
    assert isinstance(found, Case), found
    return found


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Jetson Orin NX 16GB", "Jetson Orin NX 16GB"),
        ("NVIDIA Jetson Orin NX 16GB (MAXN)", "Jetson Orin NX 16GB"),
        ("orin-nx-16gb", "Jetson Orin NX 16GB"),
        ("Jetson_OrinNX", "Jetson Orin NX 16GB"),
        ("NVIDIA Orin NX 8 GB module", "Jetson Orin NX 8GB"),
        ("jetson orin nx (8GB)", "Jetson Orin NX 8GB"),
        ("jetson-agx-orin", "Jetson AGX Orin 64GB"),
        ("Jetson AGX Orin Developer Kit 32 GB", "Jetson AGX Orin 32GB"),
        ("Orin Nano 4GB", "Jetson Orin Nano 4GB"),
    ],
)
def test_a_board_is_found_under_many_names(text, name):
    assert mapped(board=text, device="gpu", model="resnet50").site.board == name


@pytest.mark.parametrize(
    ("text", "device", "name"),
    [
        ("RPi5", "cpu", "Raspberry Pi 5"),
        ("raspberry-pi-5", "cpu", "Raspberry Pi 5"),
        ("Pi 5 8GB", "CPU (4x Cortex-A76)", "Raspberry Pi 5"),
        ("Raspberry Pi 4B", "cpu", "Raspberry Pi 4"),
        ("raspberry-pi-4-coral-usb", "Edge TPU", "Coral Edge TPU on USB 3"),
        ("raspberry-pi-5-hailo-8", "Hailo-8", "Raspberry Pi 5 with Hailo-8"),
        ("Raspberry Pi 5 + Hailo-8L", "npu", "Raspberry Pi 5"),
        ("Orange Pi 5", "NPU (RKNN)", "RK3588"),
        ("imx8m-plus", "npu", "i.MX 8M Plus"),
    ],
)
def test_small_boards_and_their_sticks_are_found(text, device, name):
    assert mapped(board=text, device=device, model="mobilenet_v2").site.board == name


def test_every_shipped_profile_is_known_by_its_name_and_title_but_the_generic_ones():
    for name, path in share.list_files("device_profiles").items():
        if name.startswith("generic") or name == "core-ultra-285hx-npu-rtx-pro-5000":
            continue
        title = read_document(path).data["title"]
        for text in (name, title):
            device = "tpu" if "coral" in name else "cpu"
            assert isinstance(case(board=text, device=device, model="resnet50"), Case), text


@pytest.mark.parametrize(
    ("device", "kind"),
    [
        ("GPU", "gpu"), ("iGPU (Ampere)", "gpu"), ("CUDA", "gpu"), ("GPU + 2x DLA", "gpu+dla"), ("gpu+dla", "gpu+dla"),
        ("DLA", "dla"), ("CPU, 8 cores", "cpu"), ("Cortex-A78AE", "cpu"),
    ],
)  # fmt: skip
def test_devices_are_recognised_by_what_they_are_called(device, kind):
    assert mapped(board="Jetson Orin NX 16GB", device=device, model="resnet50").row.device == kind


@pytest.mark.parametrize(
    ("mode", "units", "clock_mhz", "memory_mhz"),
    [
        ("10W", 4, 612, 2133), ("MODE_15W", 4, 612, 3199), ("25 W", 8, 408, 3199), ("MAXN", 8, 918, 3199),
        ("40W", 8, 1173, 3199), ("MAXN_SUPER", 8, 1173, 3199), ("MAXN (MaxP)", 8, 918, 3199), ("", 8, 918, 3199),
    ],
)  # fmt: skip
def test_power_modes_of_orin_nx_follow_its_nvpmodel_tables(mode, units, clock_mhz, memory_mhz):
    site = mapped(board="Jetson Orin NX 16GB", power_mode=mode, model="resnet50").site
    assert (site.units, site.clock_hz / 1e6, site.memory_hz / 1e6) == (units, clock_mhz, memory_mhz)
    assert f"{units} units × {clock_mhz} MHz" in site.operating_point


@pytest.mark.parametrize(
    ("spellings", "name"),
    [
        (("yolov8n", "YOLOv8-n", "yolo8n.pt", "YOLO v8 n", "ultralytics/yolov8n.engine"), "yolov8n"),
        (("yolo11s", "YOLO11-s", "yolov11s", "yolo11s.onnx"), "yolo11s"),
        (("resnet50", "ResNet-50 v1.5", "ResNet 50", "resnet_v1_50", "ResNet50-v1.5"), "resnet50"),
        (("bert-large", "BERT-99", "BERT Large", "bert_large_uncased"), "bert-large"),
        (("Llama-3.2-1B-Instruct", "meta-llama/Llama-3.2-1B", "llama3.2:1b", "Llama 3.2 1B"), "Llama-3.2-1B"),
        (("Llama-3.1-8B-Instruct", "llama3.1:8b", "Meta-Llama-3.1-8B-Instruct-GGUF"), "llama3.1:8b"),
        (("SSD-MobileNet-v1", "ssd_mobilenet_v1_coco", "ssd-mobilenet-v1"), "ssd_mobilenet_v1"),
        (("3D-UNet", "3d-unet-99", "3d unet"), "3d-unet"),
    ],
)
def test_a_model_is_one_architecture_however_it_is_written(spellings, name):
    find = _catalogue().architectures.find
    wanted = find(name)
    assert wanted is not None
    for text in spellings:
        assert find(text) == wanted, text


def test_sizes_of_one_family_are_not_confused():
    found = [mapped(model=f"yolov8{size}").loads[0].flops for size in "nsmlx"]
    assert found == sorted(set(found))
    assert mapped(model="yolo11l").loads[0].flops > mapped(model="yolo11m").loads[0].flops
    assert mapped(model="yolov5l").loads[0].flops > mapped(model="yolov5m").loads[0].flops


@pytest.mark.parametrize(
    ("model", "giga_macs"), [("distilbert", 5.4), ("yolov5l", 54.5), ("minilm-l6", 1.4), ("clip-text", 2.9)]
)
def test_a_model_that_only_the_workload_catalogue_has_is_counted_there(model, giga_macs):
    load = mapped(model=model).loads[0]
    assert load.flops / 2e9 == pytest.approx(giga_macs, rel=0.25)
    assert load.kernels > 20


def test_a_decoder_of_the_workload_catalogue_reads_its_weights():
    load = mapped(model="deepseek-r1-distill-qwen-32b", task="decode", tokens_per_s=3, precision="fp16").loads[0]
    assert load.weight_bytes == pytest.approx(2 * 32.0e9, rel=0.03)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("resnext9000", "did you mean resnet-50?"),
        ("whisper-small", "is in no catalogue"),
        ("???", "is in no catalogue"),
    ],
)
def test_an_unknown_model_says_so_and_names_the_nearest(model, reason):
    assert reason in str(case(model=model))


def test_an_unknown_board_names_the_nearest():
    assert "did you mean Jetson Orin NX 16GB?" in str(case(board="Jetsen Orim NX 16GB", model="resnet50"))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("INT8", "int8"), ("int8", "int8"), ("i8", "int8"), ("FP16", "fp16"), ("half", "fp16"), ("bfloat16", "fp16"),
        ("float32", "fp32"), ("w4a16", "w4"), ("AWQ", "w4"), ("Q4_K_M", "q4"), ("q8_0", "q8"), ("Q6_K", "q6"),
        ("IQ4_XS", "q4"), ("4-bit", "q4"), ("w8a8", "int8"), ("8bit", "int8"),
    ],
)  # fmt: skip
def test_precisions_are_recognised_in_any_writing(text, name):
    assert mapped(model="llama3.2:1b", task="decode", tokens_per_s=9, precision=text).format.name == name


@pytest.mark.parametrize(
    ("task", "label"),
    [
        ("decode", "decode"), ("token generation", "decode"), ("tg128", "decode"), ("prefill", "prefill"),
        ("pp512", "prefill"), ("TTFT", "prefill"), ("prefill (TTFT)", "prefill"), ("decode (TPOT)", "decode"),
        ("text generation", "generate"), ("summarization(prefill+decode, beam 4, CNN/DM)", "generate"),
        ("llm", "generate"),
    ],
)  # fmt: skip
def test_tasks_of_language_models_are_recognised(task, label):
    assert mapped(model="llama3.2:1b", task=task, tokens_per_s=9).task == label


@pytest.mark.parametrize(
    ("scope", "name"),
    [
        ("AC wall", "wall"), ("smart plug", "wall"), ("USB-C meter", "wall"), ("whole board", "wall"),
        ("AC wall, peak", "peak-wall"), ("VDD_IN", "module"), ("module (tegrastats)", "module"),
        ("VDD_CPU_GPU_CV rail only (tegrastats)", "rail"), ("RAPL package", "component"), ("NVML board", "component"),
    ],
)  # fmt: skip
def test_power_scopes_are_recognised(scope, name):
    assert mapped(model="resnet50", power_w=9, power_scope=scope).scope == name
