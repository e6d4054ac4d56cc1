from __future__ import annotations

import numpy as np
import pytest

from agent.llm.engine import Engine, Finished, Job, Written
from agent.llm.row import Prompt
from agent.llm.sampler import log_probabilities
from agent.llm.session import DecoderSession

IDS = (5, 80, 200, 7, 7, 31, 90, 100, 110, 120, 3, 44, 55, 66)


def pieces(session, *jobs, context=400):
    engine = Engine(session, rows=4, context=context, prefix_bytes=1 << 20)
    for job in jobs:
        engine.add(job)
    found, usage = {}, {}
    while not engine.idle:
        for event in engine.turn():
            if isinstance(event, Written):
                found.setdefault((event.number, event.piece.row), []).append(event.piece)
            elif isinstance(event, Finished):
                usage[event.number] = event.usage
    assert set(usage) == {job.number for job in jobs}
    return found, usage


@pytest.fixture(scope="module")
def scoring(roomy):
    folder = roomy.folder
    return DecoderSession(folder, threads=1, graph=folder.scoring_graph())


@pytest.mark.parametrize("graph", ["roomy", "scoring"])
def test_log_probabilities_of_a_prompt_are_those_of_every_position(graph, request, scoring):
    session = request.getfixturevalue(graph)
    ids = tuple(np.random.default_rng(2).integers(0, 200, 300).tolist())
    found, usage = pieces(session, Job(1, Prompt(ids, 3, 1, logprobs=2, echo=True), (0,)))
    echoed, written = found[1, 0][:300], found[1, 0][300:]
    assert [p.token for p in echoed] == [*ids]
    assert all(p.prompt for p in echoed)
    assert not any(p.prompt for p in written)
    assert len(written) == usage[1].tokens == 3
    expected = scoring.step(scoring.cache(1, 300), np.array([ids]))[0]
    assert echoed[0].logprob is None
    for piece, row in zip(echoed[1:], expected, strict=False):
        logs = log_probabilities(row)
        assert piece.logprob == pytest.approx(logs[piece.token], abs=1e-3)
        assert piece.likeliest[0][1] == pytest.approx(logs.max(), abs=1e-3)
    assert usage[1].prefilled_tokens == 300
    assert "".join(p.text for p in echoed) == session.folder.decode(ids)


def test_an_echo_without_log_probabilities_is_one_piece(roomy):
    found, _ = pieces(roomy, Job(1, Prompt(IDS, 2, 2, echo=True), (0, 1)))
    for row in (0, 1):
        first, *rest = found[1, row]
        assert first.prompt
        assert first.text == roomy.folder.decode(IDS)
        assert [p.prompt for p in rest] == [False, False]


def test_an_echo_alone_writes_nothing_and_leaves_others_be(roomy):
    plain, _ = pieces(roomy, Job(2, Prompt(IDS, 5), (0,)))
    only = Job(1, Prompt(IDS, 0, 1, logprobs=0, echo=True), (0,))
    found, usage = pieces(roomy, only, Job(2, Prompt(IDS, 5), (0,)))
    assert [(p.token, p.end) for p in found[1, 0]] == [*((i, None) for i in IDS), (-1, "length")]
    assert (usage[1].tokens, usage[1].prompt_tokens) == (0, len(IDS))
    assert [p.token for p in found[2, 0]] == [p.token for p in plain[2, 0]]


def test_a_text_that_goes_on_elsewhere_does_not_begin_with_its_prompt_again(roomy):
    whole, _ = pieces(roomy, Job(1, Prompt(IDS, 6, 1, echo=True), (0,)))
    tokens = [p.token for p in whole[1, 0][1:]]
    rest, _ = pieces(roomy, Job(1, Prompt(IDS, 6, 1, echo=True), (0,), tuple(tokens[:2])))
    assert [p.token for p in rest[1, 0]] == tokens[2:]
