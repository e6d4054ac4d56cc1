"""Doctor's look at folders of language models: everything that their load needs is there and whole."""

from __future__ import annotations

import pytest

from agent.llm.importer import import_gguf
from agent.schema.settings import HttpSettings, ModelEntry, Settings
from agent.service.doctor import doctor_models
from tests.llm.reference import write_model
from tests.service.test_detection import BOTH


@pytest.fixture
def decoder(tmp_path):
    """A whole folder of a language model."""
    return import_gguf(write_model(tmp_path / "m.gguf"), tmp_path / "lm").folder


def test_a_whole_language_model_is_fine(decoder):
    assert doctor_models.inside(decoder) is None


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda folder: (folder / "weights.bin").write_bytes(b"x" * 1000), "'weights.bin', which has 1000; copy it"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json: No such file"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer.json"),
        (lambda folder: (folder / "model.onnx").write_bytes(b"junk"), "model.onnx"),
    ],
)
def test_a_language_model_that_lacks_what_its_load_needs_is_told(decoder, spoil, words):
    spoil(decoder)
    assert words in doctor_models.inside(decoder)


def test_a_language_model_without_its_extra_is_told_with_the_command(decoder, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor_models, "find_spec", lambda name: None if name == "tokenizers" else object())
    lm = ModelEntry(name="lm", path=decoder)
    served = Settings(version=1, state_dir=tmp_path / "state", http=HttpSettings(port=0), models=(lm,))
    (told,) = doctor_models.models(served, BOTH)
    assert "needs tokenizers" in told.message
    assert told.mend.endswith("pip install 'qeil-agent[llm]'")
