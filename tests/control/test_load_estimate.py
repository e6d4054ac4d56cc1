"""What a load may take: as measured, as other models' bytes say, or not known."""

from __future__ import annotations

import pytest

from agent.control.load_estimate import Estimate, Subject, estimate, sentence

NPU = Subject("npu/OpenVINO", "a", kept=False, size_bytes=10_000_000)


def test_a_load_that_was_done_before_takes_as_long_as_then():
    assert estimate(NPU, {NPU: 42.0}) == Estimate(42.0, "measured")


def test_what_was_kept_compiled_is_not_compared_with_a_first_load_where_both_are_known():
    kept = Subject(NPU.unit, NPU.file, kept=True, size_bytes=NPU.size_bytes)
    assert estimate(kept, {NPU: 42.0, kept: 3.0}) == Estimate(3.0, "measured")
    assert estimate(NPU, {NPU: 42.0, kept: 3.0}) == Estimate(42.0, "measured")
    assert estimate(kept, {NPU: 42.0}) == Estimate(42.0, "measured")


def test_other_models_on_the_same_unit_tell_by_their_bytes():
    others = {
        Subject(NPU.unit, "b", kept=False, size_bytes=1_000_000): 2.0,
        Subject(NPU.unit, "c", kept=True, size_bytes=1_000_000): 0.1,
        Subject("gpu/TensorRT", "d", kept=False, size_bytes=1_000_000): 90.0,
        Subject(NPU.unit, "e", kept=False, size_bytes=0): 7.0,
    }
    assert estimate(NPU, others) == Estimate(20.0, "modelled")
    assert estimate(Subject("cpu/x", "a", kept=False, size_bytes=1), others) == Estimate(None, "unknown")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (Estimate(40.0, "measured"), "npu has been loading m for 10 s, 25%; about 30 s to go (as measured last time)"),
        (Estimate(40.0, "modelled"), "about 30 s to go (modelled from other models' loads)"),
        (Estimate(8.0, "measured"), "longer than the 8 s expected"),
        (Estimate(None, "unknown"), "how long it takes is not known before it was done once"),
    ],
)
def test_progress_is_one_line(told, words):
    assert words in sentence("npu", "m", 10.0, told)
