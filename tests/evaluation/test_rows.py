from __future__ import annotations

import pytest

from agent.errors import ConfigError
from agent.evaluation.architectures import load_architectures
from agent.evaluation.hardware import Hardware, load_hardware
from agent.evaluation.precision import storage_format
from agent.evaluation.software import relatives, software_path
from agent.evaluation.terms import peak_flops_per_s, spilt_bytes
from tests.evaluation.worlds import HARDWARE, case, catalogue, row, why


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"tier": "D"}, "tier D"),
        ({"notes": "INFERRED from SingleStream"}, "INFERRED"),
        ({"notes": "identical to SingleStream"}, "a copy of another row"),
        ({"model": "NoSuchNet"}, "model 'NoSuchNet' is in no catalogue"),
        ({"board": "Nobody's"}, "is not known (known: Big, Small, Stick)"),
        ({"device": "npu"}, "device 'npu' of Big has no published peaks (known: cpu, dla, gpu)"),
        ({"latency_ms": ""}, "no latency, throughput, power or energy"),
        ({"latency_ms": "", "power_w": 3, "power_scope": "guessed"}, "power scope 'guessed' is none of"),
        ({"energy_j": 5, "energy_unit": "furlong"}, "energy unit 'furlong' is not joules"),
        ({"energy_j": 5, "energy_unit": "kJ per query"}, "energy unit 'kJ per query' is not joules"),
        ({"task": "vlm-pipeline"}, "length of its answers is not stated"),
        ({"model": "llama", "precision": "FP4 + EAGLE-3 spec. decode"}, "accepted tokens"),
        ({"model": "llama", "task": "decode", "notes": "batch size not recorded here"}, "batch size is not recorded"),
        ({"model": "llama", "task": "painting"}, "task 'painting' of a language model"),
    ],
)
def test_a_row_that_cannot_be_predicted_says_why(cells, reason):
    assert reason in why(**cells)


def test_mlperf_scenarios_become_queries_of_one_eight_and_many_samples():
    single = case(latency_stat="p90 early-stopping estimate")
    multi = case(latency_stat="p99 early-stopping estimate of 8-sample query")
    offline = case(latency_ms="", throughput_ips=100)
    assert (single.mode, single.samples, single.statistic) == ("single", 1, "p90")
    assert (multi.mode, multi.samples, multi.statistic) == ("multi", 8, "p99")
    assert offline.mode == "offline"
    assert offline.loads[0].flops == pytest.approx(offline.unit * single.loads[0].flops)
    assert case(device="cpu", latency_ms="", throughput_ips=100).samples == 1


def test_a_decoded_token_reads_all_weights_and_the_cache_of_its_context():
    near = case(model="llama", task="decode", precision="GGUF Q4_K_M (771 MB)", prompt_tokens=0, gen_tokens=256)
    far = case(model="llama", task="decode", precision="GGUF Q4_K_M (771 MB)", prompt_tokens=2048, gen_tokens=256)
    assert near.loads[0].weight_bytes == pytest.approx(771e6)
    assert far.loads[0].kv_bytes == pytest.approx((2048 + 128) * 16 * 1024 * 2)
    assert far.loads[0].kv_bytes > near.loads[0].kv_bytes


def test_of_a_mixture_of_experts_a_token_reads_only_its_experts():
    sparse = case(model="moe", task="decode", precision="int8")
    assert sparse.loads[0].weight_bytes == pytest.approx(3e9)
    assert case(model="moe", task="decode", precision="int8", batch=8).loads[0].weight_bytes < 30e9


def test_a_prompt_costs_its_tokens_and_a_generation_both_phases():
    short = case(model="llama", task="prefill", prompt_tokens=128)
    long = case(model="llama", task="prefill", prompt_tokens=2048)
    assert 16 < long.loads[0].flops / short.loads[0].flops < 20
    both = case(model="llama", task="end-to-end generation", prompt_tokens=2048, gen_tokens=128, batch=8)
    assert [load.phase for load in both.loads] == ["prefill", "decode"]
    assert both.unit == 8 * 128


def test_a_vendors_range_of_first_tokens_tells_its_bucket():
    notes = "TTFT range {}-{} ms; max = full 1024-token context; runtime genie"
    short = case(model="llama", task="prefill", notes=notes.format("100.0", "800.0"))
    full = case(model="llama", task="prefill", notes=notes.format("100.0", "100.0"))
    assert (short.unit, full.unit) == (128, 1024)


def test_summaries_without_lengths_use_the_benchmarks():
    single = case(model="llama", task="summarization", latency_ms=4000)
    offline = case(model="llama", task="summarization", latency_ms="", tokens_per_s=60)
    assert single.unit == 70
    assert offline.loads[0].flops == pytest.approx(16 * single.loads[0].flops)


