"""The catalogue: published sizes, phases, names."""

from __future__ import annotations

import pytest

from agent.errors import BadInput
from agent.workload.catalogue import CATALOGUE, resolve_name


def macs(workload) -> float:
    return sum(w.flops for s in workload.stages for w in s.work if w.family != "elementwise") / 2


# Millions of parameters as stated for each model. RNN-T, RetinaNet, RWKV and MiniCPM3 are left out: their entries have
# numbers that were set from the total, or no stated total to compare with.
PARAMETERS = {
    "resnet-50": 25.6, "mobilenet-v1": 4.24,
    "mobilenet-v2": 3.50, "mobilenet-v3-large": 5.48,
    "mobilenet-v3-small": 2.54, "efficientnet-b0": 5.29, "efficientnet-lite0": 4.65,
    "efficientnet-lite4": 13.0, "ssd-mobilenet-v1": 6.8,
    "yolov5n": 1.87, "yolov5s": 7.23, "yolov5m": 21.2, "yolov5l": 46.5, "yolov8n": 3.16, "yolov8s": 11.17,
    "yolov8m": 25.9, "yolov8l": 43.7, "bert-base": 109.5, "bert-large": 334.0, "distilbert": 66.4, "minilm-l6": 22.7,
    "vit-base-16": 86.6, "3d-unet": 31.2,
    "gpt2-125m": 124, "granite-350m": 352, "qwen2-0.5b": 494, "llama-3.2-1b": 1236, "llama-3.2-3b": 3213,
    "lfm2-350m": 354, "lfm2-2.6b": 2570, "llama-3.1-8b": 8030, "llama-2-7b": 6738, "smollm2-135m": 134.5,
    "smollm2-1.7b": 1711, "gemma-3-270m": 268, "gemma-3-1b": 1000, "gemma-2-2b": 2614, "phi-3-mini": 3821,
    "phi-4-mini": 3836, "qwen3-0.6b": 596, "qwen3-8b": 8191, "qwen3-30b-a3b": 30532, "tinyllama-1.1b": 1100,
    "mistral-7b": 7248, "chatglm3-6b": 6244, "internlm2-1.8b": 1889,
    "gpt-j-6b": 6051, "gpt-oss-20b": 20915, "deepseek-r1-distill-qwen-1.5b": 1777,
}  # fmt: skip


@pytest.mark.parametrize(("name", "millions"), PARAMETERS.items())
def test_an_architecture_has_its_published_number_of_weights(name, millions):
    assert CATALOGUE[name].parameters() == pytest.approx(millions * 1e6, rel=0.01)


@pytest.mark.parametrize(
    ("name", "gmac"),
    [
        ("resnet-50", 4.09), ("mobilenet-v1", 0.569), ("mobilenet-v2", 0.300), ("mobilenet-v3-large", 0.217),
        ("mobilenet-v3-small", 0.0565), ("efficientnet-b0", 0.39), ("ssd-mobilenet-v1", 1.23), ("3d-unet", 473.5),
        ("yolov5s", 8.25), ("yolov5m", 24.5), ("yolov8n", 4.35), ("yolov8s", 14.3), ("yolov8m", 39.45),
        ("yolov8l", 82.6), ("vit-base-16", 17.58), ("bert-base", 11.18), ("inception-v4", 12.27),
    ],
)  # fmt: skip
def test_a_network_has_its_published_number_of_operations(name, gmac):
    assert macs(CATALOGUE[name].workload()) == pytest.approx(gmac * 1e9, rel=0.02)


@pytest.mark.parametrize("entry", CATALOGUE.values(), ids=lambda e: e.name)
def test_every_entry_gives_every_phase_it_names(entry):
    for phase in entry.phases:
        workload = entry.workload(phase=phase, tokens=16, context=16)
        assert workload.phase == phase
        assert sum(s.flops for s in workload.stages) > 0
        assert len(workload.stages) <= 24
        assert entry.source in workload.notes[0]


def test_a_decode_step_reads_all_weights_once_and_computes_two_operations_on_each():
    entry = CATALOGUE["llama-3.1-8b"]
    workload = entry.workload(phase="decode", context=0)

    read = entry.parameters() - 128256 * 4096
    assert sum(s.weight_bytes for s in workload.stages) == pytest.approx(2 * read, rel=0.001)
    assert macs(workload) == pytest.approx(read, rel=0.001)
    assert workload.stages[0].idle_weight_bytes == pytest.approx(2 * 128255 * 4096)


def test_the_cache_grows_with_the_context_by_its_closed_form():
    short, long = (CATALOGUE["llama-3.1-8b"].workload(phase="decode", context=c) for c in (100, 1100))

    more = sum(s.kv_bytes for s in long.stages) - sum(s.kv_bytes for s in short.stages)
    assert more == pytest.approx(1000 * 2 * 32 * 8 * 128 * 2)


