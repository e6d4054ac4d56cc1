from __future__ import annotations

import pytest

from agent.llm.folder import open_folder
from agent.llm.importer import import_gguf
from agent.llm.session import DecoderSession
from tests.llm.reference import write_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A loaded random decoder."""
    base = tmp_path_factory.mktemp("tiny")
    folder = open_folder(import_gguf(write_model(base / "m.gguf"), base / "out").folder)
    return DecoderSession(folder, threads=1)


@pytest.fixture(scope="session")
def roomy(tmp_path_factory):
    """One with room for prompts of several blocks."""
    base = tmp_path_factory.mktemp("roomy")
    source = write_model(base / "m.gguf", context=512)
    return DecoderSession(open_folder(import_gguf(source, base / "out").folder), threads=1)
