"""Why a whole model is served where it is: every statement holds when the agent's own rule is asked again."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import PlacementError
from agent.placement.candidates import candidates, whole_models
from agent.placement.knobs import knobs
from agent.placement.reasons import why
from agent.placement.state import State
from agent.schema.device import DeviceProfile
from agent.schema.policy import Objective, Policy, Rule, Weights
from agent.schema.workload import Workload
from tests.placement.test_costing import board, load, quantity, stage, unit
from tests.service.world import POLICY

LEAKAGE = {"power_w": quantity(0.5), "activation_energy_ev": quantity(0.3)}


def random_board(seed: int, count: int) -> DeviceProfile:
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        share, joules, peak, watts = rng.uniform(0.1, 0.9), *np.exp(rng.normal([-25.0, 23.0, 0.5], 0.7)).tolist()
        runtime = {
            "backend": "onnx", "provider": "P", "bandwidth_efficiency": quantity(rng.uniform(0.2, 0.9)),
            "dispatch_overhead_s": quantity(rng.uniform(1e-4, 2e-3)),
            "compute_efficiency": [{"family": "gemm", "precision": "fp32", "share": quantity(share)}],
        }  # fmt: skip
        made.append(
            unit(f"a{index}", runtimes=[runtime], peak_flops_per_s={"fp32": quantity(peak)},
                 energy_j_per_flop={"fp32": quantity(joules)}, base_power_w=quantity(watts),
                 **({"leakage": LEAKAGE} if index else {}))
        )  # fmt: skip
    return board(*made)


def wanting(objective: Objective, **changes) -> Policy:
    return POLICY.model_copy(update={"objective": objective, **changes})


def weights(energy: float, latency: float, unused: float = 0.1) -> Objective:
    return Objective(method="weights", weights=Weights(energy=energy, latency=latency, underutilisation=unused))


def test_where_no_placement_keeps_a_limit_the_smallest_change_that_admits_one_is_named_and_admits_it():
    profile = random_board(3, 3)
    with pytest.raises(PlacementError) as caught:
        why(MODEL, profile, wanting(weights(1.0, 1.0), power_cap_w=1e-3), State())
    watts, name = re.search(r"power_cap_w of ([0-9.]+) W would admit (a\d)$", caught.value.message).groups()
    assert why(MODEL, profile, wanting(weights(1.0, 1.0), power_cap_w=float(watts)), State()).chosen.name == name
    with pytest.raises(PlacementError):
        why(MODEL, profile, wanting(weights(1.0, 1.0), power_cap_w=0.999 * float(watts)), State())


def test_a_model_too_large_for_the_board_says_how_much_more_memory_would_do():
    with pytest.raises(PlacementError, match=r"GB more of ram would admit a0$"):
        why(load(stage(weight=1e12)), random_board(3, 1), POLICY, State())


def test_a_deadline_that_nothing_keeps_is_said_with_what_would():
    slow = POLICY.admission.model_copy(update={"default_deadline_s": 1e-9})
    notes = why(MODEL, random_board(3, 2), wanting(weights(1.0, 1.0), admission=slow), State()).notes
    assert any("nothing keeps the default deadline of 1e-06 ms; a" in note for note in notes)


OBJECTIVES = st.one_of(
    st.tuples(st.floats(0.2, 3.0), st.floats(0.2, 3.0), st.floats(0.0, 1.0)).map(lambda w: weights(*w)),
    st.just(Objective(method="knee")),
    st.sampled_from([("energy", "latency"), ("latency", "energy"), ("energy",)]).map(
        lambda order: Objective(method="lexicographic", order=order, tolerance=0.05)
    ),
)
MODEL = load(stage(), stage(flops=1e6, weight=2e7))


def served(workload: Workload, profile: DeviceProfile, policy: Policy, state: State | None = None) -> str | None:
    found, _ = whole_models(workload, profile, policy, state)
    return found[0].accelerator.name if found else None


def asked_again(flip, value: float, profile: DeviceProfile, policy: Policy) -> str | None:
    """Who is served with the number that a flip is about at `value`, by the way the agent takes."""
    objective = policy.objective
    if flip.kind == "price":
        found, _ = whole_models(MODEL, profile, policy)
        return min(found, key=lambda c: c.cost.energy_j * value + c.cost.time_s).accelerator.name
    if flip.kind == "temperature":
        name = flip.what.removeprefix("junction of ")
        return served(MODEL, profile, policy, State(temperatures_c={name: value}))
    if flip.kind == "coefficient":
        return served(MODEL, turned(flip, value, profile, policy), policy)
    part, _, key = flip.what.rpartition(".")
    if flip.kind == "weight":
        made = {"weights": Weights(**{**objective.weights.model_dump(), key: value})}
        changes = {"objective": objective.model_copy(update=made)}
    else:
        changes = {part: getattr(policy, part).model_copy(update={key: value})} if part else {key: value}
    return served(MODEL, profile, policy.model_copy(update=changes))


def turned(flip, value: float, profile: DeviceProfile, policy: Policy) -> DeviceProfile:
    for candidate in candidates(MODEL, profile, policy)[0]:
        for knob in knobs(MODEL, profile, candidate.accelerator, candidate.runtime):
            if knob.place == flip.place:
                return knob.scaled(profile, value / knob.quantity.value)
    raise AssertionError(flip)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), OBJECTIVES, st.sampled_from([None, 1.5, 3.0]))
def test_every_stated_flip_changes_the_choice_and_nine_tenths_of_it_does_not(seed, count, objective, cap_w):
    profile, policy = random_board(seed, count), wanting(objective, power_cap_w=cap_w)
    now = served(MODEL, profile, policy)
    if now is None:
        with pytest.raises(PlacementError, match="power_cap_w allows"):
            why(MODEL, profile, policy)
        return
    reasons = why(MODEL, profile, policy)
    assert reasons.chosen.name == now
    least = [b.least for b in reasons.binding if b.least is not None]
    for flip in (*reasons.flips, *least):
        assert asked_again(flip, flip.at, profile, policy) == flip.then != now, flip
        assert asked_again(flip, flip.holds, profile, policy) == now, flip
        if flip.now is not None:
            assert flip.holds - flip.now == pytest.approx(0.9 * (flip.at - flip.now))
    for bound in reasons.binding:
        lifted = policy.model_copy(update={"power_cap_w": None})
        assert (bound.limit, bound.then) == ("power_cap_w", served(MODEL, profile, lifted))


FAST = unit("fast", base_power_w=quantity(20.0), peak_flops_per_s={"fp32": quantity(1e11)})
FRUGAL = unit("frugal", base_power_w=quantity(0.2))
PAIR = board(FAST, FRUGAL)


def test_the_next_watt_and_what_it_saves():
    policy = wanting(weights(0.0, 1.0, 0.0), power_cap_w=3.0)
    reasons = why(MODEL, PAIR, policy)
    (bound,) = reasons.binding
    assert (reasons.chosen.name, bound.limit, bound.then) == ("frugal", "power_cap_w", "fast")
    costs = {c.accelerator.name: c.cost for c in candidates(MODEL, PAIR, policy)[0]}
    fast = costs["fast"]
    assert bound.latency_s == pytest.approx(fast.time_s - costs["frugal"].time_s)
    assert bound.energy_j == pytest.approx(fast.energy_j - costs["frugal"].energy_j)
    assert bound.least is not None
    assert bound.least.at == pytest.approx(fast.energy_j / fast.time_s, rel=0.02)
    assert dict(reasons.rejected)["fast"].startswith("draws")


def test_a_rule_that_keeps_the_better_one_away_binds():
    fastest = weights(0.0, 1.0, 0.0)
    kept_off = why(MODEL, PAIR, wanting(fastest, forbidden=(Rule(model="*", accelerator="fast"),)))
    assert [(b.limit, b.then, b.least) for b in kept_off.binding] == [("forbidden: * on fast", "fast", None)]
    pinned = why(MODEL, PAIR, wanting(fastest, pinned=(Rule(model="m", accelerator="frugal"),)))
    assert [(b.limit, b.then) for b in pinned.binding] == [("pinned: frugal", "fast")]
    for idle in ({"forbidden": (Rule(model="*", accelerator="frugal"),)},
                 {"pinned": (Rule(model="*", accelerator="fast"),)}):  # fmt: skip
        assert why(MODEL, PAIR, wanting(fastest, **idle)).binding == ()


def test_memory_that_is_short_binds_and_says_how_much_more_would_do():
    # The fast one has a memory of its own that others fill.
    profile = board({**FAST, "memory_domain": "own"}, FRUGAL, domains=("ram", "own"))
    policy, state = wanting(weights(0.0, 1.0, 0.0)), State(free_bytes={"own": 1.1e8})
    reasons = why(MODEL, profile, policy, state)
    (bound,) = reasons.binding
    assert (reasons.chosen.name, bound.limit, bound.then) == ("frugal", "memory.max_cpq", "fast")
    assert bound.least is not None
    for value, name in ((bound.least.at, "fast"), (bound.least.holds, "frugal")):
        memory = policy.memory.model_copy(update={"max_cpq": value})
        assert served(MODEL, profile, policy.model_copy(update={"memory": memory}), state) == name


def test_a_deadline_that_only_the_other_keeps_flips_the_choice():
    reasons = why(MODEL, PAIR, wanting(weights(1.0, 0.0, 0.0)))
    by_what = {f.what: f for f in reasons.flips}
    assert reasons.chosen.name == "frugal"
    assert by_what["admission.default_deadline_s"].then == "fast"
    between_s = by_what["admission.default_deadline_s"].at
    admission = POLICY.admission.model_copy(update={"default_deadline_s": between_s})
    late = why(MODEL, PAIR, wanting(weights(1.0, 0.0, 0.0), admission=admission))
    assert late.chosen.name == "fast"
    assert late.notes[0].startswith("frugal would miss the default deadline of ")
    assert [(b.limit, b.then) for b in late.binding] == [("admission.default_deadline_s", "frugal")]


def test_heat_changes_the_choice_where_leakage_does():
    leaky = board(unit("a", leakage={"power_w": quantity(0.4), "activation_energy_ev": quantity(0.4)}),
                  unit("b", base_power_w=quantity(4.0)))  # fmt: skip
    policy = wanting(weights(1.0, 1.0, 0.0))
    flips = {f.kind: f for f in why(MODEL, leaky, policy).flips}
    assert (flips["temperature"].what, flips["temperature"].then) == ("junction of a", "b")
    hot = State(temperatures_c={"a": 120.0})
    assert all(f.kind != "temperature" for f in why(MODEL, leaky, policy, hot).flips)


def test_joules_that_nobody_knows_do_not_count_and_that_is_said():
    unknown = board(unit("a"), unit("b", energy_j_per_flop={}))
    reasons = why(MODEL, unknown, wanting(weights(1.0, 1.0)))
    assert reasons.notes == ("joules on b are unknown, so energy did not count in the choice",)


def test_who_cannot_be_served_at_all_is_told_why():
    with pytest.raises(PlacementError, match="fast: forbidden by the policy"):
        why(
            MODEL,
            PAIR,
            wanting(weights(1, 1), forbidden=tuple(Rule(model="*", accelerator=n) for n in ("fast", "frugal"))),
        )
