from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agent.errors import BadInput, InferenceFailed, Overloaded, TooLarge
from agent.llm.engine import Engine, Failed, Finished, Job, Written
from agent.llm.generation import generate
from agent.llm.kv_pool import KvPool
from agent.llm.prefix_cache import BLOCK
from agent.llm.row import Prompt
from agent.llm.sampler import Sampling
from agent.llm.session import DecoderSession

IDS = (5, 80, 200, 7, 7, 31, 90, 100, 110, 120, 3, 44, 55, 66)


def run(engine, events=(), limit=1000):
    """Tokens by job and row, and the usage of every job, until nothing is left to do; `events` came before."""
    tokens, usage = {}, {}
    for _ in range(limit):
        if engine.idle and not events:
            return tokens, usage
        for event in events or engine.turn():
            if isinstance(event, Finished):
                usage[event.number] = event.usage
            else:
                tokens.setdefault((event.number, event.piece.row), []).append(event.piece.token)
        events = ()
    raise AssertionError("the engine does not come to an end")


def alone(session, prompt):
    rows = {}
    for piece in generate(session, prompt):
        rows.setdefault(piece.row, []).append(piece.token)
    return rows


def test_rows_that_join_and_leave_write_what_they_would_alone(tiny):
    engine = Engine(tiny, rows=4, context=64)
    prompts = [
        Prompt(IDS, 20, 1), Prompt(IDS[:3], 5, 2, sampling=Sampling(2.0, seed=4)), Prompt(IDS[2:9], 30, 1),
        Prompt(IDS[1:], 9, 3, sampling=Sampling(1.5, top_p=0.9, seed=5)),
    ]  # fmt: skip
    before = []
    for number, prompt in enumerate(prompts):
        engine.add(Job(number, prompt, tuple(range(prompt.samples))))
        before += engine.turn()
    tokens, usage = run(engine, before)
    assert set(usage) == {0, 1, 2, 3}
    for number, prompt in enumerate(prompts):
        for row, expected in alone(tiny, prompt).items():
            assert tokens[number, row] == expected
            assert usage[number].prompt_tokens == len(prompt.ids)
        assert usage[number].tokens == prompt.max_tokens * prompt.samples


@pytest.mark.parametrize(("column", "value"), [(7, np.nan), (7, np.inf), (slice(None), -np.inf)])
def test_logits_that_are_no_numbers_end_their_text_and_no_other(tiny, monkeypatch, column, value):
    expected = alone(tiny, Prompt(IDS, 12))
    engine = Engine(tiny, rows=2, context=64)
    engine.add(Job(1, Prompt(IDS, 12), (0,)))
    before = engine.turn()
    engine.add(Job(2, Prompt(IDS[:3], 12, sampling=Sampling(1.0, top_k=5, seed=1)), (0,)))
    before += engine.turn()
    decode = tiny.decode

    def broken(pool, ids, lengths):
        logits = decode(pool, ids, lengths)
        logits[1:, column] = value
        return logits

    monkeypatch.setattr(tiny, "decode", broken)
    events = engine.turn()
    monkeypatch.undo()
    (failed,) = [event for event in events if isinstance(event, Failed)]
    assert failed.number == 2
    assert isinstance(failed.error, InferenceFailed)
    assert failed.error.message == "decoder tiny: it gave logits that are no numbers"
    assert engine.active_rows == 1
    kept = [event for event in (*before, *events) if event.number == 1]
    assert run(engine, kept)[0][1, 0] == expected[0]


@pytest.mark.parametrize(
    ("rows", "mode", "packed", "steps"),
    [(1, "exact", True, [1]), (2, "exact", True, [1, 1]), (3, "exact", True, [3]), (2, "fast", True, [2]),
     (2, "exact", False, [2])],
)  # fmt: skip
def test_two_rows_step_apart_where_the_runtime_would_unpack_the_weights_for_both(
    tiny, monkeypatch, rows, mode, packed, steps
):
    assert tiny.folder.packed
    session = DecoderSession(replace(tiny.folder, packed=packed), threads=1, mode=mode)
    pool, ids, lengths = KvPool(tiny.folder, 3, 64, session.kv_type), np.full((rows, 1), 7, np.int64), [0] * rows
    expected = session.forward(pool.rows_of(0, rows), ids, lengths)[:, -1]
    seen, forward = [], session.forward

    def counted(buffers, ids, lengths):
        seen.append(len(lengths))
        return forward(buffers, ids, lengths)

    monkeypatch.setattr(session, "forward", counted)
    np.testing.assert_allclose(session.decode(pool, ids, lengths), expected, rtol=1e-4, atol=1e-5)
    assert seen == steps


