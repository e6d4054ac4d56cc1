"""Predictions for rows nobody has measured: finite, within the peaks, and moving the way physics says."""

from __future__ import annotations

import itertools
import math
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.evaluation import terms
from agent.evaluation.catalogue import Catalogue, find_coefficients, load_catalogue
from agent.evaluation.coefficients_file import load_coefficients
from agent.evaluation.forecast import Coefficients, PowerForecast, TimeForecast, forecast_power, forecast_time
from agent.evaluation.rows import Case, case_of
from tests.evaluation.worlds import row

BOARDS = ["Jetson Orin NX 16GB", "Jetson Orin NX 8GB", "Jetson AGX Orin", "Jetson Orin Nano 8GB Super",
          "Raspberry Pi 5", "Raspberry Pi 4B", "Orange Pi 5", "Snapdragon X Elite", "Core Ultra 7 258V",
          "Ryzen AI 9 HX 370", "Hailo-8", "Coral USB", "i.MX 8M Plus", "Jetson AGX Thor"]  # fmt: skip
VISION = ["resnet50", "yolov8n", "yolo11m", "bert-99", "retinanet", "3d-unet", "mobilenet_v2", "vit_base", "distilbert"]
DECODERS = ["llama3.2:1b", "llama3.1:8b", "qwen3-0.6b", "gemma2:2b"]
SOFTWARE = ["TensorRT", "llama.cpp", "ONNX Runtime", "OpenVINO", "rknn", "hailo", "tflite", "MLC", "unheard of"]
MODES = ["", "MAXN", "10W", "15W", "25W", "MaxQ", "MAXN_SUPER"]


@cache
def _world() -> tuple[Catalogue, Coefficients]:
    return load_catalogue(), load_coefficients(find_coefficients())


def forecast(**cells: object) -> tuple[Case, TimeForecast, PowerForecast]:
    catalogue, coefficients = _world()
    found = case_of(row(**cells), catalogue.hardware, catalogue.architectures)
    assert isinstance(found, Case), found
    time = forecast_time(found, coefficients)
    return found, time, forecast_power(found, time, coefficients)


def jetson(mode: str, board: str = "Jetson Orin NX 16GB", **cells: object) -> tuple[float, float]:
    """Seconds and watts in one power mode."""
    _, time, power = forecast(board=board, power_mode=mode, power_w=9, power_scope="AC wall", **cells)
    return time.mean_s, power.power_w


@settings(max_examples=150, deadline=None)
@given(
    board=st.sampled_from(BOARDS), kind=st.sampled_from(["cpu", "gpu", "npu", "tpu", "dla", "gpu+dla"]),
    model=st.sampled_from(VISION + DECODERS), software=st.sampled_from(SOFTWARE), mode=st.sampled_from(MODES),
    precision=st.sampled_from(["int8", "fp16", "fp32", "Q4_K_M", ""]), batch=st.sampled_from([1, 2, 8, 64]),
    scope=st.sampled_from(["AC wall", "VDD_IN", "VDD_CPU_GPU_CV", "RAPL package", "AC wall, peak"]),
)  # fmt: skip
def test_any_plausible_row_has_a_finite_forecast_within_the_peaks(
    board, kind, model, software, mode, precision, batch, scope
):
    catalogue, coefficients = _world()
    measured = row(board=board, device=kind, model=model, notes=software, power_mode=mode, precision=precision,
                   batch=batch, power_w=9, power_scope=scope,
                   task="decode" if model in DECODERS else "vision")  # fmt: skip
    found = case_of(measured, catalogue.hardware, catalogue.architectures)
    if isinstance(found, str):
        assert "has no published peaks" in found
        return
    time = forecast_time(found, coefficients)
    power = forecast_power(found, time, coefficients)
    assert all(math.isfinite(x) and x > 0 for x in (time.mean_s, power.power_w, time.tail_ratio))
    assert 0 < time.busy_share <= 1
    assert 0 < time.rel_uncertainty <= 3.0
    whole = math.exp(sum(coefficients.time.values.get(key, 0.0) for key in terms.time_keys(found)))
    for load in found.loads:
        flops = load.flops + load.depthwise_flops
        assert time.mean_s / whole >= 0.999 * load.times * flops / terms.peak_flops_per_s(found)
        assert time.mean_s / whole >= 0.999 * load.times * load.bytes_moved / terms.bandwidth_bytes_per_s(found.site)


