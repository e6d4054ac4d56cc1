"""Variants of a model: which may serve by the policy's floor, and which is best on each accelerator."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.placement.candidates import Candidate, whole_models
from agent.placement.variants import below_floor, best_per_accelerator
from tests.placement.test_candidates import BOARD
from tests.placement.test_costing import load
from tests.service.world import POLICY

QUALITIES = st.none() | st.floats(0, 1)


@given(st.dictionaries(st.sampled_from(["int8", "int4", "fp16"]), QUALITIES), QUALITIES, st.floats(0, 1))
def test_only_variants_within_the_floor_of_the_best_serve_and_the_model_file_always_may(variants, own, floor):
    qualities = {"": own, **variants}
    refused = below_floor(qualities, floor)
    best = max((q for q in qualities.values() if q is not None), default=0.0)

    assert "" not in refused
    for name, quality in variants.items():
        known = quality is not None and own is not None
        assert (name in refused) == (floor > 0 and (not known or quality < floor * best))


def test_a_refusal_says_the_share_and_the_key():
    refused = below_floor({"": 0.8, "int8": 0.6, "int4": None}, 0.99)
    assert refused["int8"] == "has 75.00% of the best variant's quality (quality_floor asks for 99.00%)"
    assert "give both their `quality`" in refused["int4"]
    assert below_floor({"": 0.8, "int8": None}, 0) == {}


def scaled(candidates: list[Candidate], time: float, energy: float | None = None) -> list[Candidate]:
    """The same placements, that much slower and (where given) costlier."""
    return [
        dataclasses.replace(
            c,
            cost=dataclasses.replace(
                c.cost, time_s=c.cost.time_s * time,
                switching_j=None if energy is None or c.cost.switching_j is None else c.cost.switching_j * energy,
                static_w=None if energy is None else c.cost.static_w,
            ),
        )
        for c in candidates
    ]  # fmt: skip


@pytest.fixture
def whole():
    return whole_models(load(), BOARD, POLICY)[0]


def test_each_accelerator_gets_the_variant_that_is_best_there(whole):
    gpu, npu = sorted(whole, key=lambda c: c.accelerator.name)
    quicker = scaled([gpu], 0.5, 0.5)
    chosen = best_per_accelerator({"": [gpu, npu], "int8": [*quicker, *scaled([npu], 2.0, 2.0)]}, POLICY)
    assert {c.accelerator.name: name for name, c in chosen} == {"gpu": "int8", "npu": ""}
    assert chosen[0][1] is quicker[0]


def test_a_variant_for_one_accelerator_alone_takes_nothing_from_the_others(whole):
    gpu, npu = sorted(whole, key=lambda c: c.accelerator.name)
    assert {n for n, _ in best_per_accelerator({"": [npu], "int8": [gpu]}, POLICY)} == {"", "int8"}
    assert best_per_accelerator({"": [], "int8": []}, POLICY) == []


@pytest.mark.parametrize(("slower", "energy", "stays"), [(1.01, 1.0, True), (1.2, 1.2, False), (1.01, None, True)])
def test_what_an_accelerator_holds_stays_while_hardly_anything_is_gained(whole, slower, energy, stays):
    gpu = [c for c in whole if c.accelerator.name == "gpu"]
    found = {"": scaled(gpu, slower, energy), "int8": gpu if energy else scaled(gpu, 1.0)}
    (chosen,) = best_per_accelerator(found, POLICY, {"gpu": ""})
    assert (chosen[0] == "") == stays
    (fresh,) = best_per_accelerator(found, POLICY)
    assert fresh[0] == "int8"
