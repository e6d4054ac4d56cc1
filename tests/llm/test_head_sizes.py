"""Heads of a size that the runtime's attention does not take are filled up, and the logits stay those of the model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from agent.llm.folder import open_folder
from agent.llm.importer import import_gguf
from tests.llm.reference import Reference, write_model
from tests.llm.test_decoders import IDS, opened


def logits(session):
    cache = session.cache(1, 40)
    seen = [session.step(cache, np.array([IDS[:9]]))[0]]
    return np.concatenate([*seen, *(session.step(cache, np.array([[i]]))[0] for i in IDS[9:])])


@pytest.mark.parametrize("architecture", ["llama", "granite", "qwen2", "qwen3", "gemma3", "gpt2"])
@pytest.mark.parametrize(
    ("head", "kind"), [(2, "F32"), (4, "F32"), (6, "F32"), (8, "Q8_0"), (24, "Q4_1"), (40, "Q4_0")]
)
def test_heads_of_any_even_size_give_the_logits_of_the_dequantised_weights(tmp_path, architecture, head, kind):
    source = write_model(tmp_path / "m.gguf", architecture, kind, head=head)
    _, session = opened(source, tmp_path / "out")
    np.testing.assert_allclose(logits(session), Reference(source).logits(IDS), atol=1e-3)


def test_frequency_factors_reach_the_angles_of_filled_heads(tmp_path):
    source = write_model(tmp_path / "m.gguf", kind="F32", head=6, factors=True)
    _, session = opened(source, tmp_path / "out")
    np.testing.assert_allclose(logits(session), Reference(source).logits(IDS), atol=1e-3)


@pytest.mark.parametrize(("architecture", "head", "held"), [("llama", 8, 16), ("qwen2", 24, 32), ("gpt2", 4, 8)])
def test_the_cache_is_counted_as_it_is_held(tmp_path, architecture, head, held):
    folder, _ = opened(write_model(tmp_path / "m.gguf", architecture, "F32", head=head), tmp_path / "out")
    config = json.loads((folder.path / "genai_config.json").read_text())
    assert config["model"]["decoder"]["head_size"] == folder.head_size == held
    assert folder.kv_bytes_per_token == 2 * folder.layers * folder.kv_heads * held * 4


def test_heads_that_fit_are_left_as_they_are(tmp_path):
    folder, session = opened(write_model(tmp_path / "m.gguf", "qwen2"), tmp_path / "out")
    assert folder.head_size == 16
    assert b"Pad_" not in folder.graph().read_bytes()
    assert session.cache(1, 4).buffers[0].shape[-1] == 16


def test_a_small_cache_keeps_the_quality_of_filled_heads(tmp_path):
    source = write_model(tmp_path / "m.gguf", "qwen2", "F32", head=8, context=128)
    folder = open_folder(import_gguf(source, tmp_path / "out", small_cache=True).folder)
    assert folder.quality["exact-kv8"] < 0.05
    assert folder.cache_bytes("exact-kv8") == 2 * folder.layers * folder.kv_heads * 16