@pytest.mark.parametrize("model", VISION)
@pytest.mark.parametrize("board", ["Jetson Orin NX 16GB", "Raspberry Pi 5", "Orange Pi 5"])
def test_more_samples_take_longer_but_no_longer_each(board, model):
    device = "cpu" if board != "Jetson Orin NX 16GB" else "gpu"
    seconds = [forecast(board=board, device=device, model=model, batch=batch)[1].mean_s for batch in (2, 4, 8, 32)]
    assert seconds == sorted(seconds)
    each = [s / n for s, n in zip(seconds, (2, 4, 8, 32), strict=True)]
    assert all(later <= sooner * 1.0001 for sooner, later in itertools.pairwise(each))


@pytest.mark.parametrize("model", [*VISION, *DECODERS])
def test_a_faster_clock_is_never_slower_and_never_draws_less(model):
    cells = {"board": "Jetson Orin NX 16GB", "model": model, "task": "decode" if model in DECODERS else "vision"}
    catalogue, coefficients = _world()
    seconds, watts = [], []
    for mhz in (306, 408, 612, 765, 918, 1020, 1173):
        measured = row(**cells, power_w=9, power_scope="AC wall").__class__
        fields = {**vars_of(row(**cells, power_w=9, power_scope="AC wall")), "clocks": f"GPU {mhz} MHz; EMC 3199"}
        found = case_of(measured(**fields), catalogue.hardware, catalogue.architectures)
        assert isinstance(found, Case)
        time = forecast_time(found, coefficients)
        seconds.append(time.mean_s)
        watts.append(forecast_power(found, time, coefficients).power_w)
    assert seconds == sorted(seconds, reverse=True)
    assert watts == sorted(watts)


@pytest.mark.parametrize("model", DECODERS)
def test_a_faster_memory_never_slows_decoding(model):
    catalogue, coefficients = _world()
    seconds = []
    for mhz in (1600, 2133, 2666, 3199):
        plain = row(board="Jetson Orin NX 16GB", model=model, task="decode", notes="MLC", precision="int4")
        found = case_of(
            type(plain)(**{**vars_of(plain), "clocks": f"GPU 918; EMC {mhz}"}),
            catalogue.hardware,
            catalogue.architectures,
        )
        assert isinstance(found, Case)
        seconds.append(forecast_time(found, coefficients).mean_s)
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] > seconds[-1]


@pytest.mark.parametrize("model", ["resnet50", "bert-99", "llama3.2:3b"])
def test_power_modes_of_orin_nx_are_ordered_as_their_units_and_clocks(model):
    cells = {"model": model, "task": "decode"} if model.startswith("llama") else {"model": model}
    modes = [jetson(mode, **cells) for mode in ("10W", "15W", "25W", "MAXN", "MAXN_SUPER")]
    seconds, watts = [s for s, _ in modes], [w for _, w in modes]
    assert seconds == sorted(seconds, reverse=True)
    assert watts == sorted(watts)
    assert watts[-1] < 45


@pytest.mark.parametrize("model", ["resnet50", "llama3.2:3b"])
@pytest.mark.parametrize("mode", ["10W", "15W", "25W", "MAXN", "40W"])
@pytest.mark.parametrize("board", ["Jetson Orin NX 16GB", "Jetson Orin Nano 8GB Super"])
def test_a_rail_sees_less_than_its_module_and_a_module_less_than_the_wall(board, mode, model):
    task = "decode" if model.startswith("llama") else "vision"
    watts = [
        forecast(board=board, power_mode=mode, model=model, task=task, power_w=9, power_scope=scope)[2].power_w
        for scope in ("VDD_CPU_GPU_CV", "VDD_IN", "AC wall")
    ]
    assert watts[0] <= watts[1] <= 1.02 * watts[2]


def test_orin_nx_stands_between_nano_and_agx():
    cells = {"model": "bert-99", "notes": "TensorRT"}
    nano = jetson("15W", "Jetson Orin Nano 8GB", **cells)[0]
    nx = jetson("MAXN", "Jetson Orin NX 16GB", **cells)[0]
    agx = jetson("MAXN", "Jetson AGX Orin", **cells)[0]
    assert nano > nx > agx


def vars_of(measured: object) -> dict[str, object]:
    """Fields of a row, which has no `__dict__`."""
    return {name: getattr(measured, name) for name in measured.__slots__}
