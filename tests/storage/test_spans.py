"""Ranges of row numbers."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from agent.storage.spans import Spans


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60))))
def test_spans_hold_exactly_what_was_added_in_disjoint_sorted_ranges(pairs):
    spans, expected = Spans(), set()
    for low, high in pairs:
        spans.add(low, high)
        expected |= set(range(low, high + 1))
    assert {n for n in range(-1, 62) if n in spans} == expected
    found = list(spans)
    assert {n for low, high in found for n in range(low, high + 1)} == expected
    assert all(a[1] + 1 < b[0] for a, b in itertools.pairwise(found))
    assert len(spans) == len(found)