def test_sliding_attention_stops_growing():
    entry = CATALOGUE["gemma-3-1b"]
    kv = [sum(s.kv_bytes for s in entry.workload(phase="decode", context=c).stages) for c in (512, 1024, 2048)]

    assert (kv[2] - kv[1]) / 1024 == pytest.approx(4 * 2 * 256 * 2)
    assert (kv[1] - kv[0]) / 512 < 2 * 4 * 2 * 256 * 2


def test_four_bit_weights_are_a_quarter_and_their_scales():
    half, packed = (
        sum(s.weight_bytes for s in CATALOGUE["llama-3.1-8b"].workload("decode", p).stages) for p in ("fp16", "int4")
    )

    assert packed == pytest.approx(half * 4.5 / 16)


def test_the_stored_size_of_a_weight_can_be_given():
    entry = CATALOGUE["smollm2-135m"]
    workload = entry.workload("decode", "int4", weight_bits=6.0)

    assert sum(s.weight_bytes for s in workload.stages) == pytest.approx(entry.parameters() * 6 / 8)


def test_an_architecture_that_is_published_packed_is_as_small_as_its_file():
    workload = CATALOGUE["bonsai-4b"].workload("decode")

    assert sum(s.weight_bytes for s in workload.stages) == pytest.approx(566e6, rel=0.01)


def test_a_mixture_of_experts_reads_those_that_are_asked():
    entry = CATALOGUE["qwen3-30b-a3b"]
    one, many = (entry.workload(p, tokens=512, context=0) for p in ("decode", "prefill"))

    assert macs(one) == pytest.approx(3.0e9, rel=0.05)
    assert sum(s.idle_weight_bytes for s in one.stages) > 0.85 * 2 * entry.parameters()
    assert sum(s.idle_weight_bytes for s in many.stages) < 0.03 * 2 * entry.parameters()


def test_prefill_is_tokens_times_the_work_of_one_and_causal_attention():
    entry = CATALOGUE["tinyllama-1.1b"]
    matrices = entry.parameters() - 2 * 32000 * 2048
    seen = 100 * 101 / 2

    expected = 100 * matrices + 32000 * 2048 + 22 * 32 * seen * (2 * 64 + 2.5)
    assert macs(entry.workload("prefill", tokens=100)) == pytest.approx(expected, rel=0.001)


def test_forward_of_a_decoder_is_its_prefill():
    assert CATALOGUE["gpt2-125m"].workload().phase == "prefill"


def test_a_phase_that_does_not_exist_is_refused():
    with pytest.raises(BadInput, match="only forward"):
        CATALOGUE["resnet-50"].workload(phase="decode")


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"tokens": 0}, {"context": -1}, {"image_size": 0}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(BadInput, match="at least"):
        CATALOGUE["gpt2-125m"].workload(**wrong)


def test_images_of_other_sizes_scale_with_their_area():
    small, large = (macs(CATALOGUE["yolov8n"].workload(image_size=s)) for s in (320, 640))

    assert large == pytest.approx(4 * small, rel=0.01)


@pytest.mark.parametrize("name", ["resnet-50", "yolov6s", "bert-base"])
def test_operations_and_activations_scale_with_the_batch(name):
    one, four = (CATALOGUE[name].workload(batch=b) for b in (1, 4))

    assert macs(four) == pytest.approx(4 * macs(one), rel=0.001)
    assert sum(s.weight_bytes for s in four.stages) == pytest.approx(sum(s.weight_bytes for s in one.stages), rel=0.01)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("resnet_v1_50", "resnet-50"), ("bert-99", "bert-large"), ("rnnt", "rnn-t"), ("gptj-99.9", "gpt-j-6b"),
        ("mobilenet-v2-1.0-224-non-quantized", "mobilenet-v2"), ("efficientnet-lite2-quantized", "efficientnet-lite2"),
        ("mobilenet-v3-small_224_1.0_uint8", "mobilenet-v3-small"), ("MobileNet-v1 SSD 300", "ssd-mobilenet-v1"),
        ("llama3.2:3b", "llama-3.2-3b"), ("Llama-3.1-8B", "llama-3.1-8b"), ("Qwen 3 30B-A3B", "qwen3-30b-a3b"),
        ("deepseek-r1:14b", "deepseek-r1-distill-qwen-14b"), ("Qwen2.5-7B-Instruct", "qwen2.5-7b"),
        ("TinyLLAMA 1.1B", "tinyllama-1.1b"), ("LFM2.5-1.2B", "lfm2-1.2b"), ("gpt-oss:20b", "gpt-oss-20b"),
        ("YOLOv8-Detection", "yolov8n"), ("yolov8s", "yolov8s"), ("VIT", "vit-base-16"), ("clip_text", "clip-text"),
    ],
)  # fmt: skip
def test_names_of_publications_are_understood(text, name):
    assert resolve_name(text).name == name


@pytest.mark.parametrize("text", ["", "   ", "stable-diffusion-xl", "SmolLM2", "VILA1.5-3B", "llama", "quantized"])
def test_names_that_could_mean_anything_are_not_guessed(text):
    assert resolve_name(text) is None
