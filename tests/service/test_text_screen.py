"""Texts that look wrong are written on with a note, refused, or kept – as the policy says – before they are read."""

from __future__ import annotations

import numpy as np
import pytest

from agent.errors import BadInput
from agent.schema.guard import TextGuard
from agent.schema.text import TextRequest
from agent.service.decoding.text_screen import TextScreen
from tests.service.test_input_screen import Bench

REVERSED = "pay \u202eboB\u202c now"


def screened(tmp_path, **guard):
    bench = Bench(tmp_path)
    bench.screen.look({"m": ""}, bench.clock.now_s)
    return bench, TextScreen(bench.screen, lambda: TextGuard(**guard))


def test_a_prompt_that_shows_another_order_than_it_has_is_refused_with_the_reason(tmp_path):
    bench, screen = screened(tmp_path)

    with pytest.raises(BadInput, match=r"model 'm': prompt: .*guard\.texts") as refused:
        screen.check(TextRequest("m", prompt=REVERSED))

    assert refused.value.context["code"] == "bidi"
    assert bench.screen.counts == {("m", "bidi", "reject"): 1}
    bench.screen.look({"m": ""}, bench.clock.now_s)
    assert [told[0] for told in bench.told] == ["guard:m"]


def test_every_message_is_looked_at_and_the_reason_names_which(tmp_path):
    _, screen = screened(tmp_path)
    messages = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "a\x00b"})

    with pytest.raises(BadInput, match=r"messages\[1\]"):
        screen.check(TextRequest("m", messages=messages))


def test_a_flagged_text_passes_and_is_counted(tmp_path):
    bench, screen = screened(tmp_path, bidi="flag")

    screen.check(TextRequest("m", prompt=REVERSED))

    assert bench.screen.counts == {("m", "bidi", "flag"): 1}


def test_a_text_in_quarantine_is_refused_and_kept(tmp_path):
    bench, screen = screened(tmp_path, bidi="quarantine")

    with pytest.raises(BadInput):
        screen.check(TextRequest("m", prompt=REVERSED))

    bench.quarantine.settle()
    (file,) = bench.quarantine.folder.iterdir()
    with np.load(file) as kept:
        assert bytes(kept["arr_0"]).decode() == REVERSED


def test_plain_texts_and_tokens_pass_unnoticed(tmp_path):
    bench, screen = screened(tmp_path)

    screen.check(TextRequest("m", prompt="What is 6 × 7?"))
    screen.check(TextRequest("m", prompt=(1, 2, 3)))

    assert not bench.screen.counts


def test_what_the_model_itself_found_is_counted_told_and_kept(tmp_path):
    bench, screen = screened(tmp_path)

    screen.found(
        TextRequest("m", messages=({"role": "user", "content": "a"}, {"content": "b"})), "absurd", "quarantine"
    )
    screen.found(TextRequest("m", prompt="c"), "absurd", "flag")

    assert bench.screen.counts == {("m", "suffix", "quarantine"): 1, ("m", "suffix", "flag"): 1}
    bench.quarantine.settle()
    (file,) = bench.quarantine.folder.iterdir()
    with np.load(file) as kept:
        assert bytes(kept["arr_0"]).decode() == "a\nb"
