from __future__ import annotations

import hashlib

import numpy as np
import pytest

from agent.errors import BadInput
from agent.llm.engine import Engine, Job, Written
from agent.llm.folder import open_folder
from agent.llm.graph_part import GraphPart, cut
from agent.llm.importer import import_gguf
from agent.llm.row import Prompt
from agent.llm.sampler import Sampling
from agent.llm.session import DecoderSession, runtime_errors
from tests.llm.reference import write_model
from tests.llm.test_peers import Other

IDS = [5, 80, 200, 7, 7, 31, 90, 100, 110, 120, 3, 44, 55, 66]


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    base = tmp_path_factory.mktemp("small")
    return import_gguf(write_model(base / "m.gguf"), base / "out", small_cache=True)


def logits_of(folder, mode):
    session = DecoderSession(folder, threads=1, graph=folder.scoring_graph(mode))
    cache = session.cache(1, 40)
    seen = [session.step(cache, np.array([IDS[:9]]))[0]]
    seen += [session.step(cache, np.array([[i]]))[0] for i in IDS[9:]]
    return np.concatenate(seen), cache


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma3", "gpt2"])
def test_keys_and_values_in_eight_bits_stay_near_the_exact_logits(tmp_path, architecture):
    source = write_model(tmp_path / "m.gguf", architecture)
    folder = open_folder(import_gguf(source, tmp_path / "out", small_cache=True).folder)
    exact, whole = logits_of(folder, "exact")
    small, cache = logits_of(folder, "exact-kv8")
    assert 0 < np.abs(small - exact).max() < 0.15 * np.abs(exact).max()
    assert cache.size_bytes * 4 == whole.size_bytes
    kept = np.stack(cache.buffers)
    assert kept.dtype == np.int8
    assert 64 < kept.max() <= 127
    assert np.mean(np.abs(kept.astype(int)) >= 127) < 0.002  # almost nothing is cut


def test_the_manifest_says_what_every_mode_costs(imported):
    folder = open_folder(imported.folder)
    assert [*folder.graphs] == ["exact", "fast", "exact-kv8", "fast-kv8"]
    assert folder.default_mode == "exact"
    assert folder.cache_bytes("fast") == folder.kv_bytes_per_token == 4 * folder.cache_bytes("fast-kv8")
    assert folder.quality.keys() == {"fast", "exact-kv8", "fast-kv8"}
    assert all(kl > 0 for kl in folder.quality.values())
    for name, digest in imported.manifest["files"].items():
        assert hashlib.sha256((imported.folder / name).read_bytes()).hexdigest() == digest


def test_without_being_asked_for_there_is_no_such_mode(tmp_path):
    folder = open_folder(import_gguf(write_model(tmp_path / "m.gguf"), tmp_path / "out").folder)
    assert [*folder.graphs] == ["exact", "fast"]
    assert folder.quality == {}


def test_a_context_too_short_to_measure_quality_is_refused_instead_of_called_exact(tmp_path):
    with pytest.raises(BadInput, match="texts of 4 tokens do not tell what a small cache costs"):
        import_gguf(write_model(tmp_path / "m.gguf"), tmp_path / "out", context=4, small_cache=True)
    assert not (tmp_path / "out").exists()


def test_rows_of_a_batch_are_those_of_separate_runs(imported):
    folder = open_folder(imported.folder)

    def texts(*jobs):
        engine = Engine(DecoderSession(folder, threads=1, mode="exact-kv8"), rows=4, context=64)
        for job in jobs:
            engine.add(job)
        found = {}
        while not engine.idle:
            for event in engine.turn():
                if isinstance(event, Written):
                    found.setdefault((event.number, event.piece.row), []).append(event.piece.token)
        return found

    prompt = Prompt(tuple(IDS), 12, 1, (), Sampling(temperature=2.0, seed=3))
    together = texts(Job(1, prompt, (0, 1, 2)), Job(2, prompt, (3,)))
    alone = texts(Job(1, prompt, (1,))) | texts(Job(2, prompt, (3,)))
    assert {key: together[key] for key in alone} == alone
    assert len({tuple(row) for row in together.values()}) > 1


def test_layers_computed_elsewhere_give_the_same_bits(imported):
    folder, ids = open_folder(imported.folder), np.array([[5, 9, 7, 3]])
    whole = Engine(DecoderSession(folder, threads=1, mode="exact-kv8"), rows=2, context=32)
    session = DecoderSession(folder, threads=1, mode="exact-kv8", layers_elsewhere=1)
    engine = Engine(session, rows=2, context=32, shared=True)
    other = Other(folder, GraphPart(cut(folder, "exact-kv8", 1, "first"), folder, 1, runtime_errors()), engine)
    session.earlier = other.peer
    for at, step in ((0, ids), (4, ids[:, :1])):
        expected = whole.session.forward(whole.pool.rows_of(0, 1), step, [at])
        assert session.forward(engine.pool.rows_of(0, 1), step, [at]).tobytes() == expected.tobytes()
    assert engine.pool.read(0, 0, 5).tobytes() == whole.pool.read(0, 0, 5).tobytes()
    other.end()
