"""Whole prompts that are kept for more samples of the same question."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agent.llm.engine import Engine, Finished, Job, Written
from agent.llm.prefix_cache import BLOCK, PrefixCache
from agent.llm.row import Prompt
from agent.llm.sampler import Sampling

ROOM = 1 << 26


def some_ids(seed, count):
    return tuple(np.random.default_rng(seed).integers(0, 250, count).tolist())


def asked(ids, **more):
    return Prompt(ids, 12, 4, sampling=Sampling(temperature=1.0, seed=7), logprobs=2, **more)


def looks(engine, *jobs):
    """(pieces, usage) of each job, one after the other."""
    found = []
    for job in jobs:
        engine.add(job)
        pieces = []
        while not engine.idle:
            for event in engine.turn():
                if isinstance(event, Written):
                    pieces.append(event.piece)
                elif isinstance(event, Finished):
                    usage = event.usage
        found.append((pieces, usage))
    return found


@pytest.mark.parametrize("length", [1, 45, BLOCK, BLOCK + 1, 300])
def test_later_samples_of_a_question_compute_no_prompt_and_are_the_same_bits(roomy, length):
    prompt = asked(some_ids(1, length))
    jobs = [Job(1, prompt, (0, 1), kept_as="q"), Job(2, prompt, (2, 3), kept_as="q")]
    expected = looks(Engine(roomy, rows=4, context=512), *jobs)
    first, second = looks(Engine(roomy, rows=4, context=512, prefix_bytes=ROOM), *jobs)
    assert [pieces for pieces, _ in (first, second)] == [pieces for pieces, _ in expected]
    assert (first[1].prefilled_tokens, second[1].prefilled_tokens) == (length, 0)
    assert (first[1].cached_tokens, second[1].cached_tokens) == (0, length)
    assert second[1].prefill_s == 0.0


def test_a_question_is_not_charged_less_because_another_one_asked_the_same(roomy):
    prompt = asked(some_ids(2, 45))
    jobs = [Job(1, prompt, (0,), kept_as="a"), Job(2, prompt, (0,), kept_as="b"), Job(3, prompt, (0,))]
    found = looks(Engine(roomy, rows=4, context=512, prefix_bytes=ROOM), *jobs)
    assert [usage.prefilled_tokens for _, usage in found] == [45, 45, 45]


def test_kept_prompts_join_rows_that_write_already(roomy):
    one, other = asked(some_ids(3, 45)), asked(some_ids(4, 70))
    jobs = [Job(1, one, (0,), kept_as="a"), Job(2, other, (0, 1), kept_as="b")]
    later = [Job(3, one, (1, 2), kept_as="a"), Job(4, other, (2,), kept_as="b")]
    engine = Engine(roomy, rows=4, context=512, prefix_bytes=ROOM)
    looks(engine, *jobs)
    for job in later:
        engine.add(job)
    written = {}
    while not engine.idle:
        for event in engine.turn():
            if isinstance(event, Written):
                written.setdefault((event.number, event.piece.row), []).append(event.piece.token)
    apart = looks(Engine(roomy, rows=4, context=512), *later)
    for job, (pieces, _) in zip(later, apart, strict=True):
        for row in job.rows:
            assert written[job.number, row] == [piece.token for piece in pieces if piece.row == row]


def test_a_prompt_that_the_screen_found_something_in_is_looked_at_again(roomy):
    flagged = asked(some_ids(5, 60), screen=("flag", 0.0))
    jobs = [Job(1, flagged, (0,), kept_as="q"), Job(2, flagged, (1,), kept_as="q")]
    engine = Engine(roomy, rows=4, context=512, prefix_bytes=ROOM)
    engine._passes = lambda run: setattr(run.usage, "found", "an absurd end") or True
    assert [usage.prefilled_tokens for _, usage in looks(engine, *jobs)] == [60, 60]


def test_an_echo_is_computed_anew(roomy):
    prompt = replace(asked(some_ids(6, 30)), echo=True)
    jobs = [Job(1, prompt, (0,), kept_as="q"), Job(2, prompt, (1,), kept_as="q")]
    engine = Engine(roomy, rows=4, context=512, prefix_bytes=ROOM)
    assert all(usage.prefilled_tokens > 0 for _, usage in looks(engine, *jobs))
    assert engine.prefixes.size_bytes == 0


def test_prompts_larger_than_the_bound_are_not_kept_and_the_oldest_go_first(roomy):
    position_bytes = Engine(roomy, rows=1, context=64).pool.position_bytes
    engine = Engine(roomy, rows=4, context=512, prefix_bytes=int(60 * position_bytes))
    jobs = [Job(n, asked(some_ids(n, 50)), (0,), kept_as=str(n)) for n in (1, 2)]
    looks(engine, *jobs, Job(3, asked(some_ids(3, 70)), (0,), kept_as="3"))
    assert engine.prefixes.size_bytes <= engine.prefixes.max_bytes
    again = looks(engine, *(Job(9, job.prompt, (1,), kept_as=job.kept_as) for job in reversed(jobs)))
    assert [usage.prefilled_tokens for _, usage in again] == [0, 50]


def test_what_is_kept_anew_counts_once():
    cache = PrefixCache(ROOM)
    positions, logits = np.zeros((4, 2, 3, 16), np.float32), np.zeros(250, np.float32)
    for _ in range(2):
        cache.keep("q", (1, 2, 3), positions, logits)
    assert cache.size_bytes == positions.nbytes + logits.nbytes
    assert cache.kept("q", (1, 2)) is None
    with pytest.raises(ValueError, match="not those of 2 tokens"):
        cache.keep("q", (1, 2), positions, logits)
