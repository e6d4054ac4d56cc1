"""A name that the catalogue does not have brings those that are nearest."""

from __future__ import annotations

import pytest

from agent.errors import BadInput
from agent.workload.catalogue import CATALOGUE
from agent.workload.naming import entry_of, meant


def test_a_published_spelling_is_understood():
    assert entry_of("Llama3.2:1b").name == "llama-3.2-1b"


def test_an_unknown_name_brings_the_nearest_one_and_the_nearest_few():
    with pytest.raises(
        BadInput, match=r"no model 'lama-3.2-1' .*did you mean llama-3.2-1b\?.*nearest of \d+: llama-3.2"
    ) as e:
        entry_of("lama-3.2-1")
    assert 1 < sum(name in e.value.message for name in CATALOGUE) < 10


def test_nothing_is_guessed_where_nothing_is_near():
    assert meant("zzzz") is None
    with pytest.raises(BadInput) as raised:
        entry_of("zzzz")
    assert "did you mean" not in raised.value.message
