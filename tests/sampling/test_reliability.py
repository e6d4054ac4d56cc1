"""What is learnt of a source's reliability, and when an accelerator counts as sick."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sampling.reliability import Reliabilities, Reliability, Source, Vote

CPU = Source("smol", "arithmetic", "int8", "cpu")
NPU = Source("smol", "arithmetic", "int8", "npu")
OTHER = Source("smol", "arithmetic", "fp16", "npu")


@given(st.lists(st.floats(0, 1), max_size=60))
def test_reliability_stays_a_probability_and_rises_with_a_right_answer(shares):
    reliability = Reliability()
    for share in shares:
        reliability = reliability.after(share)
    assert 0 < reliability.mean < 1
    assert reliability.variance > 0
    assert reliability.after(1.0).mean > reliability.after(0.0).mean


def test_a_share_beyond_one_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        Reliability().after(1.5)


def test_old_evidence_fades():
    reliability = Reliability()
    for _ in range(400):
        reliability = reliability.after(1.0)
    for _ in range(40):
        reliability = reliability.after(0.0)
    assert reliability.mean < 0.5


def test_a_source_learns_from_its_own_votes_only():
    votes = [Vote(CPU, "4"), Vote(CPU, "5"), Vote(NPU, "4")]
    learnt = Reliabilities().learnt(votes, "4")
    assert learnt.of(CPU) == Reliability(0.5, 0.5)
    assert learnt.of(NPU) == Reliability(1.0, 0.0)
    assert learnt.of(OTHER) == Reliability()


def test_only_the_accelerator_may_differ_between_siblings():
    assert CPU.sibling(NPU)
    assert not CPU.sibling(CPU)
    assert not CPU.sibling(OTHER)


def test_an_accelerator_worse_than_its_sibling_is_sick_and_one_without_a_sibling_is_not():
    healthy, broken = Reliability(30.0, 3.0), Reliability(6.0, 20.0)
    assert Reliabilities({CPU: healthy, NPU: broken}).sick() == (NPU,)
    assert Reliabilities({CPU: healthy, OTHER: broken}).sick() == ()
    assert Reliabilities({CPU: healthy, NPU: Reliability(3.0, 1.0)}).sick() == ()
