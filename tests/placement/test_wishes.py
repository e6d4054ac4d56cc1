"""Limits as numbers that can be tightened and relaxed, whatever is chosen among."""

from __future__ import annotations

import pytest

from agent.placement.ranking import Option
from agent.placement.wishes import Setting, binds, bound, price, tightened
from agent.schema.policy import Objective, Weights

FAST, SLOW = Option("fast", 4.0, 1.0, 0.0), Option("slow", 1.0, 4.0, 0.0)
EQUAL = Objective(method="weights", weights=Weights(energy=1.0, latency=1.0, underutilisation=0.0))


def chooses(own: Option):
    return lambda pair: pair[0] is not None and pair[0].name == own.name


def cap(now: float | None, **changes) -> Setting:
    def choose(limit: float):
        return (FAST if limit >= 4.0 else SLOW if limit >= 1.0 else None), (SLOW if (now or 9.0) < 4.0 else FAST)

    return Setting("constraint", "cap", "W", now, **{"loosest": 8.0, "tightest": 1.0, "choose": choose, **changes})


def test_a_limit_that_is_not_set_is_tightened_from_where_it_binds_nothing():
    (flip,) = tightened(cap(None), chooses(FAST))
    assert (flip.now, flip.then) == (None, "slow")
    assert flip.at == pytest.approx(4.0, rel=0.01)


def test_a_limit_at_its_tightest_cannot_be_tightened():
    assert list(tightened(cap(1.0), chooses(SLOW))) == []


def test_a_limit_that_keeps_the_better_one_out_binds_with_its_smallest_relaxation():
    (found,) = binds(cap(2.0), chooses(SLOW))
    assert (found.limit, found.now, found.then, found.energy_j, found.latency_s) == ("cap", 2.0, "fast", 3.0, -3.0)
    assert found.least is not None
    assert found.least.at == pytest.approx(4.0, rel=0.02)
    assert list(binds(cap(5.0), chooses(FAST))) == []
    assert list(binds(cap(None), chooses(FAST))) == []


def test_joules_that_nobody_knows_are_no_price():
    unknown = Option("fast", None, 1.0, 0.0)
    assert bound("rule", "", None, (unknown, SLOW), None).energy_j is None
    with pytest.raises(ValueError, match="nobody to compare"):
        bound("rule", "", None, (None, SLOW), None)


def test_the_price_of_a_joule_is_asked_only_where_the_choice_has_one():
    free = Option("free", 0.0, 1.0, 0.0)
    assert list(price(EQUAL, free, [free, SLOW], chooses(free))) == []
    dent = Option("dent", 2.6, 2.6, 0.0)
    assert list(price(EQUAL, dent, [FAST, dent, SLOW], chooses(dent))) == []
    flips = list(price(EQUAL, FAST, [FAST, Option("slow", 3.0, 9.0, 0.0)], chooses(FAST)))
    assert [(f.kind, f.unit, f.then) for f in flips] == [("price", "s/J", "slow")]
    assert flips[0].now == pytest.approx(0.25)
    assert flips[0].at == pytest.approx(8.0, rel=0.01)
