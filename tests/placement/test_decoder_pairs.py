from __future__ import annotations

import pytest

from agent.errors import PlacementError
from agent.placement.decoder_pairs import Cost, PhaseCosts, Request, pick, ways
from agent.schema.policy import Objective, Weights

EVEN = Objective(method="weights", weights=Weights(energy=1.0, latency=1.0, underutilisation=0.1))
FAST = Objective(method="lexicographic", order=("latency", "energy"))
REQUEST = Request(prompt_tokens=100, written_tokens=10, layers=8, kv_bytes=1e6, crossing_bytes=1e3)
SHARED = (0.0, 1e-5, 0.0)
BIG = PhaseCosts(Cost(1.0, 10.0), Cost(0.1, 2.0))
LITTLE = PhaseCosts(Cost(4.0, 12.0), Cost(0.1, 0.5))
"""As a small cluster: slow at prompts, as fast as any where memory is the limit, for a quarter of the joules."""


def made(costs, request=REQUEST, link=SHARED):
    return ways(costs, request, lambda _a, _b: link)


def named(found, name):
    return next(way for way in found if way.name == name)


def test_prefill_and_decode_are_priced_each_where_it_is_computed():
    pair = named(made({"big": BIG, "little": LITTLE}), "big>little")
    assert pair.cost.energy_j == pytest.approx(10.0 + 10 * 0.5)
    assert pair.cost.time_s == pytest.approx(1.0 + 10 * 0.1 + 1e-5)
    assert (pair.first, pair.second, pair.layers) == ("little", "big", None)


def test_what_a_prompt_leaves_is_priced_when_it_is_handed_over():
    pair = named(made({"big": BIG, "little": LITTLE}, link=(1e-6, 0.5, 1e-6)), "big>little")
    assert pair.handed == Cost(1e6 * 1e-6 + 0.5, 1e6 * 1e-6)
    assert pair.cost.time_s == pytest.approx(2.0 + 1.5)


def test_a_cut_of_layers_is_crossed_at_every_step():
    cut = named(made({"big": BIG, "little": LITTLE}, link=(0.0, 1e-3, 0.0)), "little:4+big")
    assert cut.handed.time_s == pytest.approx(11e-3)
    assert cut.cost.time_s == pytest.approx((2.0 + 5.0) / 2 + 11e-3)


def test_a_model_of_one_layer_is_not_cut():
    single = Request(100, 10, 1, 1e6, 1e3)
    assert [way.name for way in made({"a": BIG, "b": LITTLE}, single)] == ["a", "b", "b>a", "a>b"]


def test_a_pair_that_saves_is_chosen_with_what_it_saves():
    chosen = pick(made({"big": BIG, "little": LITTLE}), "big", EVEN)
    assert chosen.way.name == "big>little"
    assert "big computes the prompts, little writes: 0.50 of the joules and 1.00 of the time" in chosen.why
    assert chosen.ways[0] is chosen.way
    assert len(chosen.ways) == 10


def test_an_accelerator_that_is_to_write_keeps_writing():
    assert pick(made({"big": BIG, "little": LITTLE}), "big", EVEN, fixed=True).way.name == "big"


def test_layers_are_divided_where_no_other_way_keeps_the_cap_as_fast():
    costs = {
        "big": PhaseCosts(Cost(1.0, 40.0), Cost(0.1, 4.0)), "little": PhaseCosts(Cost(9.0, 9.0), Cost(0.9, 0.9)),
    }  # fmt: skip
    found = [way for way in made(costs) if way.second is None or way.layers]
    chosen = pick(found, "big", FAST, power_cap_w=10.0)
    assert chosen.way.layers is not None
    assert f"the first {chosen.way.layers} layers, " in chosen.why


@pytest.mark.parametrize(
    ("costs", "link", "says"),
    [
        ({"big": BIG}, SHARED, "no pair of accelerators is better than it"),
        ({"big": BIG, "little": BIG}, SHARED, "no pair of accelerators is better than it"),
        ({"big": BIG, "little": LITTLE}, (0.0, 60.0, 0.0), "big alone: no pair of accelerators is better than"),
        (
            {"big": BIG, "little": PhaseCosts(LITTLE.prefill, Cost(0.1, 1.9))}, SHARED,
            "less than 5% better does not pay",
        ),
        (
            {"big": PhaseCosts(Cost(1.0, 30.0), BIG.decode), "little": PhaseCosts(Cost(1.0, 2.0), Cost(0.1, 0.1))},
            SHARED, "better than little alone",
        ),
    ],
)  # fmt: skip
def test_a_pair_that_does_not_pay_is_not_chosen(costs, link, says):
    chosen = pick(made(costs, link=link), "big", EVEN)
    assert chosen.way.name == "big"
    assert says in chosen.why


def test_a_pair_slower_than_the_tolerance_is_not_chosen_for_speed():
    assert (
        pick(made({"big": BIG, "little": PhaseCosts(LITTLE.prefill, Cost(0.11, 0.1))}), "big", FAST).way.name == "big"
    )


def test_where_nothing_keeps_the_power_cap_one_accelerator_serves():
    chosen = pick(made({"big": BIG, "little": LITTLE}), "big", EVEN, power_cap_w=0.1)
    assert (chosen.way.name, "power cap" in chosen.why) == ("big", True)


def test_an_accelerator_of_which_nothing_is_known_is_refused():
    with pytest.raises(PlacementError, match="nothing is known of what none takes"):
        pick(made({"big": BIG}), "none", EVEN)
