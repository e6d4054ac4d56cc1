"""Sentences about unknown names stay sentences, however many names there are."""

from __future__ import annotations

from agent.schema.nearest import MOST, listed


def test_a_short_list_is_given_whole_in_its_order():
    assert listed("x", ("b", "a")) == "known: b, a"
    assert listed("x", ()) == "known: none found"


def test_a_long_list_gives_those_spelled_most_alike():
    names = [f"board-{index}" for index in range(MOST)] + ["jetson-orin-nx"]
    sentence = listed("Jetson-Orin", names)
    assert sentence.startswith(f"the nearest of {MOST + 1}: jetson-orin-nx, ")
    assert sentence.count(",") == 5
