from __future__ import annotations

import numpy as np
import pytest

from agent.llm.engine import Engine, Finished, Job, Written
from agent.llm.kv_pool import KvPool
from agent.llm.prefix_cache import BLOCK, PrefixCache
from agent.llm.row import Prompt

ROOM = 1 << 26


def some_ids(seed, count):
    return tuple(np.random.default_rng(seed).integers(0, 250, count).tolist())


def answers(engine, *prompts):
    """Pieces and usage of every prompt, one after the other."""
    found = []
    for number, prompt in enumerate(prompts):
        engine.add(Job(number, prompt, (0,)))
        pieces = []
        while not engine.idle:
            for event in engine.turn():
                if isinstance(event, Written):
                    pieces.append(event.piece)
                elif isinstance(event, Finished):
                    usage = event.usage
        found.append((pieces, usage))
    return found


def test_after_an_echo_with_log_probabilities_a_prompt_is_answered_as_without_a_cache(roomy):
    ids = some_ids(1, 300)
    plain, other = Prompt(ids, 12, logprobs=3), Prompt(some_ids(2, 300), 12)
    echo = Prompt(ids, 0, 1, logprobs=0, echo=True)
    ((expected, _),) = answers(Engine(roomy, rows=2, context=512), plain)
    engine = Engine(roomy, rows=2, context=512, prefix_bytes=ROOM)
    _, _, first, again = answers(engine, echo, other, plain, plain)
    assert [usage.cached_tokens for _, usage in (first, again)] == [0, 2 * BLOCK]
    assert first[0] == again[0] == expected


def test_prompts_computed_in_blocks_and_token_by_token_are_answered_as_without_a_cache(roomy):
    ids = some_ids(3, 400)
    prompts = [
        Prompt(ids[:length], 4, logprobs=2, echo=echo)
        for echo, length in (
            (False, 127), (True, 129), (False, 257), (True, 255), (False, 128), (True, 300), (False, 385), (True, 385),
            (False, 256), (False, 301), (False, 386),
        )
    ]  # fmt: skip
    expected = answers(Engine(roomy, rows=2, context=512), *prompts)
    found = answers(Engine(roomy, rows=2, context=512, prefix_bytes=ROOM), *prompts)
    assert [pieces for pieces, _ in found] == [pieces for pieces, _ in expected]
    assert [usage.cached_tokens // BLOCK for _, usage in found] == [0, 0, 0, 0, 0, 0, 2, 0, 1, 2, 3]


def test_a_row_takes_no_block_of_another_length(roomy):
    pool = KvPool(roomy.folder, 2, 200)
    pool.write(1, 0, BLOCK, pool.read(0, 0, BLOCK))
    for start, block in ((0, pool.read(0, 0, 1)), (0, pool.read(0, 0, BLOCK + 1)), (100, pool.read(0, 0, BLOCK))):
        with pytest.raises(ValueError, match="does not fill positions"):
            pool.write(1, start, start + BLOCK, block)


@pytest.mark.parametrize(("tokens", "positions"), [(BLOCK, 1), (BLOCK, BLOCK + 1), (BLOCK + 1, BLOCK), (0, BLOCK)])
def test_only_whole_blocks_are_remembered(tokens, positions):
    cache = PrefixCache(ROOM)
    with pytest.raises(ValueError, match="is not one of 128"):
        cache.add(some_ids(4, tokens), np.zeros((4, 2, positions, 16), np.float32))
    assert cache.size_bytes == 0
    assert cache.find(some_ids(4, 3 * BLOCK)) == []