def test_a_row_goes_on_from_what_it_wrote_before(tiny):
    prompt = Prompt(IDS, 24, 3, sampling=Sampling(1.5, seed=9))
    whole = alone(tiny, prompt)
    engine = Engine(tiny, rows=4, context=64)
    for row, tokens in whole.items():
        engine.add(Job(row, prompt, (row,), tuple(tokens[: 5 + row])))
    tokens, _ = run(engine)
    assert {row: tuple(tokens[row, row]) for row in whole} == {row: tuple(t[5 + row :]) for row, t in whole.items()}


def test_a_stop_string_that_began_before_a_restart_is_still_seen(tiny):
    prompt = Prompt(IDS, 20, sampling=Sampling(3.0, seed=1))
    pieces = list(generate(tiny, prompt))
    text = "".join(p.text for p in pieces)
    stop = text[5:9]
    stopping = Prompt(IDS, 20, stops=(stop,), sampling=prompt.sampling)
    expected = list(generate(tiny, stopping))
    engine = Engine(tiny, rows=1, context=64)
    cut = len(expected) - 1
    engine.add(Job(0, stopping, (0,), tuple(p.token for p in expected[:cut])))
    events = []
    while not engine.idle:
        events += engine.turn()
    assert [e.piece for e in events if isinstance(e, Written)] == expected[cut:]


def test_a_cancelled_job_is_not_computed_any_further(tiny):
    engine = Engine(tiny, rows=4, context=64)
    for number in range(3):
        engine.add(Job(number, Prompt(IDS, 40, 2), (0, 1)))
    seen = [event.number for _ in range(4) for event in engine.turn()]
    assert {0, 1} <= set(seen)
    engine.cancel(0)
    engine.cancel(2)
    assert {event.number for event in engine.turn()} == {1}
    assert engine.active_rows == 2
    engine.cancel(1)
    assert engine.idle


def test_a_prompt_that_was_seen_before_is_not_computed_again_and_gives_the_same_bits(roomy):
    engine = Engine(roomy, rows=2, context=512, prefix_bytes=1 << 24)
    ids = tuple((i * 7) % 250 for i in range(2 * BLOCK + 20))
    prompt = Prompt(ids, 6, logprobs=3)
    answers, cached = [], []
    for number in range(2):
        engine.add(Job(number, prompt, (0,)))
        events = []
        while not engine.idle:
            events += engine.turn()
        answers.append([e.piece for e in events if isinstance(e, Written)])
        cached.append(events[-1].usage.cached_tokens)
    assert cached == [0, 2 * BLOCK]
    assert answers[0] == answers[1]
    assert engine.prefixes.hits == 1


def test_the_prefix_cache_keeps_its_bound(roomy):
    block_bytes = 2 * 2 * 2 * 16 * 4 * BLOCK
    engine = Engine(roomy, rows=1, context=512, prefix_bytes=3 * block_bytes)
    for number in range(5):
        engine.add(Job(number, Prompt(tuple((i * 3 + number) % 250 for i in range(2 * BLOCK + 1)), 1), (0,)))
    run(engine)
    assert engine.prefixes.size_bytes == 3 * block_bytes


@pytest.mark.parametrize(
    ("job", "error", "says"),
    [
        (Job(0, Prompt(IDS, 60), (0,)), TooLarge, "max_tokens of at most 50 fits"),
        (Job(0, Prompt(IDS * 5, 1), (0,)), TooLarge, "shorten"),
        (Job(0, Prompt(IDS, 5, 3), (0, 1, 2)), TooLarge, "served with 2 rows"),
        (Job(0, Prompt(IDS, 5, 2), (0, 1), (3,)), BadInput, "single"),
        (Job(0, Prompt((), 5), (0,)), BadInput, "needs a prompt"),
    ],
)
def test_a_job_that_never_fits_is_refused_with_what_would(tiny, job, error, says):
    with pytest.raises(error, match=says):
        Engine(tiny, rows=2, context=64).add(job)


