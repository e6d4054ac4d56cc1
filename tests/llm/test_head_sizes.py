"""Heads that the runtime's attention does not take are refused with what is there and what would fit."""

from __future__ import annotations

import pytest

from agent.errors import BadInput
from agent.llm.architecture import read_decoder


def metadata(architecture: str, hidden: int, heads: int) -> dict[str, object]:
    norm = "attention.layer_norm_epsilon" if architecture == "gpt2" else "attention.layer_norm_rms_epsilon"
    keys = {
        "block_count": 2, "embedding_length": hidden, "attention.head_count": heads, "context_length": 64,
        "feed_forward_length": 4 * hidden, norm: 1e-5,
    }  # fmt: skip
    return {"general.architecture": architecture, **{f"{architecture}.{key}": value for key, value in keys.items()}}


@pytest.mark.parametrize(
    ("architecture", "size", "fits"), [("llama", 4, "16, 32, 64"), ("llama", 8, "16, 32, 64"), ("gpt2", 4, "8, 16, 32")]
)
def test_a_small_head_is_refused_with_its_key_its_size_and_sizes_that_fit(architecture, size, fits):
    with pytest.raises(BadInput) as refused:
        read_decoder(metadata(architecture, 4 * size, 4), 100, "tiny.gguf")

    said = refused.value.message
    assert said.startswith(f"tiny.gguf: metadata key {architecture}.attention.key_length: heads of size {size} ")
    assert f"(4 heads, {4 * size} wide)" in said
    assert f"heads of {fits} …" in said


@pytest.mark.parametrize(("architecture", "size"), [("llama", 16), ("gpt2", 8), ("gpt2", 24)])
def test_heads_that_fit_are_taken(architecture, size):
    assert read_decoder(metadata(architecture, 4 * size, 4), 100, "tiny.gguf").head_size == size
