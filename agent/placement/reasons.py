"""Reasons: why the whole model is served from this accelerator, what binds, and what would change that.

Every statement is made by choosing again (`agent.placement.flips`) among the same candidates with the same rule that
the agent itself serves by (`agent.placement.candidates.admit`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from agent.errors import PlacementError
from agent.placement import costing
from agent.placement.candidates import Candidate, Reasons, admit, candidates, options
from agent.placement.explain import recost
from agent.placement.flips import Flip, flip, nearest
from agent.placement.knobs import Knob, knobs
from agent.placement.limits import outward
from agent.placement.nearest_limit import nearest_limit
from agent.placement.ranking import Option
from agent.placement.state import State
from agent.placement.wishes import Binding, Pair, Setting, binds, bound, price, stated, tightened, tolerance, weights
from agent.records import record
from agent.schema.device import DeviceProfile
from agent.schema.policy import Objective, Policy
from agent.schema.workload import Workload

FACTOR = 2.0
"""Coefficients are changed up to this factor, up and down: beyond it, it is another board."""
MOST_COEFFICIENTS = 8
_MAX_TEMPERATURE_C = 110.0


@record(frozen=True)
class Why:
    """The choice among whole-model placements. `flips`: nearest first within each kind."""

    chosen: Option
    ranked: tuple[Option, ...]
    rejected: Reasons
    binding: tuple[Binding, ...]
    flips: tuple[Flip, ...]
    notes: tuple[str, ...]


class _Situation:
    """The candidates of one workload on one board, chosen among again and again."""

    def __init__(self, workload: Workload, profile: DeviceProfile, policy: Policy, state: State) -> None:
        self.workload, self.profile, self.policy, self.state = workload, profile, policy, state
        self.found, self.rejected = candidates(workload, profile, policy, state)
        self.ranked, refused = admit(self.found, profile, policy, state)
        self.rejected = self.rejected + refused
        if not self.ranked:
            enough = nearest_limit(self.found, profile, policy, state)
            told = [f"{name}: {why}" for name, why in self.rejected] + ([enough] if enough else [])
            raise PlacementError("; ".join(told), relaxation=enough)
        self.chosen = self.ranked[0].accelerator.name

    def same(self, pair: Pair) -> bool:
        return pair[0] is not None and pair[0].name == self.chosen

    def pick(self, found: Sequence[Candidate], profile: DeviceProfile, policy: Policy) -> Pair:
        ranked, _ = admit(found, profile, policy, self.state)
        stays = [o for o in options(found) if o.name == self.chosen]
        return (options(ranked[:1])[0] if ranked else None), (stays[0] if stays else None)

    def under(self, policy: Policy) -> Pair:
        """The choice under another policy whose rules admit the same candidates."""
        return self.pick(self.found, self.profile, policy)

    def wanting(self, objective: Objective) -> Pair:
        """The choice under another objective."""
        return self.under(self.policy.model_copy(update={"objective": objective}))

    def without_rules(self, policy: Policy) -> Pair:
        """The choice under another policy whose rules (forbidden, pinned) admit other candidates."""
        found, _ = candidates(self.workload, self.profile, policy, self.state)
        return self.pick(found, self.profile, policy)

    def turned(self, knob: Knob, factor: float) -> Pair:
        """The choice with one coefficient multiplied; only those it touches are costed anew."""
        profile = knob.scaled(self.profile, factor)
        found = [
            replace(c, cost=recost(self.workload, self.profile, c.accelerator, c.runtime, knob, factor, self._heat(c)))
            if c.accelerator.name in knob.touches else c
            for c in self.found
        ]  # fmt: skip
        return self.pick(found, profile, self.policy)

    def heated(self, name: str, temperature_c: float) -> Pair:
        """The choice with one accelerator at that junction temperature."""
        found = [
            replace(c, cost=costing.model_cost(self.workload, self.profile, c.accelerator, c.runtime, temperature_c))
            if c.accelerator.name == name else c
            for c in self.found
        ]  # fmt: skip
        return self.pick(found, self.profile, self.policy)

    def _heat(self, candidate: Candidate) -> float:
        return self.state.temperatures_c.get(candidate.accelerator.name, costing.REFERENCE_TEMPERATURE_C)


def why(workload: Workload, profile: DeviceProfile, policy: Policy, state: State | None = None) -> Why:
    """Why the agent serves the workload where it does. Raises PlacementError where it could not serve it at all."""
    situation = _Situation(workload, profile, policy, state or State())
    admitted, objective, same = options(situation.ranked), policy.objective, situation.same
    found = [
        *weights(objective, situation.wanting, same),
        *tolerance(objective, situation.wanting, same),
        *price(objective, admitted[0], admitted, same),
        *(made for setting in _settings(situation) for made in tightened(setting, same)),
        *_heat(situation),
    ]
    return Why(
        admitted[0], tuple(admitted), situation.rejected,
        tuple(_binding(situation)), (*found, *_coefficients(situation)), tuple(_notes(situation)),
    )  # fmt: skip


def _settings(situation: _Situation) -> Iterator[Setting]:
    policy, everyone = situation.policy, options(situation.found)
    powers = [o.energy_j / o.latency_s for o in everyone if o.energy_j is not None and o.latency_s]
    yield Setting(
        "constraint", "power_cap_w", "W", policy.power_cap_w, max([*powers, policy.power_cap_w or 0.0]) * 1.01 + 1e-9,
        min(powers, default=0.0), lambda value: situation.under(policy.model_copy(update={"power_cap_w": value})),
    )  # fmt: skip
    now_s = policy.admission.default_deadline_s

    def deadline(value: float) -> Pair:
        admission = policy.admission.model_copy(update={"default_deadline_s": value})
        return situation.under(policy.model_copy(update={"admission": admission}))

    loosest_s = max([*(o.latency_s for o in everyone), now_s]) * 1.01
    tightest_s = min(o.latency_s for o in everyone)
    yield Setting("constraint", "admission.default_deadline_s", "s", now_s, loosest_s, tightest_s, deadline)

    def room(value: float) -> Pair:
        memory = policy.memory.model_copy(update={"max_cpq": value})
        return situation.under(policy.model_copy(update={"memory": memory}))

    yield Setting("memory", "memory.max_cpq", "", policy.memory.max_cpq, 0.999, 0.0, room)


def _binding(situation: _Situation) -> Iterator[Binding]:
    for setting in _settings(situation):
        yield from binds(setting, situation.same)
    policy = situation.policy
    rules: list[tuple[str, Policy]] = []
    for rule in policy.forbidden:
        others = tuple(other for other in policy.forbidden if other != rule)
        name = f"forbidden: {rule.model} on {rule.accelerator}"
        rules.append((name, policy.model_copy(update={"forbidden": others})))
    if policy.pinned:
        pins = ", ".join(rule.accelerator for rule in policy.pinned)
        rules.append((f"pinned: {pins}", policy.model_copy(update={"pinned": ()})))
    for name, without in rules:
        lifted = situation.without_rules(without)
        if lifted[0] is not None and not situation.same(lifted):
            yield bound(name, "", None, lifted, None)


def _heat(situation: _Situation) -> Iterator[Flip]:
    candidate = situation.ranked[0]
    name = candidate.accelerator.name
    now = situation.state.temperatures_c.get(name, costing.REFERENCE_TEMPERATURE_C)
    if candidate.accelerator.leakage is None or now >= _MAX_TEMPERATURE_C:
        return
    turn = nearest(lambda value: situation.heated(name, value), situation.same, now, _MAX_TEMPERATURE_C)
    yield from stated("temperature", f"junction of {name}", "°C", now, turn)


def _coefficients(situation: _Situation) -> list[Flip]:
    """Nearest first. A coefficient that several accelerators share is turned once, for all."""
    found: dict[tuple[object, ...], Flip] = {}
    for candidate in situation.found:
        for knob in knobs(situation.workload, situation.profile, candidate.accelerator, candidate.runtime):
            owner = knob.touches[0] if len(knob.touches) == 1 else ", ".join(knob.touches)
            for limit in (1.0 / FACTOR, FACTOR):
                most = limit if knob.most is None else min(limit, knob.most / knob.quantity.value)
                key = (knob.place, knob.name, limit)
                if key in found or most == 1.0 or knob.quantity.value == 0.0:
                    continue

                def choose(factor: float, knob: Knob = knob) -> Pair:
                    return situation.turned(knob, factor)

                if situation.same(choose(most)):
                    continue
                turn = nearest(choose, situation.same, 1.0, most)
                if turn is not None:
                    value = knob.quantity.value
                    made = flip("coefficient", f"{owner}: {knob.name}", knob.unit, 1.0, turn)
                    found[key] = replace(
                        made, now=value, at=made.at * value, holds=made.holds * value, place=knob.place
                    )
    nearest_first = sorted(found.values(), key=lambda f: abs(f.relative or 0.0))
    return nearest_first[:MOST_COEFFICIENTS]


def _notes(situation: _Situation) -> Iterator[str]:
    admitted = options(situation.ranked)
    unknown = [o.name for o in admitted if o.energy_j is None]
    if unknown and len(admitted) > 1:
        yield f"joules on {', '.join(unknown)} are unknown, so energy did not count in the choice"
    late = [o.name for o in admitted if o.latency_s > situation.policy.admission.default_deadline_s]
    allowed_ms = 1e3 * situation.policy.admission.default_deadline_s
    if late and len(late) == len(admitted):
        fastest = min(admitted, key=lambda option: option.latency_s)
        yield (
            f"nothing keeps the default deadline of {allowed_ms:g} ms; {fastest.name} would with "
            f"{outward(1e3 * fastest.latency_s, 4):g} ms"
        )
    elif late:
        yield f"{', '.join(late)} would miss the default deadline of {allowed_ms:g} ms and stand behind the others"
