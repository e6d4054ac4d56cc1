"""A decoder whose layers or prompts another process computes: the same bits, whatever happens to that process."""

from __future__ import annotations

import contextlib
import socket
import threading

import numpy as np
import pytest

from agent.errors import BadInput, InferenceFailed
from agent.llm.engine import Engine, Finished, Job, Written
from agent.llm.folder import open_folder
from agent.llm.graph_part import GraphPart, cut
from agent.llm.importer import import_gguf
from agent.llm.peer import PeerLost, PeerServer, SocketPeer
from agent.llm.row import Prompt
from agent.llm.sampler import Sampling
from agent.llm.session import DecoderSession, runtime_errors
from tests.llm.reference import LAYERS, write_model

PROMPTS = [(5, 9, 7, 3), tuple(np.random.default_rng(0).integers(3, 250, 200).tolist()), (8,) * 130]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("peers")
    return open_folder(import_gguf(write_model(base / "m.gguf", context=512), base / "out").folder)


def jobs():
    sampling = Sampling(1.2, seed=4)
    return [
        Job(n + 1, Prompt(ids, 12, 2, sampling=sampling, through_end=True), (0, 1)) for n, ids in enumerate(PROMPTS)
    ]


def written(engine, after=lambda: None):
    """Tokens by job and row, in any order of the jobs."""
    for job in jobs():
        engine.add(job)
    found, finished = {}, set()
    while not engine.idle:
        for event in engine.turn():
            if isinstance(event, Written):
                found.setdefault((event.number, event.piece.row), []).append(event.piece.token)
            elif isinstance(event, Finished):
                finished.add(event.number)
        after()
    assert finished == {1, 2, 3}
    return found


@pytest.fixture(scope="module")
def alone(folder):
    return written(Engine(DecoderSession(folder, threads=1), rows=8, context=400))


class Other:
    """The other process, as a thread. `lasts`: questions until it is gone."""

    def __init__(self, folder, part, engine, lasts=None):
        self.ours, theirs = socket.socketpair()
        self.peer = SocketPeer(self.ours, engine.pool)
        self.server = PeerServer(theirs, part, folder, engine.session.kv_type, runtime_errors(), lambda: 0.0)
        self.lasts = lasts
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        with contextlib.suppress(OSError, EOFError):
            while self.lasts is None or self.lasts > 0:
                self.server.serve_one()
                self.lasts = None if self.lasts is None else self.lasts - 1
        self.server.sock.close()

    def end(self):
        self.peer.close()
        self.thread.join()


def whole_part(folder):
    return GraphPart(folder.graph(), folder, 1, runtime_errors())


def first_part(folder, layers=1):
    return GraphPart(cut(folder, None, layers, "first"), folder, 1, runtime_errors())


@pytest.mark.parametrize("lasts", [None, 1, 2, 3, 4])
def test_prompts_computed_elsewhere_give_the_same_text_even_when_that_process_dies(folder, alone, lasts):
    engine = Engine(DecoderSession(folder, threads=1), rows=8, context=400, shared=True)
    other = Other(folder, whole_part(folder), engine, lasts)
    engine.session.prompts = other.peer
    assert written(engine) == alone
    assert (engine.session.prompts is None) == (lasts is not None)
    other.end()


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3", "gpt2", "granite"])
def test_layers_computed_elsewhere_give_the_same_bits(tmp_path, architecture):
    folder = open_folder(import_gguf(write_model(tmp_path / "m.gguf", architecture), tmp_path / "out").folder)
    ids = np.array([[5, 9, 7, 3]])
    whole = Engine(DecoderSession(folder, threads=1), rows=2, context=32)
    for layers in {1, folder.layers - 1}:
        session = DecoderSession(folder, threads=1, layers_elsewhere=layers)
        engine = Engine(session, rows=2, context=32, shared=True)
        other = Other(folder, first_part(folder, layers), engine)
        session.earlier = other.peer
        for at, step in ((0, ids), (4, ids[:, :1])):
            expected = whole.session.forward(whole.pool.rows_of(0, 1), step, [at])
            assert session.forward(engine.pool.rows_of(0, 1), step, [at]).tobytes() == expected.tobytes()
        assert engine.pool.read(0, 0, 5).tobytes() == whole.pool.read(0, 0, 5).tobytes()
        other.end()


@pytest.mark.parametrize("lasts", [1, 2, 5, 9])
def test_texts_go_on_with_the_next_process_for_the_first_layers(folder, alone, lasts):
    session = DecoderSession(folder, threads=1, layers_elsewhere=1)
    engine = Engine(session, rows=8, context=400, shared=True)
    others = [Other(folder, first_part(folder), engine, lasts)]
    session.earlier = others[0].peer
    turn, lost = engine.turn, []

    def turned():
        try:
            return turn()
        except PeerLost as error:
            lost.append(error)
            others.append(Other(folder, first_part(folder), engine))
            session.earlier = others[-1].peer
            return []

    engine.turn = turned
    assert written(engine) == alone
    assert len(lost) == 1
    for other in others:
        other.end()


def test_without_the_other_process_nothing_is_computed_and_nothing_is_lost(folder, alone):
    session = DecoderSession(folder, threads=1, layers_elsewhere=1)
    engine = Engine(session, rows=8, context=400, shared=True)
    assert not session.complete
    engine.add(jobs()[0])
    with pytest.raises(PeerLost):
        engine.turn()
    other = Other(folder, first_part(folder), engine)
    session.earlier = other.peer
    assert session.complete
    tokens = [e.piece.token for _ in range(20) for e in engine.turn() if isinstance(e, Written) and e.piece.row == 0]
    assert tokens == alone[1, 0]
    other.end()


def test_a_cancelled_prompt_leaves_the_other_process_in_step(folder, alone):
    engine = Engine(DecoderSession(folder, threads=1), rows=8, context=400, shared=True)
    other = Other(folder, whole_part(folder), engine)
    engine.session.prompts = other.peer
    engine.add(jobs()[0])
    engine.turn()
    engine.add(Job(9, jobs()[1].prompt, (0,)))
    engine._prefill(engine._lead if engine._begin() else None)  # a block is asked for and not waited for
    engine.cancel(9)
    engine.cancel(1)
    assert written(engine) == alone
    other.end()


def test_what_the_other_runtime_refuses_is_an_error_of_this_one(folder):
    engine = Engine(DecoderSession(folder, threads=1), rows=2, context=64, shared=True)
    other = Other(folder, whole_part(folder), engine)
    other.peer.ask({"input_ids": np.zeros((1, 1), np.int64)}, engine.pool.rows_of(0, 1))
    with pytest.raises(InferenceFailed):
        other.peer.answer(wait=True)
    with pytest.raises(InferenceFailed, match="pool"):
        other.peer.ask({}, [])
    other.end()


def test_memory_of_a_shared_pool_goes_back(folder):
    engine = Engine(DecoderSession(folder, threads=1), rows=2, context=64, shared=True)
    engine.pool.rows_of(0, 1)[0][:] = 1.0
    engine.pool.release()
    assert not engine.pool.rows_of(0, 1)[0].any()


@pytest.mark.parametrize("layers", [-1, LAYERS, 99])
def test_a_cut_that_leaves_a_side_empty_is_refused(folder, layers):
    with pytest.raises(BadInput, match="layers"):
        cut(folder, None, layers, "first")
