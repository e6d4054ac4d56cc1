from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.llm.text import TextStream


class Letters:
    """A tokenizer whose tokens are bytes."""

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")


def pushed(text, stops=()):
    stream = TextStream(Letters(), stops)
    pieces = []
    for byte in text.encode():
        pieces.append(stream.push(byte))
        if stream.stopped is not None:
            break
    return [*pieces, stream.finish()], stream


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30))
def test_pieces_together_are_the_text(text):
    pieces, stream = pushed(text)
    assert "".join(pieces) == text
    assert stream.stopped is None


def test_a_character_appears_once_all_its_bytes_are_there():
    assert pushed("aé")[0] == ["a", "", "é", ""]


def test_what_may_become_a_stop_string_is_held_back():
    pieces, stream = pushed("a<en<end>b", ("<end>",))
    assert "".join(pieces) == "a<en"
    assert stream.stopped == "<end>"
    assert pieces[:4] == ["a", "", "", ""]


def test_what_was_held_back_comes_at_the_end_where_it_was_no_stop():
    pieces, stream = pushed("ab<e", ("<end>",))
    assert (pieces[-1], stream.stopped) == ("<e", None)


@pytest.mark.parametrize(("stops", "text"), [(("b", "ab"), "x"), (("c", "b"), "xa"), (("", "zz"), "xabc")])
def test_the_stop_string_that_begins_first_ends_the_text(stops, text):
    assert "".join(pushed("xabc", stops)[0]) == text


class Counting(Letters):
    def __init__(self):
        self.longest, self.calls = 0, 0

    def decode(self, ids):
        self.longest, self.calls = max(self.longest, len(ids)), self.calls + 1
        return super().decode(ids)


def test_a_token_of_a_long_text_costs_hardly_more_than_one_reading_of_a_few_tokens():
    folder = Counting()
    stream = TextStream(folder)
    assert "".join(stream.push(byte) for byte in b"abcdefgh" * 50) == "abcdefgh" * 50
    assert folder.longest <= 32
    assert folder.calls <= 430
