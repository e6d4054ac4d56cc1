from __future__ import annotations

import pytest

from agent.errors import BadInput
from agent.schema.settings import ModelEntry, Settings
from agent.service.serving import model_store


@pytest.fixture
def folder(tmp_path):
    """A folder that says it holds a decoder; nobody looks further here."""
    made = tmp_path / "Smol LM"
    made.mkdir()
    (made / "genai_config.json").write_text("{}")
    (made / "model.onnx").write_bytes(b"weights")
    return made


def test_a_decoder_folder_is_stored_whole_and_served_as_a_language_model(folder, tmp_path):
    settings = Settings(version=1, state_dir=tmp_path / "state")
    entry = model_store.add(folder, None, settings.state_dir)
    assert entry.name == "smol-lm"
    assert (entry.path / "model.onnx").read_bytes() == b"weights"
    assert [m.name for m in model_store.language_models(settings)] == ["smol-lm"]
    assert model_store.tensor_models(settings) == ()
    assert not list(entry.path.parent.glob(".*"))


def test_a_model_of_the_settings_is_told_apart_by_being_a_folder(folder, tmp_path):
    models = (ModelEntry(name="text", path=folder), ModelEntry(name="pictures", path=tmp_path / "a.onnx"))
    settings = Settings(version=1, state_dir=tmp_path / "state", models=models)
    assert [m.name for m in model_store.language_models(settings)] == ["text"]
    assert [m.name for m in model_store.tensor_models(settings)] == ["pictures"]


def test_a_folder_never_replaces_another(folder, tmp_path):
    model_store.add(folder, "m", tmp_path)
    with pytest.raises(BadInput, match="already"):
        model_store.add(folder, "m", tmp_path)


def test_a_folder_without_a_decoder_is_refused(tmp_path):
    with pytest.raises(BadInput, match="decoder folder"):
        model_store.add(tmp_path, "m", tmp_path / "state")