def test_a_power_mode_gates_units_and_clocks_and_stated_clocks_win():
    low = case(power_mode="low")
    assert peak_flops_per_s(low) == pytest.approx(80e12 * 0.5 * 0.5)
    assert low.site.memory_hz == 1600e6
    assert low.site.idle_w == 6.0
    world = Hardware(HARDWARE)
    found = world.site(row(power_mode="low"))
    assert not isinstance(found, str)
    stated = case(power_mode="low", notes="TensorRT", tier="A")
    assert stated.site.clock_hz == 650e6


def test_accelerators_beside_the_gpu_add_their_peak():
    assert peak_flops_per_s(case(device="gpu+dla")) == pytest.approx(80e12 + 0.6 * 50e12)


def test_weights_that_do_not_fit_on_chip_cross_the_link():
    stick = case(board="stick", device="tpu", notes="coral")
    own = stick.site.accelerator
    assert spilt_bytes(stick.loads[0], own) == pytest.approx(25.6e6 - 8e6)
    assert spilt_bytes(case(board="stick", device="tpu", model="mobile").loads[0], own) == 0


@pytest.mark.parametrize(
    ("cells", "path", "family"),
    [
        ({"notes": "MLPerf TensorRT 8.5"}, "tensorrt", "tensorrt"),
        ({"notes": "llama.cpp CUDA"}, "llama.cpp", "ggml"),
        ({"notes": "Ollama v0.24; same GGUF as llama.cpp rows"}, "ollama", "ggml"),
        ({"notes": "ArmNN v22 (OpenCL)"}, "armnn-opencl", "arm-opencl"),
        ({"notes": "", "precision": "w8a8", "source": "rknn-llm benchmark"}, "rkllm", "rkllm"),
        ({"notes": "?"}, "unknown", "unknown"),
    ],
)
def test_texts_of_a_row_tell_its_software(cells, path, family):
    assert software_path(row(**cells)) == path
    assert relatives(path) == family


@pytest.mark.parametrize(
    ("cells", "name", "bytes_", "language"),
    [
        ({"precision": "int8"}, "int8", 1.0, False),
        ({"precision": "GGUF Q8_0 (610 MB)"}, "q8", 1.0625, True),
        ({"precision": "MLC INT4 (q4f16)"}, "w4", 0.5625, True),
        ({"precision": "", "model": "rnnt", "notes": "TensorRT"}, "fp16", 2.0, False),
        ({"precision": "", "notes": "TensorRT"}, "int8", 1.0, False),
        ({"precision": "", "notes": "onnxruntime"}, "fp32", 4.0, False),
        ({"precision": "", "notes": "jetson-ai-lab.com/archive"}, "fp16", 2.0, False),
        ({"precision": "", "model": "llama", "notes": "mlc"}, "w4", 0.5625, True),
        ({"precision": "", "model": "llama", "notes": "TensorRT"}, "fp16", 2.0, True),
    ],
)
def test_precision_is_read_as_people_write_it(cells, name, bytes_, language):
    measured = row(**cells)
    found = storage_format(measured, software_path(measured), language=language)
    assert (found.name, found.weight_bytes) == (name, bytes_)


def test_an_approximate_file_size_is_not_taken_as_weights():
    assert storage_format(row(precision="GGUF Q1_0 (~540 MB)"), "llama.cpp", language=True).file_bytes is None
    assert storage_format(row(precision="GGUF Q4_0 (1.2 GB)"), "llama.cpp", language=True).file_bytes == 1.2e9


@pytest.mark.parametrize(
    ("scope", "name"),
    [("VDD_CPU_GPU_CV rail", "rail"), ("AC wall, peak during run", "peak-wall"), ("AC wall", "wall"),
     ("NVML board", "component"), ("Hailo module power", "module"), ("", "wall")],
)  # fmt: skip
def test_each_power_scope_keeps_its_own_name(scope, name):
    assert case(power_w=5, power_scope=scope).scope == name


def test_files_that_are_not_tables_are_refused(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("version: 1\n")
    with pytest.raises(ConfigError, match="is not a table of hardware"):
        load_hardware(path)
    with pytest.raises(ConfigError, match="is not a catalogue"):
        load_architectures(path)


def test_a_precision_without_a_peak_uses_the_next_one_and_none_at_all_is_an_error():
    own = case().site.accelerator
    assert own.peak("int4") == 40e12
    board = {**HARDWARE["boards"][1], "accelerators": {"gpu": {"units": 1, "clock_mhz": 1, "power_w": 1}}}
    site = Hardware({"boards": [board]}).site(row(board="small"))
    assert not isinstance(site, str)
    with pytest.raises(ConfigError, match="has no peak"):
        site.accelerator.peak("int8")


def test_names_are_found_as_people_write_them():
    architectures = catalogue().architectures
    assert architectures.find(" ResNet50 ") is not None
    assert architectures.find("Llama-3.2-1B") is not None
    assert architectures.find("") is None