def test_the_queue_is_bounded(tiny):
    engine = Engine(tiny, rows=1, context=64, max_waiting=2)
    for number in range(2):
        engine.add(Job(number, Prompt(IDS, 5), (0,)))
    with pytest.raises(Overloaded, match="2 texts wait"):
        engine.add(Job(9, Prompt(IDS, 5), (0,)))


def test_a_failed_step_costs_the_jobs_that_had_begun(tiny):
    engine = Engine(tiny, rows=2, context=64)
    engine.add(Job(0, Prompt(IDS, 30), (0,)))
    engine.add(Job(1, Prompt(IDS, 3, 2), (0, 1)))
    engine.turn()
    assert engine.abandon() == [0]
    tokens, _ = run(engine)
    assert set(tokens) == {(1, 0), (1, 1)}


class Listened:
    """A session whose graph finds every token likely but the `absurd` ones; with `last_only` it tells of the last."""

    def __init__(self, session, absurd, last_only=False):
        self._session, self._absurd, self._last_only = session, set(absurd), last_only

    def __getattr__(self, name):
        return getattr(self._session, name)

    def prompt(self, buffers, ids, lengths):
        last = self._session.prompt(buffers, ids, lengths)
        if self._last_only:
            return last[:, -1:]
        steps = ids.shape[1]
        made = np.zeros((1, steps, last.shape[2]), np.float32)
        made[0, :, [token for token in range(last.shape[2]) if token not in self._absurd]] = 20.0
        made[0, -1] = last[0, -1]
        return made


FLUENT, ABSURD = tuple(range(10, 40)), tuple(range(200, 216))


def screened(session, reaction="reject", ids=FLUENT + ABSURD, **engine):
    engine = Engine(session, rows=2, context=session.folder.context, **engine)
    engine.add(Job(1, Prompt(ids, 2, screen=(reaction, 8.0)), (0,)))
    events = []
    while not engine.idle:
        events += engine.turn()
    return events


def test_a_prompt_with_an_absurd_end_is_refused_before_anything_is_written(tiny):
    (failed,) = screened(Listened(tiny, ABSURD))
    assert isinstance(failed, Failed)
    assert "look like a suffix found by search (policy guard.texts.absurd_suffix)" in failed.error.message


def test_a_flagged_prompt_is_answered_and_what_was_found_goes_with_its_account(tiny):
    *written, finished = screened(Listened(tiny, ABSURD), "flag")
    assert len(written) == 2
    assert "surprise the model" in finished.usage.found


@pytest.mark.parametrize("ids", [FLUENT + FLUENT, ABSURD + FLUENT, ABSURD * 3, FLUENT[:5]])
def test_a_prompt_whose_end_is_like_the_rest_passes(tiny, ids):
    assert screened(Listened(tiny, ABSURD), ids=ids)[-1].usage.found == ""


def test_a_graph_that_tells_of_the_last_token_only_cannot_screen_and_says_so(tiny):
    finished = screened(Listened(tiny, ABSURD, last_only=True))[-1]
    assert finished.usage.unscreened
    assert finished.usage.found == ""


def test_an_absurd_end_behind_several_blocks_is_found_again_although_its_beginning_is_known(roomy):
    long = tuple(range(10, 150)) * 2
    session = Listened(roomy, ABSURD)
    engine = Engine(session, rows=2, context=roomy.folder.context, prefix_bytes=1 << 30)
    for number in (1, 2):
        engine.add(Job(number, Prompt(long + ABSURD, 2, screen=("reject", 8.0)), (0,)))
        events = []
        while not engine.idle:
            events += engine.turn()
        assert [type(event) for event in events] == [Failed]
        assert f"tokens {len(long)} to" in events[0].error.message


def test_the_graph_for_screening_is_the_imported_folders_own(tiny):
    assert tiny.folder.scoring_graph().name == "score.onnx"
    assert tiny.folder.scoring_graph("no such mode") is None
    screened_by_itself = DecoderSession(tiny.folder, threads=1, graph=tiny.folder.scoring_graph())
    assert not screened(screened_by_itself, "flag")[-1].usage.unscreened
